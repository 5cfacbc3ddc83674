# The image of mobula-proxy; docs/container.md tells how to build and run it.
ARG BASE=debian:trixie-slim

# One Python for all stages: the one that wheels are chosen for is the one that runs them.
FROM ${BASE} AS python
# A version pinned here would be gone from Debian once a safer one is there.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/*

FROM python AS build
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-pip \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY requirements.txt ./
# Everything that comes from elsewhere, with the build backend; what follows needs no network.
RUN pip download --require-hashes --only-binary :all: --dest wheels --requirement requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY proxy proxy
# What is installed has its version from the one wheel of it that lies there. Bytecode that is taken
# as it is, whatever copies do to the times of files: who runs the image cannot write it anew.
# hadolint ignore=DL3013
RUN pip wheel --no-index --find-links wheels --no-deps --wheel-dir wheels . \
    && python3 -m venv --without-pip /opt/mobula-proxy \
    && pip --python /opt/mobula-proxy/bin/python install --no-cache-dir --no-compile \
        --no-index --find-links wheels 'mobula-proxy[redis]' \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/mobula-proxy/lib

FROM python
# For a volume: user 65532 may write here, and so may any other, whose group is 0 in OpenShift.
RUN install --directory --owner 65532 --group 0 --mode 0770 /state
COPY --from=build /opt/mobula-proxy /opt/mobula-proxy
ENV PATH=/opt/mobula-proxy/bin:$PATH \
    XDG_STATE_HOME=/state
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="mobula-proxy" \
    org.opencontainers.image.description="Sidecar reverse proxy that gives every Mobula API call a current short-lived token" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
USER 65532:65532
STOPSIGNAL SIGTERM
ENTRYPOINT ["mobula-proxy"]
CMD ["serve"]
