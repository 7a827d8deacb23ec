"""Following jobs that rayslurm did not submit, or that Slurm names in odd ways; and what one of its own has printed."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.lab.lab import Lab
from tests.lab.serving import Rayslurm, configure_sites, own_site

pytestmark = pytest.mark.timeout(240)

SITE = "roihu"
PRICE = 0.75
"""CPU BU for a core and hour in Roihu's `small`."""

SHORT = "sbatch --parsable -p small -n 1 --mem=50 -t 5 -o /dev/null"
BUSY = "--wrap 'timeout 6 python3 -c \"while True: pass\"; true'"


@pytest.fixture(scope="module")
def rayslurm(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rayslurm]:
    """Not served yet: the jobs of these tests are there before."""
    with own_site(lab):
        # A job there prints a line and ends: `cat` stands for the supervisor.
        yield configure_sites(lab, tmp_path_factory.mktemp("following"), {SITE: {"python": "cat"}})


def at_site(lab: Lab, command: str) -> str:
    return lab.sh(command, user=f"researcher@{SITE}", check=True).stdout


def await_ended(lab: Lab, *job_ids: str) -> None:
    def ended() -> bool:
        states = [row["state"].split()[0] for row in lab.sacct(job_ids, ["state"], "-X")]
        return bool(states) and not {"PENDING", "RUNNING"} & set(states)

    lab.wait(ended, 90, f"{job_ids} ended")


def test_a_job_that_had_ended_before_serve_ever_ran(lab: Lab, rayslurm: Rayslurm) -> None:
    job_id = at_site(lab, f"{SHORT} {BUSY}").strip()
    await_ended(lab, job_id)
    with rayslurm.serving():
        rayslurm.run("track", f"{SITE}/{job_id}")
        job = {"site": SITE, "job_id": job_id}
        lab.wait(lambda: rayslurm.value("job_billing_units", **job) is not None, 90, "its bill on /metrics")
        printed = at_site(lab, f"seff {job_id}")
        units = re.search(r"Job consumed ([\d.]+) CSC billing units", printed)
        efficiency = re.search(r"CPU Efficiency: ([\d.]+)%", printed)
        assert units
        assert efficiency
        assert rayslurm.value("job_billing_units", **job, source="seff", kind="cpu", unit="BU") == float(units[1])
        ratio = rayslurm.value("job_cpu_efficiency_ratio", **job, source="seff")
        assert ratio == pytest.approx(float(efficiency[1]) / 100, abs=1e-9)
        assert rayslurm.value("jobs_finished_total", site=SITE, state="completed") == 1


def test_each_attempt_of_a_requeued_job_is_paid(lab: Lab, rayslurm: Rayslurm) -> None:
    # The first attempt lasts until it is requeued, however late accounting tells of it.
    wrap = 'test -n "$SLURM_RESTART_COUNT" && sleep 3 || sleep 300'
    job_id = at_site(lab, f"{SHORT} --requeue --wrap '{wrap}'").strip()
    lab.wait(lambda: lab.state(job_id) == "RUNNING", 30, "its first attempt")
    lab.wait(lambda: int(lab.sacct(job_id, ["elapsedraw"], "-X")[0]["elapsedraw"]) >= 3, 30, "three seconds of it")
    at_site(lab, f"scontrol requeue {job_id}")
    lab.wait(lambda: lab.state(job_id) == "PENDING", 30, "that it waits again")
    at_site(lab, f"scontrol update jobid={job_id} starttime=now")
    await_ended(lab, job_id)
    attempts = [int(row["elapsedraw"]) for row in lab.sacct(job_id, ["elapsedraw"], "-X", "--duplicates")]
    assert len(attempts) == 2
    assert min(attempts) > 0
    with rayslurm.serving():
        rayslurm.run("track", f"{SITE}/{job_id}")
        job = {"site": SITE, "job_id": job_id}
        lab.wait(lambda: rayslurm.value("job_billing_units", **job) is not None, 90, "its bill on /metrics")
        expected = PRICE * sum(attempts) / 3600
        assert rayslurm.value("job_billing_units", **job, source="formula") == pytest.approx(expected, rel=1e-6)
        assert rayslurm.value("job_restarts", **job) == 1


def test_the_parts_of_a_heterogeneous_job(lab: Lab, rayslurm: Rayslurm) -> None:
    job_id = at_site(lab, f"{SHORT} : -p small -n 1 --mem=60 --wrap 'srun --het-group=0,1 true'").strip()
    assert job_id.isdigit()
    with rayslurm.serving():
        rayslurm.run("track", f"{SITE}/{job_id}")

        def states() -> dict[str, str]:
            return {name: state for name, state in rayslurm.states().items() if name.partition("+")[0] == job_id}

        expected = {f"{job_id}+0": "completed", f"{job_id}+1": "completed"}
        lab.wait(lambda: states() == expected, 90, f"both parts' end on /metrics, not {states()}")
        rows = lab.sacct(job_id, ["jobid", "state"], "-X")
        assert {row["jobid"]: row["state"].lower() for row in rows} == expected


def test_what_a_job_has_printed(lab: Lab, rayslurm: Rayslurm) -> None:
    spec = rayslurm.folder / "talks.yaml"
    spec.write_text(
        "site: roihu\nname: talks\nenvironment: [seq 1 40000]\nray: {dashboard_tunnel: false}\n"
        "cluster: {nodes: 1, cpus_per_node: 1, memory_per_node: 64M, time: 5m, partition: small}\n"
    )
    with rayslurm.serving():
        launched = rayslurm.json("launch", str(spec))
        job = f"{SITE}/{launched['job_id']}"
        await_ended(lab, launched["job_id"])
        path = f"{launched['run_dir']}/slurm-{launched['job_id']}.out"
        truth = at_site(lab, f"cat {path}")
        shown = rayslurm.run("logs", job, "--lines", "5")
        assert shown.stdout.splitlines() == truth.splitlines()[-5:]
        assert path in shown.stderr
        told = rayslurm.json("logs", job, "--lines", "10000")
        assert told["size"] == len(truth.encode())
        assert truth.endswith(told["text"])
        assert len(told["text"].splitlines()) == 10_000
        assert "1\n2\n3\n" not in told["text"], "its end, not all of it"
        by_hand = rayslurm.run("logs", f"{SITE}/999999", check=False)
        assert by_hand.returncode == 3
        assert "did not launch job 999999" in by_hand.stderr
