"""docker-compose.yml and the Dockerfile, as far as they can be checked without an engine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from grafana.modern import GRAFANA_VERSION
from tests.prometheus_server import TOP, free_port, program, running

# What the operator brings. Without `create_host_path: false`, Docker makes an empty folder of what is missing.
BROUGHT = {"/etc/rayslurm/rayslurm.yaml", "/home/rayslurm/.ssh"}
PINNED = re.compile(r"[a-z0-9/]+:v?\d+\.\d+\.\d+")
NATIVE = {
    "prometheus": ("prometheus", {"/etc/prometheus/": f"{TOP}/prometheus/"}, "9090"),
    "alertmanager": ("prometheus-alertmanager", {"/etc/alertmanager/": f"{TOP}/prometheus/"}, "9093"),
}


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return _compose("config", "--format", "json")["services"]  # type: ignore[no-any-return]


def _compose(*arguments: str) -> dict[str, Any]:
    binary = Path(sys.executable).parent / "docker-compose"
    done = subprocess.run(
        [binary, "--file", TOP / "docker-compose.yml", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"PATH": os.environ["PATH"], "HOME": "/home/somebody"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    answer: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}
    return answer


def _mounts(service: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [volume for volume in service.get("volumes", ()) if volume["type"] == kind]


def test_compose_finds_nothing_wrong() -> None:
    _compose("config", "-q")


def test_what_is_mounted_from_the_checkout_is_there_and_read_only(services: dict[str, Any]) -> None:
    mounts = [mount for service in services.values() for mount in _mounts(service, "bind")]

    assert {mount["target"] for mount in mounts} >= BROUGHT
    for mount in mounts:
        assert mount["read_only"], mount
        if mount["target"] in BROUGHT:
            assert mount["bind"].get("create_host_path", False) is False, mount
        else:
            assert Path(mount["source"]).exists(), mount


def test_nothing_listens_where_others_reach_it(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["network_mode"] == "host", name
        assert "ports" not in service, name
        for flag in service["command"] or ():
            if "listen-address" in flag:
                assert re.search(r"=(127\.0\.0\.1:\d+)?$", flag), flag
    for name in NATIVE:
        assert any(flag.startswith("--web.listen-address=127.0.0.1:") for flag in services[name]["command"])
    assert services["grafana"]["environment"]["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"
    assert "--cluster.listen-address=" in services["alertmanager"]["command"]


def test_images_are_pinned_and_grafana_is_the_one_that_the_dashboards_are_made_for(services: dict[str, Any]) -> None:
    for service in services.values():
        assert "build" in service or PINNED.fullmatch(service["image"])
    assert services["grafana"]["image"] == f"grafana/grafana:{GRAFANA_VERSION}"


def test_grafana_finds_its_dashboards_and_its_data_source_where_they_are_mounted(services: dict[str, Any]) -> None:
    provisioning = TOP / "grafana" / "provisioning"
    [provider] = yaml.safe_load((provisioning / "dashboards" / "rayslurm.yml").read_text())["providers"]
    [source] = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    scrape = yaml.safe_load((TOP / "prometheus" / "prometheus.yml").read_text())["global"]["scrape_interval"]
    mounts = {mount["target"]: Path(mount["source"]) for mount in _mounts(services["grafana"], "bind")}

    assert mounts[provider["options"]["path"]] == TOP / "grafana" / "dashboards"
    assert mounts["/etc/grafana/provisioning/dashboards"] == provisioning / "dashboards"
    assert mounts["/etc/grafana/provisioning/datasources"] == provisioning / "datasources"
    assert f"--web.listen-address={source['url'].removeprefix('http://')}" in services["prometheus"]["command"]
    assert source["jsonData"]["timeInterval"] == scrape


@pytest.mark.parametrize("name", NATIVE)
def test_a_service_starts_natively_with_its_flags_and_listens_on_the_loopback_only(
    name: str, services: dict[str, Any], tmp_path: Path
) -> None:
    binary, folders, port = NATIVE[name]
    free = str(free_port())
    [data] = (mount["target"] for mount in _mounts(services[name], "volume"))
    flags = []
    for flag in services[name]["command"]:
        key, _, value = flag.partition("=")
        if value == data:
            value = str(tmp_path / "data")
        for inside, outside in folders.items():
            value = value.replace(inside, outside)
        flags.append(f"{key}={re.sub(f':{port}$', f':{free}', value)}")

    with running([program(binary), *flags], f"http://127.0.0.1:{free}/-/ready", tmp_path / "log") as process:
        assert _listening(process.pid) == {f"127.0.0.1:{free}"}


def _listening(pid: int) -> set[str]:
    """Returns the addresses where a process takes TCP connections and UDP packets, as the kernel tells."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed in between
            inodes.add(str(link.readlink()).removeprefix("socket:[").removesuffix("]"))
    found = set()
    for table, state in (("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == state and fields[9] in inodes:
                address, _, port = fields[1].rpartition(":")
                found.add(f"{'127.0.0.1' if address == '0100007F' else address}:{int(port, 16)}")
    return found


def test_the_image_runs_as_a_user_and_its_sources_are_there_and_not_ignored() -> None:
    dockerfile = (TOP / "Dockerfile").read_text()
    kept = {line[1:] for line in (TOP / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    sources = {
        word for copy in re.findall(r"^COPY (?!--from)(.+)$", dockerfile, re.MULTILINE) for word in copy.split()[:-1]
    }

    assert sources == kept
    assert all((TOP / source).exists() for source in sources)
    assert re.findall(r"^USER (.+)$", dockerfile, re.MULTILINE) == ["rayslurm"]
    assert set(re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)) == {"python:3.12-slim"}


def test_the_health_check_asks_the_address_that_rayslurm_listens_on() -> None:
    from exporter.config import Config

    assert f"http://{Config.model_fields['listen'].default}/-/healthy" in (TOP / "Dockerfile").read_text()
