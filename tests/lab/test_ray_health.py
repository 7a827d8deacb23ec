"""What is shown of a real Ray that loses a node, and of a real sshd that opens its tunnels to everybody."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.lab.lab import Lab
from tests.lab.serving import SITE, Rayslurm, configure, own_site

SPEC = """\
site: lab
name: health
cluster:
  nodes: 2
  cpus_per_node: 2
  memory_per_node: 3000M
  object_store_per_node: 200M
  time: "00:20:00"
"""


@contextmanager
def open_to_all(lab: Lab) -> Iterator[None]:
    """Has the VM's sshd bind forwarded ports to all addresses meanwhile, whatever jobs ask for."""

    def restart(said: str) -> None:
        script = f"sed -i 's/GatewayPorts .*/GatewayPorts {said}/' /run/sshd_config; kill $(pgrep -x sshd);"
        again = (
            " while pgrep -x sshd; do sleep 0.1; done; /usr/sbin/sshd -f /run/sshd_config -E /var/log/sshd_cloud.log"
        )
        lab.on("cloud", "sh", "-c", script + again)

    restart("yes")
    try:
        yield
    finally:
        restart("no")


@pytest.mark.ray
@pytest.mark.timeout(240)
def test_exposure_and_a_lost_node(lab: Lab, ray_venv: Path, tmp_path: Path) -> None:
    rayslurm = configure(lab, tmp_path, ray=ray_venv)
    (tmp_path / "spec.yaml").write_text(SPEC)
    with own_site(lab), rayslurm.serving():
        launched = rayslurm.json("launch", str(tmp_path / "spec.yaml"))
        job = {"site": SITE, "job_id": launched["job_id"]}
        lab.wait(lambda: rayslurm.value("ray_nodes", **job, state="alive") == 2, 90, "two nodes alive")

        lab.wait(lambda: exposed(rayslurm) == {"dashboard": 0, "metrics-0": 0, "metrics-1": 0}, 20, "nothing exposed")
        with open_to_all(lab):
            lab.wait(lambda: exposed(rayslurm) == {"dashboard": 1, "metrics-0": 1, "metrics-1": 1}, 60, "all exposed")
            told = of_status(rayslurm, launched)["exposed"]
            assert {one["tunnel"] for one in told} == {"dashboard", "metrics-0", "metrics-1"}
            assert "0.0.0.0" in told[0]["addresses"]
            refused = rayslurm.run("launch", str(tmp_path / "spec.yaml"), check=False)
            assert refused.returncode == 4
            assert "sshd has GatewayPorts yes (/run/sshd_config, line" in refused.stderr
            assert "GatewayPorts is yes (/run/sshd_config" in rayslurm.run("config", "check").stderr
        lab.wait(lambda: exposed(rayslurm) == {"dashboard": 0, "metrics-0": 0, "metrics-1": 0}, 60, "closed again")
        assert "OpenSSH 9.2 (by sshd); GatewayPorts is no (/run/sshd_config" in rayslurm.run("config", "check").stderr

        def restarts() -> set[float]:
            return set(rayslurm.samples().get("rayslurm_tunnel_restarts_total", {}).values())

        lab.wait(lambda: len(shown := restarts()) > 0 and min(shown) >= 2, 60, "how often the tunnels were mended")

        lab.wait(lambda: rayslurm.value("ray_nodes", **job, state="alive") == 2, 60, "two nodes alive again")
        killed = time.monotonic()
        lab.on("c2", "kill", "-KILL", *lab.on("c2", "pgrep", "-f", "^[^ ]*/raylet/raylet ").stdout.split())
        lab.wait(lambda: rayslurm.value("ray_nodes", **job, state="alive") == 1, 60, "one node alive")
        print(f"one of two nodes alive after {time.monotonic() - killed:.1f} s")
        assert rayslurm.value("ray_nodes", **job, state="dead") == 1
        assert rayslurm.value("ray_nodes_expected", **job) == 2
        assert "1/2 alive" in rayslurm.run("status").stdout
        rayslurm.run("cancel", f"{SITE}/{launched['job_id']}", "--yes")
    assert "Traceback" not in rayslurm.log()


def exposed(rayslurm: Rayslurm) -> dict[str, float]:
    shown = rayslurm.samples().get("rayslurm_tunnel_bind_exposed", {})
    return {dict(labels)["tunnel"]: value for labels, value in shown.items()}


def of_status(rayslurm: Rayslurm, launched: dict[str, Any]) -> dict[str, Any]:
    jobs: list[dict[str, Any]] = json.loads(rayslurm.run("status", "--json").stdout)["jobs"]
    return next(job for job in jobs if job["job_id"] == launched["job_id"])
