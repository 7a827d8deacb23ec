"""docker-compose.yml and the Dockerfile, as far as they can be checked without an engine.

How the services run as the file starts them is in test_containers.py.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from grafana.modern import GRAFANA_VERSION
from tests.containers import TOP, compose
from tests.containers import services as read
from tests.prometheus_server import free_port, program, running

# What the operator brings, by where it is seen. Without `create_host_path: false`, Docker makes an empty folder of what
# is missing.
BROUGHT = {"/home/rayslurm/.config/rayslurm", "/home/rayslurm/.ssh", "/home/rayslurm/.rayslurm-keys"}
WRITTEN = "/home/rayslurm/.rayslurm-keys"
PINNED = re.compile(r"[a-z0-9/]+:v?\d+\.\d+\.\d+")
# As the images have it: what their volumes start with belongs to these.
USERS = {"rayslurm": "1000:1000", "prom/prometheus": "65534:65534", "prom/alertmanager": "65534:65534"}
USERS |= {"grafana/grafana": "472:0"}
SITE = {"rayslurm", "prometheus", "alertmanager", "grafana"}
PRACTICE = {"practice", "practice-prometheus", "alertmanager", "grafana"}
SAID = {"true", "false", "console", "Viewer", "127.0.0.1"}
"""All that stands in an environment, but for paths."""
NATIVE = {
    "prometheus": ("prometheus", {"/etc/prometheus/": f"{TOP}/prometheus/"}, "9090"),
    "alertmanager": ("prometheus-alertmanager", {"/etc/alertmanager/": f"{TOP}/prometheus/"}, "9093"),
}


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """All of them, whatever starts them."""
    return read("practice") | read("site")


def _mounts(service: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [volume for volume in service.get("volumes", ()) if volume["type"] == kind]


@pytest.mark.parametrize(("profiles", "started"), [((), SITE), (("site",), SITE), (("practice",), PRACTICE)])
def test_compose_finds_nothing_wrong_and_starts_what_was_asked_for(
    profiles: tuple[str, ...], started: set[str]
) -> None:
    words = [word for profile in profiles for word in ("--profile", profile)]
    compose(*words, "config", "-q")

    assert set(compose(*words, "config", "--services").split()) == started


def test_practice_needs_nothing_of_the_operators_and_keeps_nothing_among_what_is_real() -> None:
    practice, site = read("practice"), read("site")

    assert not [mount for service in practice.values() for mount in _mounts(service, "bind") if "/home/" in str(mount)]
    assert _mounts(practice["practice"], "volume") == _mounts(practice["practice-prometheus"], "volume") == []
    for kept in ("rayslurm", "prometheus", "alertmanager", "grafana"):
        assert _mounts(site[kept], "volume"), kept
    alike = ("image", "user", "command", "healthcheck", "read_only")
    assert all(practice["practice-prometheus"][key] == site["prometheus"][key] for key in alike)


def test_what_is_mounted_is_there_and_only_the_jobs_keys_are_written(services: dict[str, Any]) -> None:
    mounts = [mount for service in services.values() for mount in _mounts(service, "bind")]
    known = set(subprocess.run(["git", "ls-files"], cwd=TOP, capture_output=True, text=True, check=True).stdout.split())

    assert {mount["target"] for mount in mounts} >= BROUGHT
    for mount in mounts:
        assert mount.get("read_only", False) is (mount["target"] != WRITTEN), mount
        if mount["target"] in BROUGHT:
            assert mount["bind"].get("create_host_path", False) is False, mount
            # So that one rayslurm.yaml, with ~ in its paths, does inside and outside.
            assert mount["target"] == mount["source"].replace("/home/somebody", "/home/rayslurm"), mount
        else:
            path = Path(mount["source"])
            assert path.exists(), mount
            inside = str(path.relative_to(TOP))
            assert any(name == inside or name.startswith(f"{inside}/") for name in known), f"{inside} is not in git"


def test_each_folder_and_user_can_be_another() -> None:
    other = {"RAYSLURM_UID": "1007", "RAYSLURM_GID": "100"}
    other |= {f"RAYSLURM_{name}_DIR": f"/srv/{name}" for name in ("CONFIG", "SSH", "KEYS")}
    rayslurm = read(**other)["rayslurm"]

    assert rayslurm["user"] == "1007:100"
    assert rayslurm["build"]["args"] == {"UID": "1007", "GID": "100"}
    assert {mount["source"] for mount in _mounts(rayslurm, "bind")} == {"/srv/CONFIG", "/srv/SSH", "/srv/KEYS"}


def test_each_service_may_do_little_and_says_how_it_is(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["user"] == USERS[service["image"].partition(":")[0]], name
        assert any(entry.startswith("/tmp:") for entry in service["tmpfs"]), name
        assert set(service["logging"]["options"]) == {"max-size", "max-file"}, name
        assert service["restart"] == "unless-stopped", name
        if "build" not in service:
            assert service["healthcheck"]["test"][0] == "CMD", name
            assert "http://127.0.0.1:" in " ".join(service["healthcheck"]["test"]), name
        for key, value in (service.get("environment") or {}).items():
            assert not re.search(r"PASSWORD|SECRET|TOKEN|CREDENTIAL|API_?KEY", key), f"{name}: {key} belongs in a file"
            assert value in {"true", "false", "console", "Viewer", "127.0.0.1"} or value.startswith("/"), (
                f"{key}={value}"
            )


def test_secrets_of_alertmanager_go_into_no_commit_and_no_image() -> None:
    ignored = subprocess.run(["git", "check-ignore", "-q", "secrets/smtp-password"], cwd=TOP, check=False)

    assert ignored.returncode == 0
    assert "!secrets" not in (TOP / ".dockerignore").read_text()


def test_nothing_listens_where_others_reach_it(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["network_mode"] == "host", name
        assert "ports" not in service, name
        for flag in service["command"] or ():
            if "listen-address" in flag:
                assert re.search(r"=(127\.0\.0\.1:\d+)?$", flag), flag
    for name in NATIVE:
        assert any(flag.startswith("--web.listen-address=127.0.0.1:") for flag in services[name]["command"])
    assert services["practice"]["command"] == ["demo", "--port", "9810"]
    assert services["grafana"]["environment"]["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"
    # The image's own source of Prometheus stays: bringing it up to date fails on a root that can't be written.
    assert services["grafana"]["environment"]["GF_PLUGINS_PREINSTALL_DISABLED"] == "true"
    assert services["grafana"]["environment"]["GF_PLUGINS_PREINSTALL_AUTO_UPDATE"] == "false"
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


def _copied(dockerfile: str) -> set[str]:
    return {
        word for copy in re.findall(r"^COPY (?!--from)(.+)$", dockerfile, re.MULTILINE) for word in copy.split()[:-1]
    }


def test_the_image_runs_as_a_number_and_is_made_of_what_is_known() -> None:
    dockerfile = (TOP / "Dockerfile").read_text()
    kept = {line[1:] for line in (TOP / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    runs = "\n".join(re.findall(r"^RUN (.+(?:\\\n.+)*)", dockerfile, re.MULTILINE))

    assert _copied(dockerfile) == kept
    assert all((TOP / source).exists() for source in kept)
    assert re.findall(r"^USER (.+)$", dockerfile, re.MULTILINE) == ["$UID:$GID"]
    assert re.findall(r"^ARG (.+)$", dockerfile, re.MULTILINE) == ["UID=1000", "GID=1000"]
    [base] = set(re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE))
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+", base)
    for fetched in re.findall(r"pip (?:install|wheel) .+", runs):
        assert "--require-hashes" in fetched or "--no-index" in fetched, fetched
    assert "org.opencontainers.image.licenses" in dockerfile


def test_what_is_copied_into_the_image_is_enough_for_the_wheel(tmp_path: Path) -> None:
    source = tmp_path / "src"
    for name in _copied((TOP / "Dockerfile").read_text()):
        if (TOP / name).is_dir():
            shutil.copytree(TOP / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            source.mkdir(exist_ok=True)
            shutil.copy(TOP / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "wheel"]
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(tmp_path)]
    subprocess.run([*pip, *options, str(source)], check=True, timeout=120)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    done = subprocess.run(
        [sys.executable, "-c", "from exporter.cli.entry import main; import exporter; print(exporter.__file__); main()",
         "demo", "--help"],
        cwd=tmp_path / "site", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path / "site"))


def _locked(name: str) -> dict[str, str]:
    """Returns what a lock says of each package: version, marker and hashes."""
    text = re.sub(r"^ *#.*\n", "", (TOP / name).read_text(), flags=re.MULTILINE)
    entries = re.split(r"\n(?=[a-z])", text.strip())
    return {entry.partition("==")[0]: " ".join(entry.split()) for entry in entries}


def _needed(name: str, extras: frozenset[str] = frozenset()) -> set[str]:
    found: set[str] = set()
    for line in importlib.metadata.requires(name) or ():
        wanted = Requirement(line)
        environments = [{"extra": extra} for extra in extras or {""}]
        if wanted.marker is None or any(wanted.marker.evaluate(environment) for environment in environments):
            key = re.sub(r"[-_.]+", "-", wanted.name).lower()
            found |= {key} | _needed(key, frozenset(wanted.extras))
    return found


def test_the_image_has_the_versions_that_are_tested_and_nothing_more() -> None:
    ours, developed = _locked("requirements.lock"), _locked("requirements-dev.lock")

    assert {name: developed.get(name) for name in ours} == ours
    here = {name for name, entry in ours.items() if "sys_platform == 'win32'" not in entry}
    assert here == _needed("rayslurm-exporter")
    build = _locked("requirements-build.lock")
    assert {name: developed.get(name) for name in build} == build
    assert "hatchling" in build


def test_the_health_check_asks_the_address_that_rayslurm_listens_on() -> None:
    from exporter.config import Config

    assert f"http://{Config.model_fields['listen'].default}/-/healthy" in (TOP / "Dockerfile").read_text()


def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    unit = (TOP / "docs" / "rayslurm.service").read_text()
    assert "ExecStart=%h/.local/bin/rayslurm serve\n" in unit
    path = tmp_path / "rayslurm.service"
    path.write_text(unit.replace("%h/.local/bin/rayslurm", shutil.which("true") or "/bin/true"))
    words = [program("systemd-analyze"), "--user", "verify", str(path)]
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
