"""Slurm that fails, for real where it can be made to: each failure has its name on /metrics, and mends by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from tests.lab.lab import Lab
from tests.lab.serving import SITE, Rayslurm, configure, own_site

pytestmark = pytest.mark.timeout(240)

SHORT = ("-p", "test", "--mem=100", "-t", "5")


@pytest.fixture(scope="module")
def rayslurm(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rayslurm]:
    # slurmctld's clients give up after 9 to 18 s. The clock is fast: most of a test's time goes into waiting for looks.
    one = configure(lab, tmp_path_factory.mktemp("faults"), practice_clock_factor=120, ssh={"command_deadline": "40s"})
    with own_site(lab), one.serving():
        yield one


@contextmanager
def stopped(lab: Lab, daemon: str) -> Iterator[None]:
    lab.service("ctl", "stop", daemon)
    try:
        yield
    finally:
        lab.service("ctl", "start", daemon)


KINDS = {
    "empty_answer": "empty",
    "incomplete_answer": "half",
    "answer_too_large": "huge",
    "unknown_field": "unknown-field",
}
"""What the lab's login node is told to do, so that a command fails in this way."""


def broken(lab: Lab, command: str, fault: str) -> AbstractContextManager[None]:
    if fault.endswith("_unreachable"):
        return stopped(lab, fault.removesuffix("_unreachable"))
    return lab.fault(command, KINDS[fault])


def reason(rayslurm: Rayslurm, probe: str = "jobs") -> str | None:
    """Returns why a probe fails, as /metrics has it."""
    samples = rayslurm.samples()
    identity = {("site", SITE), ("probe", probe)}
    for labels in samples.get("rayslurm_probe_failure_reason", {}):
        if identity <= labels:
            assert samples["rayslurm_probe_success"][frozenset(identity)] == 0
            return dict(labels)["reason"]
    return None


def running_job(lab: Lab, rayslurm: Rayslurm) -> str:
    job_id = lab.sbatch(*SHORT, wrap="sleep 300")
    rayslurm.run("track", f"{SITE}/{job_id}")
    lab.wait(lambda: rayslurm.states().get(job_id) == "running", 60, f"{job_id} running on /metrics")
    return job_id


def await_end(lab: Lab, rayslurm: Rayslurm, job_id: str) -> None:
    """Waits until a cancelled job's end is known, and every job is counted once.

    Accounting tells of a job's end before that of its steps; it is counted when all is told.
    """
    lab.wait(lambda: rayslurm.states()[job_id] == "cancelled", 90, "its true end")
    labels = {"site": SITE, "state": "cancelled", "partition": "test"}

    def counted() -> bool:
        cancelled = sum(state == "cancelled" for state in rayslurm.states().values())
        return rayslurm.value("jobs_finished_total", **labels) == cancelled

    lab.wait(counted, 60, "every job counted once")


@pytest.mark.parametrize("fault", ["slurmctld_unreachable", "empty_answer", "incomplete_answer", "answer_too_large"])
def test_a_queue_that_cannot_be_read_changes_nothing(lab: Lab, rayslurm: Rayslurm, fault: str) -> None:
    job_id = running_job(lab, rayslurm)
    with broken(lab, "squeue", fault):
        lab.wait(lambda: reason(rayslurm) == fault, 90, f"{fault} on /metrics")
        assert rayslurm.states()[job_id] == "running", "nothing is made up"
    lab.wait(lambda: reason(rayslurm) is None, 90, "all is well again")
    assert rayslurm.value("probe_success", site=SITE, probe="jobs") == 1
    assert rayslurm.states()[job_id] == "running"
    lab.sh(f"scancel {job_id}", check=True)
    await_end(lab, rayslurm, job_id)


@pytest.mark.parametrize(
    "fault", ["slurmdbd_unreachable", "unknown_field", "empty_answer", "incomplete_answer", "answer_too_large"]
)
def test_accounting_that_cannot_be_read_ends_no_job(lab: Lab, rayslurm: Rayslurm, fault: str) -> None:
    job_id = running_job(lab, rayslurm)
    with broken(lab, "sacct", fault):
        lab.sh(f"scancel {job_id}", check=True)
        lab.wait(lambda: reason(rayslurm) == fault, 90, f"{fault} on /metrics")
        assert rayslurm.states()[job_id] in {"running", "unknown"}, "nobody knows how it ended"
        job = {"site": SITE, "job_id": job_id}
        assert rayslurm.value("job_end_timestamp_seconds", **job) is None
        assert rayslurm.value("job_exit_code", **job) is None
    await_end(lab, rayslurm, job_id)
    assert reason(rayslurm) is None
    assert "Traceback" not in rayslurm.log()
