# Two stages: what makes rayslurm stays behind in the first one, and all that pip fetches is known by its hash.
FROM python:3.12.13-slim-trixie AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements.lock requirements-build.lock ./
RUN python -m venv /opt/rayslurm \
    && /opt/rayslurm/bin/pip install --require-hashes --only-binary :all: -r requirements.lock \
    && pip install --require-hashes --only-binary :all: -r requirements-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY exporter exporter
COPY jobs jobs
COPY prometheus prometheus
COPY grafana grafana
RUN pip wheel --no-deps --no-index --no-build-isolation --wheel-dir /wheels . \
    && /opt/rayslurm/bin/pip install --no-deps --no-index /wheels/*.whl \
    && /opt/rayslurm/bin/pip check

FROM python:3.12.13-slim-trixie
LABEL org.opencontainers.image.title="rayslurm" \
      org.opencontainers.image.description="Runs Ray clusters as Slurm jobs and exports what they cost as metrics" \
      org.opencontainers.image.licenses="Apache-2.0"
# Whose number it runs with: files of the VM's that are for their owner alone must be that owner's.
ARG UID=1000
ARG GID=1000
# A volume put over the state folder starts with its owner.
RUN if ! getent group "$GID"; then groupadd --gid "$GID" rayslurm; fi \
    && useradd --uid "$UID" --gid "$GID" --create-home rayslurm \
    && install -d -m 700 -o "$UID" -g "$GID" /home/rayslurm/.local/state/rayslurm
COPY --from=build /opt/rayslurm /opt/rayslurm
ENV PATH=/opt/rayslurm/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER $UID:$GID
WORKDIR /home/rayslurm
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9810/-/healthy', timeout=3)"]
ENTRYPOINT ["rayslurm"]
CMD ["serve"]
