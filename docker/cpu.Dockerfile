# syntax=docker/dockerfile:1
# LiveAct Serve without a GPU: Ray's head, workers that run the Gateway, the Vault and small models, `helm test`.
# Both images take Python from the same base: Ray refuses nodes whose Python differs, down to the patch level.
ARG PYTHON=3.11.14-slim-bookworm

FROM python:${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /src
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
COPY constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --require-virtualenv -c constraints.txt --extra-index-url https://download.pytorch.org/whl/cpu "torch==2.13.0+cpu"
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --require-virtualenv -c constraints.txt ".[cluster]" && liveact --help > /dev/null

# `make sbom`: what is inside, as CycloneDX.
FROM build AS sbom-made
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv /opt/sbom && /opt/sbom/bin/pip install "cyclonedx-bom==7.5.0" \
    && /opt/sbom/bin/cyclonedx-py environment --output-reproducible -o /liveact-serve-cpu.cdx.json /opt/venv/bin/python

FROM scratch AS sbom
COPY --from=sbom-made /liveact-serve-cpu.cdx.json /

FROM python:${PYTHON} AS image
# wget: KubeRay's probes are commands that call it. Debian removes old versions from its mirrors, so that a pin breaks builds.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /bin/bash liveact
COPY --from=build /opt/venv /opt/venv
COPY examples /opt/liveact/examples
ENV PATH=/opt/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp RAY_USAGE_STATS_ENABLED=0
WORKDIR /opt/liveact
USER 10001:10001
EXPOSE 8000 9000
LABEL org.opencontainers.image.title="liveact-serve-cpu" org.opencontainers.image.licenses="Apache-2.0"
CMD ["liveact", "serve", "--host", "0.0.0.0", "--data-dir", "/tmp/liveact"]
