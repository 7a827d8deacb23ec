"""From sbatch to ready: the supervisor beside a script written by hand, by somebody who knows Ray and Slurm well."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from tests.lab.lab import Lab
from tests.lab.serving import Rayslurm, configure, own_site

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

PAIRS, MORE_PAIRS = 3, 5
"""How many are measured, and at most where other programs on this machine spoil the first."""

AT_MOST = 1.5

SPEC = """\
site: lab
name: timed
cluster: {nodes: 2, cpus_per_node: 2, memory_per_node: 3000M, object_store_per_node: 200M, time: 10m}
ray: {dashboard_tunnel: false}
"""

BY_HAND = """\
#!/bin/bash
#SBATCH --partition=test --nodes=2 --ntasks-per-node=1 --cpus-per-task=2 --mem=3000M --time=10 --output=by-hand-%j
set -e
other=$(scontrol show hostnames | grep -vx "$(hostname)")
ip=$(hostname -I | cut -d' ' -f1)
start="{ray}/bin/ray start --num-cpus=2 --object-store-memory=200000000 --disable-usage-stats"
$start --head --node-ip-address=$ip --port=6379 --temp-dir=/tmp/h$SLURM_JOB_ID
srun --overlap -N1 -n1 -w $other $start --address=$ip:6379 --block &
{ray}/bin/python - <<PYTHON
import json, time
import ray
ray.init(address="$ip:6379")
while sum(node["Alive"] for node in ray.nodes()) < 2:
    time.sleep(0.1)
with open("alive-$SLURM_JOB_ID.part", "w") as file:
    json.dump(time.time(), file)
PYTHON
mv alive-$SLURM_JOB_ID.part alive-$SLURM_JOB_ID
wait
"""


def submitted(lab: Lab) -> float:
    """Returns when `sbatch` was last called."""
    return max(entry.time for entry in lab.site_log() if entry.program == "sbatch")


def by_hand(lab: Lab) -> float:
    """Returns the seconds from sbatch to two living nodes."""
    done = lab.sh("sbatch --parsable by-hand.sbatch", check=True)
    alive = lab.researcher_home / f"alive-{done.stdout.strip()}"
    lab.wait(alive.exists, 120, "two living nodes by hand")
    return float(json.loads(alive.read_text())) - submitted(lab)


def supervised(lab: Lab, rayslurm: Rayslurm) -> float:
    """Returns the seconds from sbatch to ready.json."""
    launched = rayslurm.json("launch", str(rayslurm.folder / "spec.yaml"))
    ready = lab.researcher_home / Path(launched["run_dir"]).relative_to("/home/researcher") / "ready.json"
    lab.wait(ready.exists, 120, "ready.json")
    return float(json.loads(ready.read_text())["ready_time"]) - submitted(lab)


def test_it_is_ready_in_half_as_much_again_as_by_hand_at_most(lab: Lab, ray_venv: Path, tmp_path: Path) -> None:
    rayslurm = configure(lab, tmp_path, ray=ray_venv)
    (tmp_path / "spec.yaml").write_text(SPEC)
    script = lab.researcher_home / "by-hand.sbatch"
    script.write_text(BY_HAND.format(ray=ray_venv))
    script.chmod(0o644)
    theirs: list[float] = []
    ours: list[float] = []
    while len(ours) < PAIRS or (
        statistics.median(ours) > AT_MOST * statistics.median(theirs) and len(ours) < MORE_PAIRS
    ):
        with own_site(lab):
            theirs.append(by_hand(lab))
        with own_site(lab):
            ours.append(supervised(lab, rayslurm))
        print(f"by hand {theirs[-1]:.1f} s, supervised {ours[-1]:.1f} s")
    print(f"medians {statistics.median(theirs):.1f} s, {statistics.median(ours):.1f} s")
    assert statistics.median(ours) <= AT_MOST * statistics.median(theirs)
