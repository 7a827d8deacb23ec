"""Real jobs that meet their limit, one after the other: one chain, one folder, one sum, and a cap that holds."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.lab.lab import Lab
from tests.lab.serving import Rayslurm, configure_sites, own_site

SECOND_UNITS = 1 / 3600
"""Core-hours that a second costs in LUMI's `small` with up to a core and 2 GB; not rounded, as what seff prints is."""

SPEC = """\
site: {site}
name: {name}
cluster:
  {{nodes: 1, cpus_per_node: 1, memory_per_node: 1200M, object_store_per_node: 100M, time: {time}, partition: small}}
ray: {{dashboard_tunnel: false}}
continue_on_timeout: {continued}
entrypoint: >-
  {entrypoint}
"""

# The supervisor is warned as Slurm warns it; that Slurm does so is tested with the other ends of a job.
STEPS = (
    'n=$(cat steps || echo 0); n=$((n+1)); echo $n > steps; echo "step $n, continuation $RAYSLURM_CONTINUATION";'
    " [ $n -ge 4 ] && exit 0; kill -USR1 $PPID; sleep 1000"
)
CAP_SECONDS = 180 + 78
LASTS = "sleep 36; kill -USR1 $PPID; sleep 1000"


def chains(rayslurm: Rayslurm) -> dict[str, dict[str, Any]]:
    """The chains in `rayslurm status`, by the readable names of their jobs; each must be one entry."""
    entries = [job for job in rayslurm.json("status")["jobs"] if job["chain"]]
    names = [job["job_name"] for job in entries]
    assert len(names) == len(set(names))
    return {job["job_name"]: job["chain"] for job in entries}


def billed(lab: Lab, job_id: str) -> float:
    printed = lab.sh(f"seff {job_id}", user="researcher@roihu").stdout
    told = re.search(r"Job consumed ([\d.]+) CSC billing units", printed)
    assert told
    return float(told[1])


@pytest.mark.ray
@pytest.mark.timeout(400)
def test_a_chain_of_three_continuations_and_one_that_its_cap_stops(lab: Lab, ray_venv: Path, tmp_path: Path) -> None:
    rayslurm = configure_sites(lab, tmp_path, {"roihu": {}, "lumi": {}}, ray=ray_venv)
    (tmp_path / "steps.yaml").write_text(
        SPEC.format(site="roihu", name="steps", time="10m", continued="{times: 3}", entrypoint=STEPS)
    )
    # After one job of 40 to 75 s another of three minutes may follow; after two of them none may.
    cap = f"{{times: 9, total_units: {CAP_SECONDS * SECOND_UNITS:.6f}}}"
    (tmp_path / "capped.yaml").write_text(
        SPEC.format(site="lumi", name="capped", time="3m", continued=cap, entrypoint=LASTS)
    )
    with own_site(lab), rayslurm.serving():
        launched = {name: rayslurm.json("launch", str(tmp_path / f"{name}.yaml")) for name in ("steps", "capped")}

        def ended() -> bool:
            found = chains(rayslurm)
            return len(found) == 2 and all(chain["end"] and chain["bill"] for chain in found.values())

        lab.wait(ended, 300, "both chains' ends", every=1)
        found = chains(rayslurm)

        steps = found["steps"]
        assert len(steps["job_ids"]) == 4
        assert steps["end"] == f"job {steps['job_ids'][-1]} ended completed, not at its time limit"
        assert steps["bill"]["units"] == pytest.approx(sum(billed(lab, job_id) for job_id in steps["job_ids"]))
        states = {job_id: lab.state(job_id) for job_id in steps["job_ids"]}
        assert list(states.values()) == ["FAILED", "FAILED", "FAILED", "COMPLETED"]
        folder = launched["steps"]["run_dir"]
        assert lab.sh(f"cat {folder}/work/steps", check=True).stdout == "4\n"
        last = rayslurm.run("logs", f"roihu/{steps['job_ids'][-1]}").stdout
        assert "step 4, continuation 3" in last
        shown = rayslurm.run("status").stdout
        assert "steps (4 of 4)" in shown
        assert "the entrypoint ended with exit status 0" in shown

        capped = found["capped"]
        assert (capped["bill"]["kind"], capped["bill"]["unit"]) == ("cpu", "core-hours")
        assert len(capped["job_ids"]) == 2, capped
        assert "over continue_on_timeout.total_units" in capped["end"]
        assert capped["bill"]["units"] <= CAP_SECONDS * SECOND_UNITS
        for job_id in capped["job_ids"]:
            folder = next(
                line for line in lab.sh("ls -d rayslurm/capped-*", check=True).stdout.split()
                if f'"job_id": "{job_id}"' in lab.sh(f"cat {line}/summary.json", check=True).stdout
            )  # fmt: skip
            summary = json.loads(lab.sh(f"cat {folder}/summary.json", check=True).stdout)
            assert (summary["outcome"], summary["exit_code"]) == ("limit", 75)
        names = lab.sh("squeue --me -h -o %j", check=True).stdout
        assert names == "", "nothing runs on"
