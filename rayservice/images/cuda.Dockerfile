# serve_app for NVIDIA's GPUs. Build from the repository's root:
#   docker build -f rayservice/images/cuda.Dockerfile -t serve-app:0.1.0-cuda .
# CUDA's libraries come with the wheels; the driver is the node's, put in by NVIDIA's container runtime.
# Ray wants the same Python and Ray in all pods: change them in all four files.
FROM python:3.11-slim-bookworm

# bash and wget: KubeRay's probes run `bash -c "wget ..."` in the container. gcc: Triton compiles kernels when a model loads.
# hadolint ignore=DL3008  # the distribution's security fixes are wanted, not one version of them
RUN apt-get update \
    && apt-get install --yes --no-install-recommends bash ca-certificates gcc libc6-dev wget \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/serve_app

COPY requirements/gpu.txt requirements/gpu.txt
RUN pip install --no-cache-dir --no-deps --require-hashes -r requirements/gpu.txt
# CTranslate2 (faster-whisper) is built for CUDA 12, all else for 13; and it looks where the linker does, not in wheels.
RUN pip install --no-cache-dir --no-deps nvidia-cublas-cu12==12.9.3.13 \
    && find /usr/local/lib/python3.11/site-packages/nvidia -type d -name lib > /etc/ld.so.conf.d/nvidia-wheels.conf \
    && ldconfig
COPY pyproject.toml README.md LICENSE ./
COPY serve_app serve_app
COPY deployments deployments
COPY rayservice rayservice
RUN pip install --no-cache-dir --no-deps --no-build-isolation . \
    && useradd --uid 1000 --create-home serve

USER 1000
WORKDIR /home/serve
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
