# serve_app for AMD's GPUs. Build from the repository's root, naming the indexes of PyTorch's and vLLM's wheels for ROCm:
#   docker build -f rayservice/images/rocm.Dockerfile -t serve-app:0.1.0-rocm \
#     --build-arg TORCH_INDEX=<PyTorch's index for ROCm> --build-arg VLLM_INDEX=<vLLM's index for ROCm> .
# The pods' user must be in the groups that own /dev/kfd and /dev/dri: see `groups` of a pool.
# Ray wants the same Python and Ray in all pods: change them in all four files.
FROM python:3.11-slim-bookworm

# bash and wget: KubeRay's probes run `bash -c "wget ..."` in the container. gcc: Triton compiles kernels when a model loads.
# hadolint ignore=DL3008  # the distribution's security fixes are wanted, not one version of them
RUN apt-get update \
    && apt-get install --yes --no-install-recommends bash ca-certificates gcc libc6-dev libdrm2 libnuma1 wget \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/serve_app

COPY requirements/gpu.txt requirements/gpu.txt
RUN pip install --no-cache-dir --no-deps --require-hashes -r requirements/gpu.txt
# The same versions, built for ROCm, take the place of those for CUDA.
ARG TORCH_INDEX
ARG VLLM_INDEX
RUN pip install --no-cache-dir --no-deps --force-reinstall --index-url "${TORCH_INDEX:?}" torch==2.13.0 torchaudio==2.11.0 \
    && pip install --no-cache-dir --no-deps --force-reinstall --index-url "${VLLM_INDEX:?}" vllm==0.32.0
COPY pyproject.toml README.md LICENSE ./
COPY serve_app serve_app
COPY deployments deployments
COPY rayservice rayservice
RUN pip install --no-cache-dir --no-deps --no-build-isolation . \
    && useradd --uid 1000 --create-home serve

USER 1000
WORKDIR /home/serve
