# serve_app without a GPU, and for the head of every cluster. Build from the repository's root:
#   docker build -f rayservice/images/cpu.Dockerfile -t serve-app:0.1.0-cpu .
# Ray wants the same Python and Ray in all pods: change them in all four files.
FROM python:3.11-slim-bookworm

# bash and wget: KubeRay's probes run `bash -c "wget ..."` in the container.
# hadolint ignore=DL3008  # the distribution's security fixes are wanted, not one version of them
RUN apt-get update \
    && apt-get install --yes --no-install-recommends bash ca-certificates wget \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/serve_app

COPY requirements/serve.txt requirements/serve.txt
RUN pip install --no-cache-dir --no-deps --require-hashes -r requirements/serve.txt
COPY pyproject.toml README.md LICENSE ./
COPY serve_app serve_app
COPY deployments deployments
COPY rayservice rayservice
RUN pip install --no-cache-dir --no-deps --no-build-isolation . \
    && useradd --uid 1000 --create-home serve

USER 1000
WORKDIR /home/serve
