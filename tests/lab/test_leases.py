"""Many jobs that open tunnels, and a `serve` that is killed again and again: in the end nothing of them is left.

A stand-in for the supervisor opens the tunnels of each job with the supervisor's own ssh, and ends after a while. How
many jobs and kills there are is set by `RAYSLURM_LEASE_LAUNCHES` and `RAYSLURM_LEASE_KILLS`; the tally is left in
`build/tunnel-leases.json`.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from exporter.store import leases
from exporter.store.db import Store
from exporter.tunnels.listeners import exposed, listeners
from tests.lab.crash import Crashing
from tests.lab.lab import Lab
from tests.lab.serving import SITE, configure, own_site

pytestmark = pytest.mark.timeout(1500)

LAUNCHES = int(os.environ.get("RAYSLURM_LEASE_LAUNCHES") or 12)
KILLS = int(os.environ.get("RAYSLURM_LEASE_KILLS") or 4)
EVIDENCE = Path(__file__).parents[2] / "build/tunnel-leases.json"

RANGES = {"dashboard_ports": "8100-8106", "metrics_ports": "8201-8207"}
"""Few, so that jobs must take over each other's ports."""

PORTS = frozenset({*range(8100, 8107), *range(8201, 8208)})
MOST_AT_ONCE = 4
"""Launches that wait or hold ports; with those that a kill leaves in the middle they find a port each."""

SPEC = """\
site: lab
name: lease
cluster: {nodes: 1, cpus_per_node: 1, memory_per_node: 64M, time: 5m, partition: small}
entrypoint: sleep 3
"""

STAND_IN = '''\
#!/usr/bin/python3
"""Opens a job's tunnels as the supervisor does, for as long as its entrypoint takes; writes down how that went."""
import importlib.util, json, os, subprocess, sys, time
from types import SimpleNamespace

sys.dont_write_bytecode = True
spec = importlib.util.spec_from_file_location("ray_job", "ray_job.py")
ray_job = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ray_job)
with open("plan.json") as file:
    plan = json.load(file)
vm = SimpleNamespace(**plan["vm"])
tunnels = [ray_job.Tunnel(SimpleNamespace(**one), vm, "127.0.0.1:9", ".") for one in plan["tunnels"]]
entrypoint = subprocess.Popen(["bash", "-c", plan["entrypoint"]])
while entrypoint.poll() is None:
    for tunnel in tunnels:
        tunnel.tend(time.monotonic())
    time.sleep(0.1)
alive = all(tunnel.child and tunnel.child.status() is None for tunnel in tunnels)
reasons = [tunnel.reason for tunnel in tunnels if tunnel.reason]
with open("went.json.new", "w") as file:
    json.dump({"alive": alive, "reasons": reasons}, file)
os.rename("went.json.new", "went.json")
'''

STEPS = ("folder-made", "copied", "submitting", "answered", "noted")
"""Where `serve` dies with a key that is in the file already, or about to be."""


@dataclass
class Left:
    """What was done, and what is left of it.

    Attributes:
        shared: pairs of jobs that ran at the same time with one port.
        reused: ports that more than one job had, one after the other.
        refused: jobs of which a tunnel wasn't open at the end.
    """

    launches: int = 0
    kills: int = 0
    jobs: int = 0
    absent: int = 0
    shared: int = 0
    reused: int = 0
    refused: int = 0
    exposed: int = 0
    lines: int = 0
    keys: int = 0
    leases: int = 0
    listening: int = 0
    secrets: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)


@pytest.fixture
def crashing(lab: Lab, tmp_path: Path) -> Iterator[Crashing]:
    stand_in = lab.researcher_home / "stand-in"
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)
    rayslurm = configure(
        lab, tmp_path, partition="small", python="/home/researcher/stand-in", practice_clock_factor=200,
        budget={"commands_per_hour": 240},
    )  # fmt: skip
    path = tmp_path / "rayslurm.yaml"
    written = yaml.safe_load(path.read_text())
    written["vm"] |= RANGES
    path.write_text(yaml.safe_dump(written))
    with own_site(lab), Store(rayslurm.state_dir / "rayslurm.sqlite3") as store:
        yield Crashing(lab, rayslurm, store, spec=SPEC)


def test_after_many_launches_ends_and_kills_nothing_is_left(lab: Lab, crashing: Crashing) -> None:
    chance = random.Random(20261125)
    keys = lab.cloud_home / ".ssh/authorized_keys"
    before = keys.read_text()
    steps = itertools.cycle(STEPS)
    seen_exposed: set[int] = set()
    asked = 0

    def room() -> bool:
        """Tells whether all that was asked for is done, and a few ports are free."""
        seen_exposed.update(port for port, addresses in listeners().items() if port in PORTS and exposed(addresses))
        with crashing.store.snapshot() as connection:
            holders = {lease.token for lease in leases.all_leases(connection)}
        return not crashing.requests_in("waiting") and not crashing.under_way() and len(holders) < MOST_AT_ONCE

    while sum(row.job_id is not None for row in crashing.journal()) < LAUNCHES:
        crashing.ask()
        asked += 1
        if (killed := crashing.tally.kills) < KILLS and asked * KILLS >= killed * LAUNCHES:
            if killed % 2 == 0:
                crashing.crash_at(next(steps))
            else:
                with crashing.started() as process:
                    crashing.wait(crashing.under_way, 60, "a launch is begun")
                    time.sleep(chance.uniform(0, 2.0))  # the random moment
                    crashing.kill(process)
        with crashing.started():
            crashing.wait(room, 120, "all done, and ports that are free")
        assert asked <= LAUNCHES + KILLS, "only a kill loses a launch"

    def nothing_left() -> bool:
        left = what_is_left(lab, crashing, before)
        return not (left.lines or left.keys or left.leases or left.listening or left.secrets)

    with crashing.started():
        crashing.await_settled(180)
        try:
            crashing.wait(nothing_left, 60, "nothing left")
        finally:
            left = what_is_left(lab, crashing, before)
            left.launches, left.kills, left.exposed = asked, crashing.tally.kills, len(seen_exposed)
            compare(lab, crashing, left)
            EVIDENCE.parent.mkdir(exist_ok=True)
            EVIDENCE.write_text(json.dumps(asdict(left), indent=1) + "\n", encoding="utf-8")

    assert keys.read_text() == before, "the file is as it was, byte by byte"
    assert (left.shared, left.exposed) == (0, 0), left.rows
    assert left.refused == 0, [row for row in left.rows if row["reasons"] or not row["alive"]]
    assert left.jobs == LAUNCHES
    assert left.kills == KILLS
    assert left.launches >= left.jobs + left.absent
    assert left.reused > 0, "else none could have been shared"


