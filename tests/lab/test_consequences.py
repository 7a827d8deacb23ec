"""A real Ray that nobody uses is cancelled, and what it cost meanwhile is counted; one that is in use goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.lab.lab import Lab
from tests.lab.serving import Rayslurm, configure_sites, own_site

SITE = "lumi"

SPEC = """\
site: lumi
name: {name}
cluster:
  {{nodes: 1, cpus_per_node: 1, memory_per_node: 1200M, object_store_per_node: 100M, time: 20m, partition: small}}
on_idle: {{action: cancel, after: 40s}}
"""

BUSY = """\
import time

import ray

ray.init()


@ray.remote(num_cpus=1)
def hold():
    time.sleep(3600)


ray.get(hold.remote())
"""


def of_status(rayslurm: Rayslurm, job_id: str) -> dict[str, Any]:
    return next(job for job in rayslurm.json("status")["jobs"] if job["job_id"] == job_id)


@pytest.mark.ray
@pytest.mark.timeout(400)
def test_an_idle_ray_is_cancelled_and_a_busy_one_is_not(lab: Lab, ray_venv: Path, tmp_path: Path) -> None:
    rayslurm = configure_sites(lab, tmp_path, {SITE: {}}, ray=ray_venv)
    (tmp_path / "busy.py").write_text(BUSY)
    (tmp_path / "busy.yaml").write_text(
        SPEC.format(name="busy") + f"bring: [busy.py]\nentrypoint: {ray_venv}/bin/python busy.py\n"
    )
    (tmp_path / "idle.yaml").write_text(SPEC.format(name="idle"))
    with own_site(lab), rayslurm.serving():

        def used(job_id: str) -> float | None:
            return rayslurm.value("ray_resource_used", site=SITE, job_id=job_id, resource="cpu")

        busy = rayslurm.json("launch", str(tmp_path / "busy.yaml"))["job_id"]
        lab.wait(lambda: used(busy) == 1, 120, "a CPU in use by Ray's own account")
        idle = rayslurm.json("launch", str(tmp_path / "idle.yaml"))["job_id"]
        lab.wait(lambda: used(idle) == 0, 120, "an idle Ray")
        lab.wait(lambda: of_status(rayslurm, idle)["final"], 180, "the end of the idle job")

        ended = of_status(rayslurm, idle)
        assert ended["state"] == "cancelled"
        assert lab.state(idle).startswith("CANCELLED by")
        (consequence,) = ended["consequences"]
        assert (consequence["condition"], consequence["state"]) == ("idle", "cancelled")
        shown = rayslurm.run("status").stdout
        assert "cancelled by rayslurm: its Ray has used no CPU and no GPU since" in shown
        assert "on_idle: cancel after 40 s" in consequence["reason"]
        assert sum(logged.program == "scancel" for logged in lab.site_log() if idle in logged.arguments) == 1

        def wasted(reason: str) -> float:
            return rayslurm.value("wasted_billing_units_total", site=SITE, reason=reason) or 0.0

        lab.wait(lambda: wasted("idle") > 0, 60, "what it cost meanwhile")
        parts = {part["reason"]: part for part in of_status(rayslurm, idle)["waste"]}
        waste, unreached = parts["idle"], parts["tunnel_down"]
        bill = of_status(rayslurm, idle)["bill"]["units"]
        # Accounting ends it with the second in which it was cancelled.
        assert 39 <= waste["seconds"] < ended["elapsed_seconds"]
        assert wasted("idle") == pytest.approx(waste["units"])
        assert waste["units"] == pytest.approx(bill * waste["seconds"] / ended["elapsed_seconds"])
        assert parts["never_ready"]["seconds"] == wasted("never_ready") == 0
        # Between Ray's being ready and the first answer through the tunnel a busy machine takes a moment.
        assert unreached["seconds"] < 15
        assert wasted("tunnel_down") == pytest.approx(unreached["units"])

        assert lab.state(busy) == "RUNNING"
        assert used(busy) == 1
        going = of_status(rayslurm, busy)
        assert going["consequences"] == []
        assert sum(part["seconds"] for part in going["waste"]) < 40
        rayslurm.run("cancel", f"{SITE}/{busy}", "--yes")
        lab.wait(lambda: of_status(rayslurm, busy)["final"], 90, "the end of the busy job")
        assert of_status(rayslurm, busy)["consequences"] == []
    assert "Traceback" not in rayslurm.log()
