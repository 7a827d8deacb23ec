"""What is shipped for Prometheus and Alertmanager, as the versions see it that docker-compose.yml starts.

Debian's stable ones are older; the newer come by `tests/prepare prometheus3`, and without them this file is left out.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import yaml

from tests.prometheus_server import CLOSED, TOP, free_port, query, render_config, running, wait_until

BINARIES = TOP / "build" / "prometheus3" / "bin"
PROMETHEUS = TOP / "prometheus"
COMPOSE = yaml.safe_load((TOP / "docker-compose.yml").read_text())["services"]

pytestmark = pytest.mark.skipif(
    not (BINARIES / "promtool").exists(), reason="NOT CHECKED with Prometheus 3: run tests/prepare prometheus3"
)


def said(name: str, *arguments: str | Path) -> str:
    done = subprocess.run([BINARIES / name, *arguments], capture_output=True, text=True, check=False, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def version(name: str) -> list[str]:
    found = re.search(r"version (\d+)\.(\d+)\.", said(name, "--version"))
    assert found
    return list(found.groups())


def test_they_are_of_the_versions_that_the_compose_file_starts() -> None:
    pinned = {name: re.findall(r"\d+", COMPOSE[name]["image"].partition(":")[2]) for name in COMPOSE}

    assert version("promtool")[0] == version("prometheus")[0] == pinned["prometheus"][0] == "3"
    assert version("prometheus-alertmanager")[0] == pinned["alertmanager"][0]


def test_promtool_3_finds_nothing_wrong() -> None:
    said("promtool", "check", "config", "--lint=all", "--lint-fatal", PROMETHEUS / "prometheus.yml")
    for path in sorted((PROMETHEUS / "rules").glob("*.yml")):
        said("promtool", "check", "rules", "--lint=all", "--lint-fatal", path)


@pytest.mark.parametrize("path", sorted((PROMETHEUS / "tests").glob("*_test.yml")), ids=lambda path: path.name)
def test_rules_fire_and_stay_silent_with_prometheus_3_too(path: Path) -> None:
    said("promtool", "test", "rules", path)


def test_amtool_finds_nothing_wrong_and_sends_each_alert_where_the_older_one_does() -> None:
    path = PROMETHEUS / "alertmanager.yml"
    assert "SUCCESS" in said("amtool", "check-config", path)
    for severity in ("critical", "warning", "info"):
        told = said("amtool", "config", "routes", "test", f"--config.file={path}", f"severity={severity}")
        assert told.split()[-1] == severity
    watchdog = said("amtool", "config", "routes", "test", f"--config.file={path}", "alertname=RaySlurmWatchdog")
    assert watchdog.split()[-1] == "watchdog"


def test_prometheus_3_scrapes_the_exporter_and_the_metrics_of_rays(tmp_path: Path) -> None:
    """Where it doesn't know an answer's type it takes nothing, while Prometheus 2 takes that for text."""
    port, own = free_port(), free_port()
    config = render_config(
        tmp_path / "config",
        {
            "127.0.0.1:9810": f"127.0.0.1:{port}",
            "127.0.0.1:9093": CLOSED,
            "scrape_interval: 30s": "scrape_interval: 1s",
            "evaluation_interval: 30s": "evaluation_interval: 1s",
            "refresh_interval: 15s": "refresh_interval: 1s",
        },
    )
    demo = [sys.executable, "-m", "exporter.cli.entry", "demo", "--port", str(port)]
    prometheus = [
        BINARIES / "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={tmp_path / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{own}",
    ]
    url = f"http://127.0.0.1:{own}"
    with (
        running(demo, f"http://127.0.0.1:{port}/-/healthy", tmp_path / "demo.log"),
        running(list(map(str, prometheus)), f"{url}/-/ready", tmp_path / "prometheus.log"),
    ):
        wait_until(lambda: bool(query(url, 'up{job="rayslurm"} == 1')), "the exporter is scraped")
        wait_until(lambda: bool(query(url, 'ray_node_cpu_count{site="roihu"}')), "a Ray is scraped", seconds=90)
        wait_until(lambda: bool(query(url, 'ALERTS{alertname="RaySlurmWatchdog"}')), "rules come out")
        groups = httpx.get(f"{url}/api/v1/rules", trust_env=False).json()["data"]["groups"]
        assert {rule["health"] for group in groups for rule in group["rules"]} <= {"ok", "unknown"}
        assert query(url, "up == 0") == []
