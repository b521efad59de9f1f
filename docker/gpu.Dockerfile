# syntax=docker/dockerfile:1
# LiveAct Serve for NVIDIA Hopper GPUs: torch for CUDA 13, flash-attn and transformer-engine built for sm_90.
# Both images take Python from the same base: Ray refuses nodes whose Python differs, down to the patch level.
ARG PYTHON=3.11.14-slim-bookworm
ARG CUDA=13.0.1

FROM python:${PYTHON} AS python

FROM nvidia/cuda:${CUDA}-cudnn-devel-ubuntu24.04 AS build
ARG MAX_JOBS=8
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1 DEBIAN_FRONTEND=noninteractive
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# Libraries that the copied Python links to, and compilers. Ubuntu's are newer than its own, so its symbols are all there.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends build-essential git libbz2-1.0 libffi8 liblzma5 libsqlite3-0 libssl3t64 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=python /usr/local /usr/local
RUN ldconfig && python3.11 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /src
COPY constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --require-virtualenv -c constraints.txt --extra-index-url https://download.pytorch.org/whl/cu130 "torch==2.13.0+cu130" \
    && pip install --require-virtualenv "setuptools==80.9.0" "wheel==0.45.1" "ninja==1.13.0" "packaging==26.3" "pybind11==3.0.1"
# Compiled against that torch, for Hopper alone: every further architecture makes it longer and larger. Layers of their own: an hour.
# hadolint ignore=DL3059
RUN --mount=type=cache,target=/root/.cache/pip \
    FLASH_ATTENTION_FORCE_BUILD=TRUE FLASH_ATTN_CUDA_ARCHS=90 MAX_JOBS=${MAX_JOBS} \
    pip install --require-virtualenv -c constraints.txt --no-build-isolation --no-binary flash-attn "flash-attn==2.8.3.post2"
# hadolint ignore=DL3059
RUN --mount=type=cache,target=/root/.cache/pip \
    NVTE_FRAMEWORK=pytorch NVTE_CUDA_ARCHS=90 MAX_JOBS=${MAX_JOBS} \
    pip install --require-virtualenv -c constraints.txt --no-build-isolation \
    --no-binary transformer-engine-torch "transformer-engine[pytorch,core_cu13]==2.20.2"
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --require-virtualenv -c constraints.txt ".[cluster]" \
    && pip uninstall --yes wheel ninja pybind11 && liveact --help > /dev/null

# `make sbom`: what is inside, as CycloneDX.
FROM build AS sbom-made
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv /opt/sbom && /opt/sbom/bin/pip install "cyclonedx-bom==7.5.0" \
    && /opt/sbom/bin/cyclonedx-py environment --output-reproducible -o /liveact-serve-gpu.cdx.json /opt/venv/bin/python

FROM scratch AS sbom
COPY --from=sbom-made /liveact-serve-gpu.cdx.json /

# The CUDA libraries come with torch's wheels; the base brings what the container runtime looks for.
FROM nvidia/cuda:${CUDA}-base-ubuntu24.04 AS image
ENV DEBIAN_FRONTEND=noninteractive
# wget: KubeRay's probes are commands that call it. gcc: Triton compiles its launchers with it.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
       ca-certificates gcc libbz2-1.0 libc6-dev libffi8 liblzma5 libsqlite3-0 libssl3t64 wget \
    && rm -rf /var/lib/apt/lists/* \
    && userdel --remove ubuntu \
    && useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /bin/bash liveact
COPY --from=python /usr/local /usr/local
COPY --from=build /opt/venv /opt/venv
COPY examples /opt/liveact/examples
RUN ldconfig
# video: NVENC.
ENV PATH=/opt/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp RAY_USAGE_STATS_ENABLED=0 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,video
WORKDIR /opt/liveact
USER 10001:10001
EXPOSE 8000 9000
LABEL org.opencontainers.image.title="liveact-serve-gpu" org.opencontainers.image.licenses="Apache-2.0"
CMD ["liveact", "serve", "--host", "0.0.0.0", "--data-dir", "/tmp/liveact"]
