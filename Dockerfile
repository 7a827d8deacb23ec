FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY exporter exporter
COPY jobs jobs
COPY prometheus prometheus
COPY grafana grafana
RUN python -m venv /opt/rayslurm && /opt/rayslurm/bin/pip install --no-cache-dir .

FROM python:3.12-slim
COPY --from=build /opt/rayslurm /opt/rayslurm
ENV PATH=/opt/rayslurm/bin:$PATH
# A volume put over the state folder starts with its owner.
RUN useradd --uid 1000 --create-home rayslurm && install -d -o rayslurm -g rayslurm /home/rayslurm/.local/state/rayslurm
USER rayslurm
WORKDIR /home/rayslurm
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9810/-/healthy', timeout=3)"]
ENTRYPOINT ["rayslurm"]
CMD ["serve"]
