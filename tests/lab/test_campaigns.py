"""Campaigns on a real site: a sweep whose `serve` is killed, what the machine ended, and times that come too early.

The supervisor's place is taken by a script that runs the entrypoint with its parameters: no Ray is needed to see which
jobs there were, and when.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.lab.lab import COMPUTE, Lab
from tests.lab.serving import SITE, Rayslurm, configure, own_site

pytestmark = pytest.mark.timeout(600)

STAND_IN = """\
#!/usr/bin/python3
import json, os, subprocess, sys
plan = json.load(open("plan.json"))
sys.exit(subprocess.call(["bash", "-c", plan["entrypoint"]], env={**os.environ, **plan["ray"]["env"]}))
"""
SPEC = """\
site: lab
cluster: {{nodes: 1, cpus_per_node: 1, memory_per_node: 64M, time: 5m, partition: small}}
ray: {{dashboard_tunnel: false, metrics_tunnels: false}}
entrypoint: {entrypoint}
schedule: {schedule}
"""
NEVER = "{every: 300d}"
SETTLED = 120.0


@pytest.fixture
def rayslurm(lab: Lab, tmp_path: Path) -> Iterator[Rayslurm]:
    stand_in = lab.researcher_home / "campaign-stand-in"
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)
    made = configure(
        lab, tmp_path, partition="small", python="/home/researcher/campaign-stand-in", practice_clock_factor=120,
        budget={"commands_per_hour": 240},
    )  # fmt: skip
    (tmp_path / "campaigns").mkdir()
    with own_site(lab):
        yield made


def write(rayslurm: Rayslurm, name: str, entrypoint: str, more: str = "", schedule: str = NEVER) -> None:
    path = rayslurm.folder / "campaigns" / f"{name}.yaml"
    path.write_text(SPEC.format(entrypoint=entrypoint, schedule=schedule) + more)


def runs(rayslurm: Rayslurm, name: str) -> list[dict[str, Any]]:
    """The runs of a campaign, oldest first; none where it isn't known yet."""
    done = rayslurm.run("campaigns", "list", "--json")
    if f'"campaign": "{name}"' not in done.stdout:
        return []
    found: list[dict[str, Any]] = rayslurm.json("campaigns", "history", name)
    return found[::-1]


def states(rayslurm: Rayslurm, name: str) -> list[str]:
    return [run["state"] for run in runs(rayslurm, name)]


def in_accounting(lab: Lab, name: str) -> list[tuple[str, str, float, float]]:
    """Job, state, submission and end of each job of that name, by sacct itself."""
    lines = lab.sh(
        "SLURM_TIME_FORMAT=%s sacct -n -X -P -S now-1days -E now+1days -s PD,R,S,CD,CA,F,TO,NF,PR,BF,DL,OOM "
        "-o jobid,state,submit,end,jobname",
        check=True,
    ).stdout.splitlines()
    rows = [line.split("|") for line in lines]
    return [
        (job_id, state.split()[0], float(submit), float(end) if end.isdigit() else time.time())
        for job_id, state, submit, end, job_name in rows
        if job_name.startswith(f"{name}.rs")
    ]


def most_at_once(jobs: list[tuple[str, str, float, float]]) -> int:
    """How many of these were in the queue or running at the same time."""
    steps = sorted([(submit, 1) for _, _, submit, _ in jobs] + [(end, -1) for _, _, _, end in jobs])
    most = going = 0
    for _, step in steps:
        going += step
        most = max(most, going)
    return most