def what_is_left(lab: Lab, crashing: Crashing, before: str) -> Left:
    """Counts lines, keys, leases, listeners and secrets."""
    with crashing.store.snapshot() as connection:
        held = len(leases.all_leases(connection))
        (known,) = connection.execute("SELECT count(*) FROM job_keys").fetchone()
    lines = (lab.cloud_home / ".ssh/authorized_keys").read_text().splitlines()
    return Left(
        lines=len(lines) - len(before.splitlines()),
        keys=known,
        leases=held,
        listening=len(PORTS & set(listeners())),
        secrets=len(list((crashing.rayslurm.state_dir / "secrets").glob("*.ray"))),
    )


def compare(lab: Lab, crashing: Crashing, left: Left) -> None:
    """Holds the ports that each job was told against the times in which accounting says that it ran."""
    with crashing.store.snapshot() as connection:
        plans = {
            row["token"]: json.loads(json.loads(row["sent"])["plan.json"])
            for row in connection.execute("SELECT token, sent FROM submissions WHERE sent IS NOT NULL")
        }
    journal = crashing.journal()
    ids = [row.job_id for row in journal if row.job_id]
    times = {row["jobid"]: row for row in lab.sacct(ids, ["jobid", "state", "start", "end"], "-X")}
    left.absent = sum(row.state == "absent" for row in journal)
    for row in journal:
        if row.job_id is None:
            continue
        said = lab.sh(f"cat {row.run_dir}/went.json").stdout
        went = json.loads(said) if said else {"alive": False, "reasons": ["it wrote nothing"]}
        told = times[row.job_id]
        ports = [tunnel["vm_port"] for tunnel in plans[row.token]["tunnels"]]
        start, end = int(told["start"]), int(told["end"])
        left.rows.append({"job_id": row.job_id, "ports": ports, "start": start, "end": end, **went})
    left.jobs = len(left.rows)
    left.refused = sum(not row["alive"] for row in left.rows)
    for one, other in itertools.combinations(left.rows, 2):
        common = set(one["ports"]) & set(other["ports"])
        at_once = one["start"] < other["end"] and other["start"] < one["end"]
        left.shared += bool(common and at_once)
    every = [port for row in left.rows for port in row["ports"]]
    left.reused = sum(every.count(port) > 1 for port in set(every))
    assert set(every) <= PORTS
    assert all(len(row["ports"]) == len(set(row["ports"])) > 1 for row in left.rows), "dashboard and metrics"
    assert crashing.rayslurm.log().count("Traceback") == 0


def test_the_lease_of_a_job_is_listed_with_its_holder(lab: Lab, crashing: Crashing) -> None:
    """A stand-in's job while it runs, on `rayslurm tunnels list` and `connect`."""
    folder = crashing.rayslurm.folder
    (folder / "lease.yaml").write_text(SPEC.replace("sleep 3", "sleep 600"))
    rayslurm = crashing.rayslurm
    with rayslurm.serving():
        launched = rayslurm.json("launch", str(folder / "lease.yaml"))
        name = f"{SITE}/{launched['job_id']}"
        early = rayslurm.run("connect", name, check=False)
        assert early.returncode in {0, 3}
        lab.wait(lambda: rayslurm.run("connect", name, check=False).returncode == 0, 60, "it runs")

        def listening() -> Any:
            found = rayslurm.json("tunnels", "list")
            return found if all(one["listening"] == ["127.0.0.1"] for one in found) else None

        found = lab.wait(listening, 60, "both tunnels open")
        assert {one["tunnel"] for one in found} == {"dashboard", "metrics-0"}
        assert {(one["site"], one["job_id"], one["open"], one["exposed"]) for one in found} == {
            (SITE, launched["job_id"], True, False)
        }
        shown = rayslurm.json("connect", name)
        assert shown["dashboard_url"] == f"http://127.0.0.1:{launched['dashboard_port']}"
        token = Path(shown["token_file"]).read_text()
        assert len(token) == 64
        assert token not in json.dumps(shown)
        rayslurm.run("cancel", name, "--yes")
        lab.wait(lambda: rayslurm.json("tunnels", "list") == [], 120, "its ports free again")
        ended = rayslurm.run("connect", name, check=False)
        assert ended.returncode == 3
        assert "has ended, cancelled" in ended.stderr
