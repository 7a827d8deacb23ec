"""Whether a job that met its time limit is followed by another one. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from exporter.store.chains import Chain
from exporter.store.jobs import JobRow
from exporter.store.runs import Run

LIMIT = "limit"
"""The outcome that a supervisor writes when the warning before the time limit ended its job; see `jobs/ray_job.py`."""

PATIENCE_SECONDS = 7 * 86400.0
"""How long after a job's end it may turn out how it ended; what is older is left alone."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do about a chain.

    Attributes:
        action: launch the next job, wait until more is known, or stop for good.
        reason: why, for people.
    """

    action: Literal["launch", "wait", "stop"]
    reason: str


def decide(chain: Chain, *, now: float) -> Decision:
    """Says what is to follow the last job of a chain, which has ended.

    Money is spent only on what is known: where the chain has a cap, another job is launched only when what the earlier
    ones cost is known, and when a whole one more at the last one's price stays below it.

    Args:
        chain: the chain; its last job has its final record.
        now: epoch seconds.
    """
    last = chain.last
    job = last.job
    if job is None:
        return Decision("wait", "its last job isn't known")
    if job.end_time is not None and now - job.end_time > PATIENCE_SECONDS:
        return Decision("stop", f"job {job.job_id} ended more than {PATIENCE_SECONDS / 86400:.0f} days ago")
    run = last.run
    if job.start_time is not None and not (run is not None and run.settled):
        return Decision("wait", f"how job {job.job_id} ended isn't read yet")
    if not _met_limit(job, run):
        return Decision("stop", f"job {job.job_id} ended {job.state.replace('_', ' ')}, not at its time limit")
    if run is None or run.ready_time is None:
        return Decision("stop", f"Ray was never ready in job {job.job_id}, so another one would hardly get further")
    return _another(chain, f"job {job.job_id} met its time limit")


def _met_limit(job: JobRow, run: Run | None) -> bool:
    """Tells whether a job was ended by its time limit, and by nothing else before."""
    outcome = None if run is None else run.outcome
    if job.state == "timeout":
        return outcome in {None, LIMIT, "terminated"}
    return outcome == LIMIT and job.state in {"completed", "failed"}


def _another(chain: Chain, why: str) -> Decision:
    if chain.last.submission.link >= chain.times:
        return Decision("stop", f"continued {chain.times} times, which is all that continue_on_timeout.times allows")
    if chain.total_units is None:
        return Decision("launch", why)
    return _within_cap(chain, chain.total_units, why)


def _within_cap(chain: Chain, total_units: float, why: str) -> Decision:
    last = chain.last
    if any(link.bill_awaited for link in chain.links):
        return Decision("wait", "what the chain has cost isn't known yet")
    spent, bill, job = chain.bill, last.bill, last.job
    if "," in str(last.submission.spec.get("partition")):
        return Decision("stop", "in which of its partitions the next job would run, and so what it costs, isn't known")
    if spent is None or bill is None or job is None or not job.elapsed_seconds:
        return Decision("stop", "what the chain has cost isn't known, so continue_on_timeout.total_units can't be held")
    # The limit of a job that ran may have been changed; the next one asks for what the spec says.
    longest = max(job.elapsed_seconds, job.time_limit_seconds or 0.0, float(last.submission.spec["cluster"]["time"]))
    another = bill.units / job.elapsed_seconds * longest
    if spent.units + another > total_units:
        return Decision(
            "stop",
            f"{spent.units:.2f} of {total_units:g} {spent.kind} {spent.unit} are spent, and another job may cost "
            f"{another:.2f}: over continue_on_timeout.total_units",
        )
    return Decision("launch", why)