def test_a_sweep_ends_as_it_should_whoever_is_killed_meanwhile(lab: Lab, rayslurm: Rayslurm) -> None:
    write(
        rayslurm,
        "sweep",
        'echo "$LR $SEED" >> ~/sweep; sleep 2',
        "matrix: {LR: [1, 2, 3], SEED: [1, 2, 3, 4]}\nat_once: 3\n",
    )
    write(rayslurm, "fails", "exit 3", "retries: {times: 3, back_off: 1m}\n")
    (lab.researcher_home / "sweep").unlink(missing_ok=True)
    kills = 0
    process = rayslurm.start()
    try:
        rayslurm.await_ready(process)
        started = rayslurm.json("launch", "sweep")
        assert len(started["jobs"]) == 12
        assert sum(job["state"] == "launched" for job in started["jobs"]) == 3
        rayslurm.run("launch", "fails")
        again = rayslurm.run("launch", "sweep", check=False)
        assert (again.returncode, "still goes on (concurrency: forbid)" in again.stderr) == (4, True)
        for launched in (5, 8):
            lab.wait(lambda least=launched: len(in_accounting(lab, "sweep")) >= least, SETTLED, f"job {launched}")  # type: ignore[misc]  # a lambda with a default
            process.kill()
            process.wait()
            kills += 1
            process = rayslurm.start()
            rayslurm.await_ready(process)
        lab.wait(lambda: states(rayslurm, "sweep") == ["succeeded"], SETTLED, "the end of the sweep")
        lab.wait(lambda: states(rayslurm, "fails") == ["failed"], SETTLED, "the end of the job that fails")
        assert rayslurm.value("campaign_runs_total", site=SITE, campaign="sweep", outcome="succeeded") == 1
        assert rayslurm.value("jobs_submitted_total", site=SITE, campaign="sweep") == 12
        assert rayslurm.value("campaign_runs_total", site=SITE, campaign="fails", outcome="failed") == 1
    finally:
        process.kill()
        process.wait()
    jobs = in_accounting(lab, "sweep")
    assert [state for _, state, _, _ in jobs] == ["COMPLETED"] * 12
    # Accounting tells seconds: one that ends within the second in which another is submitted overlaps it by that.
    assert most_at_once([(job, state, submit + 1, end) for job, state, submit, end in jobs]) <= 3
    seen = (lab.researcher_home / "sweep").read_text().splitlines()
    assert sorted(seen) == sorted(f"{lr} {seed}" for lr in (1, 2, 3) for seed in (1, 2, 3, 4))
    assert [state for _, state, _, _ in in_accounting(lab, "fails")] == ["FAILED"], (
        "what fails by itself is not retried"
    )
    assert kills == 2
    assert "Traceback" not in rayslurm.log()


def soon(seconds: float = 3) -> str:
    """A time for `start`, from which every interval is counted: the first run is due then."""
    return f"start: {datetime.now(UTC) + timedelta(seconds=seconds):%Y-%m-%d %H:%M:%S}\n"


def test_a_job_that_runs_over_its_next_time_is_missed_or_waited_for_and_a_dead_node_is_retried(
    lab: Lab, rayslurm: Rayslurm
) -> None:
    every = "{every: 1h}"

    def due_again() -> None:
        first = soon()
        write(rayslurm, "forbids", "sleep 20", first, every)
        write(rayslurm, "queues", "sleep 20", f"{first}concurrency: queue\n", every)

    with rayslurm.serving():
        due_again()
        for name in ("forbids", "queues"):
            lab.wait(lambda name=name: states(rayslurm, name) == ["running"], 60, f"the run of {name}")  # type: ignore[misc]  # a lambda with a default
        lab.wait(lambda: len(in_accounting(lab, "queues")) == 1, 60, "its job")
        due_again()
        lab.wait(lambda: states(rayslurm, "forbids") == ["running", "missed"], 60, "the miss")
        assert "still went on (concurrency: forbid)" in runs(rayslurm, "forbids")[1]["reason"]
        lab.wait(lambda: states(rayslurm, "queues") == ["running", "waiting"], 60, "the run that waits")
        assert len(in_accounting(lab, "queues")) == 1

        write(rayslurm, "retries", "sleep 3000", "retries: {times: 1, back_off: 1m}\n")
        lab.wait(lambda: "retries" in rayslurm.run("campaigns", "list").stdout, 60, "its file is read")
        (job,) = rayslurm.json("launch", "retries")["jobs"]
        lab.wait(lambda: lab.state(job["job_id"]) == "RUNNING", 60, "the job runs")
        node = lab.sh(f"squeue -h -j {job['job_id']} -o %N", check=True).stdout.strip()
        assert node in COMPUTE
        lab.wait(lambda: states(rayslurm, "forbids") == ["succeeded", "missed"], 90, "the end of the first")
        lab.wait(lambda: states(rayslurm, "queues") == ["succeeded", "succeeded"], 120, "one after the other")
        first, second = sorted(in_accounting(lab, "queues"), key=lambda job: job[2])
        assert first[3] <= second[2], "the second was submitted when the first had ended"
        assert len(in_accounting(lab, "forbids")) == 1
        assert rayslurm.value("campaign_missed_runs_total", site=SITE, campaign="forbids") == 1
        assert rayslurm.value("campaign_missed_runs_total", site=SITE, campaign="queues") == 0

        lab.kill_node(node)
        lab.wait(lambda: len(in_accounting(lab, "retries")) == 2, 120, "the job is launched again")
        by_state = [state for _, state, _, _ in sorted(in_accounting(lab, "retries"), key=lambda job: job[2])]
        assert by_state[0] == "NODE_FAIL"
        assert states(rayslurm, "retries") == ["running"]
        lab.sh("scancel --me", check=True)
        lab.wait(lambda: states(rayslurm, "retries") == ["cancelled"], SETTLED, "the end of the second")
        assert len(in_accounting(lab, "retries")) == 2, "what a person cancelled is not launched again"
    assert "Traceback" not in rayslurm.log()
