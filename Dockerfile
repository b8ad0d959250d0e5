# The interpreter, which brings Debian: `--build-arg PYTHON_IMAGE=...` takes any other with apt and `python3 -m venv`.
# It is held by its tag, so that a build has the base's latest security fixes. Where a build must not change under you,
# hold it by digest too: docker.io/library/python:3.13-slim-trixie@sha256:...
ARG PYTHON_IMAGE=docker.io/library/python:3.13-slim-trixie

FROM ${PYTHON_IMAGE} AS runtime
# curl is for HEALTHCHECK, `helm test` and whoever looks from inside; probes use the libcurl in pycurl's wheel.
# tini is PID 1: the kernel drops a SIGTERM to a PID 1 that has not taken it over yet, which takes Python 0.15 s, and
# what `exec` leaves behind must be reaped.
# Versions are not pinned: Debian's mirrors drop a version when its fix comes, and the build would break that day.
# The official image has no bytecode of the standard library, and a process that must not write would compile it at each
# start: 2 to 5 s until ready instead of 1, for 11 MB.
# hadolint ignore=DL3008
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends ca-certificates curl tini \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/* /var/cache/ldconfig/* /var/log/* \
 && python3 -m compileall -q --invalidation-mode unchecked-hash -x '/(test|tests|idlelib|tkinter|site-packages)/' \
      "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"

FROM ${PYTHON_IMAGE} AS build
# pip's index, proxy and certificate are the builder's: optional secrets, of which nothing stays in a layer.
ENV PIP_CONFIG_FILE=/run/secrets/pip.conf \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_NO_COMPILE=1
WORKDIR /build
COPY requirements.txt requirements-build.txt ./
RUN --mount=type=secret,id=pip.conf --mount=type=secret,id=ca.crt \
    python3 -m venv tools \
 && python3 -m venv --without-pip /opt/venv \
 && tools/bin/python -m pip install --require-hashes --only-binary :all: -r requirements-build.txt \
 && tools/bin/python -m pip --python /opt/venv/bin/python install --require-hashes --only-binary :all: \
      -r requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY src src
# Bytecode is taken unchecked, since a builder that rewrites the layers' times would make a checked one stale.
RUN tools/bin/python -m pip wheel --no-deps --no-build-isolation --wheel-dir wheels . \
 && tools/bin/python -m pip --python /opt/venv/bin/python install --no-deps --no-index --find-links wheels \
      otel-url-monitor \
 && tools/bin/python -m pip --python /opt/venv/bin/python check \
 && /opt/venv/bin/python -m compileall -qf --invalidation-mode unchecked-hash /opt/venv/lib

FROM runtime AS sbom
ARG SOURCE_DATE_EPOCH=0
COPY --from=build /opt/venv /opt/venv
COPY image/sbom.py /build/
RUN /opt/venv/bin/python /build/sbom.py >/build/otel-url-monitor.cdx.json

FROM runtime
COPY --from=build /opt/venv /opt/venv
COPY --from=sbom /build/otel-url-monitor.cdx.json /usr/share/sbom/
ENV PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    OTEL_URL_MONITOR_CONFIG=/etc/otel-url-monitor/monitor.yaml
# By number, so that a kubelet can tell that it is not root.
USER 10001:10001
EXPOSE 5004
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 \
  CMD ["curl", "--fail", "--silent", "--show-error", "--max-time", "4", "--output", "/dev/null", "http://localhost:5004/-/healthy"]
# A SIGTERM that comes before the service can catch it ends it just as well: 143 is told as 0.
ENTRYPOINT ["tini", "-s", "-e", "143", "--", "otel-url-monitor"]
CMD ["run"]

ARG PYTHON_IMAGE
ARG VERSION=unknown
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="otel-url-monitor" \
      org.opencontainers.image.description="Black-box URL monitor with OpenTelemetry instruments and Prometheus exposition" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${PYTHON_IMAGE}"
