"""Each service of docker-compose.yml runs natively as the file starts it: who, with what, on what file system."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers import NEWER, TOP, Machine, Running, needs_namespaces, services
from tests.prometheus_server import program, render_config

OWNER = 1234
"""Who has the files outside; nobody of this machine's accounts need have that number."""

RAYSLURM_YAML = """\
sites:
  lumi:
    project: project_1
    partition: small
    ssh: {host: 127.0.0.1, port: 1, user: maija, key: ~/.ssh/id_site, agent: false}
vm:
  host: 192.0.2.7
  user: maija
  authorized_keys: ~/.rayslurm-keys/authorized_keys
  host_keys: ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGtra2tra2tra2tra2tra2tra2tra2tra2tra2tra2tr"]
archive: {endpoint: "https://a3s.example", bucket: bucket, credentials_file: ~/.config/rayslurm/allas.ini}
"""
PUT_A_KEY = (
    "from pathlib import Path; from exporter.config import load_config; import os;"
    "from exporter.tunnels.authorized_keys import AuthorizedKeys;"
    "keys = load_config(Path(os.environ['RAYSLURM_CONFIG'])).vm.keys_file;"
    "AuthorizedKeys(keys, 'i').put('t', 'ssh-ed25519 AAAA', [8100], expires=4e9)"
)


def image_health() -> list[str]:
    [words] = re.findall(r"^HEALTHCHECK .*\n +CMD \[(.*)\]$", (TOP / "Dockerfile").read_text(), re.MULTILINE)
    return ["CMD", *(word.strip('"') for word in re.findall(r'"[^"]*"', words))]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    needs_namespaces()
    with Machine(tmp_path / "machine") as made:
        yield made


def rights(running: Running) -> dict[str, str]:
    status = Path(f"/proc/{running.process.pid}/status").read_text()
    found = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    return {name: found[name].strip() for name in ("Uid", "Gid", "Groups", "CapEff", "CapBnd", "NoNewPrivs")}


def assert_harmless(running: Running, user: int, group: int) -> None:
    assert rights(running) == {
        "Uid": "\t".join([str(user)] * 4),
        "Gid": "\t".join([str(group)] * 4),
        "Groups": "",
        "CapEff": "0" * 16,
        "CapBnd": "0" * 16,
        "NoNewPrivs": "1",
    }


def listening(machine: Machine) -> set[str]:
    return {line.split()[3] for line in machine.inside(["ss", "-Hltn"]).stdout.splitlines()}


def write(path: Path, text: str, mode: int = 0o600) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """What the operator has outside."""
    folder = tmp_path / "home"
    write(folder / ".config/rayslurm/rayslurm.yaml", RAYSLURM_YAML)
    write(folder / ".config/rayslurm/allas.ini", "[default]\naws_access_key_id = a\naws_secret_access_key = b\n")
    write(folder / ".config/rayslurm/campaigns/nightly.yaml", "broken: [\n")
    write(folder / ".ssh/id_site", "a key")
    write(folder / ".ssh/known_hosts", "")
    (folder / ".rayslurm-keys").mkdir(mode=0o700)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, OWNER, OWNER)
    return folder


