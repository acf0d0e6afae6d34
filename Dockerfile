# Two images from one base:
#   docker build --target server --tag envoy-sidecar-server .   the processes: python -m webhook | certs | controlplane
#   docker build --target init --tag envoy-sidecar-init .       the init container of every injected pod
# Debian's stable release changes its packages for security alone, so packages carry no version here (DL3008).

FROM debian:13.8-slim AS base
LABEL org.opencontainers.image.title="envoy-sidecar-injector" \
      org.opencontainers.image.licenses="Apache-2.0"

# Pulled to every node and run before every pod: iptables and a shell, no Python.
FROM base AS init
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends busybox-static iproute2 iptables \
    && rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/*
COPY --chmod=0755 webhook/redirect.sh /usr/local/bin/redirect.sh
ENTRYPOINT ["/usr/local/bin/redirect.sh"]

FROM base AS python
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/*

# What installs stays behind here: the server image has neither pip nor a compiler.
FROM python AS dependencies
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends python3-venv
COPY requirements.txt /tmp/requirements.txt
RUN python3 -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir \
        --require-hashes --no-deps --only-binary :all: --requirement /tmp/requirements.txt \
    && /opt/venv/bin/pip uninstall --yes pip

FROM python AS server
COPY --from=dependencies /opt/venv /opt/venv
WORKDIR /opt/envoy-sidecar
COPY webhook webhook
COPY certs certs
COPY controlplane controlplane
# Compiled now: the root file system is read-only then, and the first admission must not wait for it.
RUN /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash .
ENV PATH=/opt/venv/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
ENTRYPOINT ["python", "-m"]
CMD ["webhook", "--help"]
