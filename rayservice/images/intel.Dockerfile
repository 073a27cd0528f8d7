# serve_app for Intel's GPUs (Arc, by i915 or xe). Build from the repository's root, naming the index of PyTorch's wheels
# for XPU:
#   docker build -f rayservice/images/intel.Dockerfile -t serve-app:0.1.0-intel \
#     --build-arg TORCH_INDEX=<PyTorch's index for XPU> .
# Models say `options: {device: xpu}`. The pods' user must be in the group that owns /dev/dri: see `groups` of a pool.
# Ray wants the same Python and Ray in all pods: change them in all four files.
FROM python:3.11-slim-bookworm

# bash and wget: KubeRay's probes run `bash -c "wget ..."` in the container. intel-opencl-icd, libze1: the user's half of the driver.
# hadolint ignore=DL3008  # the distribution's security fixes are wanted, not one version of them
RUN apt-get update \
    && apt-get install --yes --no-install-recommends bash ca-certificates gcc intel-opencl-icd libc6-dev libze1 wget \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/serve_app

COPY requirements/serve.txt requirements/serve.txt
RUN pip install --no-cache-dir --no-deps --require-hashes -r requirements/serve.txt
# The same version, built for XPU with what it needs, takes the place of the one for CUDA.
ARG TORCH_INDEX
RUN pip install --no-cache-dir --force-reinstall --index-url "${TORCH_INDEX:?}" torch==2.13.0
COPY pyproject.toml README.md LICENSE ./
COPY serve_app serve_app
COPY deployments deployments
COPY rayservice rayservice
RUN pip install --no-cache-dir --no-deps --no-build-isolation . \
    && useradd --uid 1000 --create-home serve

USER 1000
WORKDIR /home/serve