def test_rayslurm_serves_people_ask_it_and_jobs_get_their_keys(machine: Machine, home: Path) -> None:
    needs_namespaces()
    service = services(home=str(home), RAYSLURM_UID=str(OWNER), RAYSLURM_GID=str(OWNER))["rayslurm"]

    with machine.running("rayslurm", service) as rayslurm:
        rayslurm.healthy(image_health())
        assert_harmless(rayslurm, OWNER, OWNER)
        assert listening(machine) == {"127.0.0.1:9810"}
        machine.shows("http://127.0.0.1:9810/metrics", 'rayslurm_site_command_budget_limit{site="lumi"}')

        asked = rayslurm.execute(["rayslurm", "status"])
        assert asked.returncode == 0, asked.stderr
        checked = rayslurm.execute(["rayslurm", "config", "check"])
        assert checked.returncode == 0, "files that hold secrets are the owner's, and for nobody else"
        campaigns = rayslurm.execute(["rayslurm", "campaigns", "check"])
        assert "nightly.yaml" in campaigns.stdout + campaigns.stderr, "campaigns beside rayslurm.yaml are seen"

        put = rayslurm.execute(["python", "-c", PUT_A_KEY])
        assert put.returncode == 0, put.stderr
        keys = home / ".rayslurm-keys/authorized_keys"
        assert "permitlisten" in keys.read_text()
        assert (keys.stat().st_uid, keys.stat().st_mode & 0o777) == (OWNER, 0o600)

        for path in ("/x", "/home/rayslurm/x", "/home/rayslurm/.ssh/x", "/home/rayslurm/.config/rayslurm/x"):
            assert "Read-only" in rayslurm.execute(["/bin/sh", "-c", f": > {shlex.quote(path)}"]).stderr
        (home / ".config/rayslurm/allas.ini").chmod(0o644)
        assert "chmod 600" in rayslurm.execute(["rayslurm", "config", "check"]).stderr
        assert rayslurm.stop() == 0
    assert (machine.folder / "rayslurm.rayslurm-state/rayslurm.sqlite3").stat().st_uid == OWNER


def test_without_an_account_the_practice_profile_shows_the_whole_stack(machine: Machine, tmp_path: Path) -> None:
    """All that the profile starts, but for Grafana, which isn't to be had as a package."""
    started = services("practice", home="/nowhere")
    quick = render_config(tmp_path / "quick", {"interval: 30s": "interval: 1s", "interval: 15s": "interval: 1s"})
    for service in started.values():
        for mount in service.get("volumes", ()):
            if mount["source"] == str(TOP / "prometheus"):
                mount["source"] = str(quick.parent)
    for path in (tmp_path, quick.parent):
        path.chmod(0o755)
    for name in ("prometheus", "prometheus-alertmanager"):
        program(name)

    with (
        machine.running("practice", started["practice"]) as practice,
        machine.running("alertmanager", started["alertmanager"]) as alertmanager,
        machine.running("prometheus", started["practice-prometheus"]) as prometheus,
    ):
        practice.healthy(image_health())
        alertmanager.healthy(started["alertmanager"]["healthcheck"]["test"])
        if (NEWER / "promtool").exists():  # that of Prometheus 2 has no `check healthy`
            prometheus.healthy(started["practice-prometheus"]["healthcheck"]["test"])
        machine.shows("http://127.0.0.1:9090/-/healthy", "Healthy")
        assert_harmless(practice, 1000, 1000)
        assert_harmless(prometheus, 65534, 65534)
        assert_harmless(alertmanager, 65534, 65534)
        assert {"127.0.0.1:9810", "127.0.0.1:9090", "127.0.0.1:9093"} <= listening(machine)
        assert all(address.startswith("127.0.0.1:") for address in listening(machine))

        machine.shows("http://127.0.0.1:9090/api/v1/query?query=rayslurm_job_state", '"metric"')
        machine.shows("http://127.0.0.1:9090/api/v1/query?query=ray_node_cpu_count", '"metric"')
        machine.shows("http://127.0.0.1:9090/api/v1/alerts", "RaySlurmWatchdog")
        machine.shows("http://127.0.0.1:9090/api/v1/alertmanagers", '"http://127.0.0.1:9093/api/v2/alerts"')
        status = "python -m exporter.cli.entry status --config /tmp/rayslurm-demo-*/rayslurm.yaml"
        assert "stay-up" in practice.execute(["/bin/sh", "-c", status]).stdout
        assert [running.stop() for running in (practice, prometheus, alertmanager)] == [0, 0, 0]
    assert not any((machine.folder).glob("practice.*-data")), "nothing of it is kept"


def test_practice_doesnt_go_elsewhere_where_the_port_is_taken(machine: Machine) -> None:
    """Prometheus would ask whoever has it."""
    practice = services("practice")["practice"]
    with machine.running("first", practice) as first:
        first.healthy(image_health())
        with machine.running("second", practice) as second:
            assert second.process.wait(60) == 1
            assert "port 9810 is taken on 127.0.0.1" in second.log.read_text()
