"""By how much a project's balance rose, held against what our jobs cost meanwhile, when a new balance is there."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

from exporter.billing import windows
from exporter.billing.windows import Margins, Reading, Use
from exporter.probes.base import ProbeContext
from exporter.records import AllocationRecord, Bill
from exporter.store import differences
from exporter.store.differences import Balance, Job, Opinion, Rise

LONGEST_SECONDS = 86400.0
"""How long the window is at most over which a project's use is compared with ours."""

OPINION_SECONDS = 3 * 86400.0
"""How long after a job's end its project's balance may still be a second opinion on its bill."""

USUAL_REFRESH_SECONDS = 3600.0
"""How often a provider reckons its balances anew where it isn't known."""

SKEW_SECONDS = 600.0
"""By how much the clocks of a site may differ among themselves."""


def take_in(
    connection: sqlite3.Connection, context: ProbeContext, records: Iterable[AllocationRecord], *, exact: bool
) -> None:
    """Takes in new balances of a project.

    Args:
        connection: of a write transaction.
        context: what a probe works with.
        records: the balances.
        exact: whether they have decimals; otherwise they are printed in whole units.
    """
    site = context.site
    policy = site.profile.policy
    refresh = (policy.balance_refresh if policy else None) or USUAL_REFRESH_SECONDS
    margins = Margins(site.scaled(refresh), site.scaled(SKEW_SECONDS))
    for record in records:
        if record.used is None or record.updated_time is None:
            continue
        balance = Balance(record.provider, record.project, record.kind, record.unit)
        differences.note(connection, balance, reckoned=record.updated_time, used=record.used, whole=not exact)
        readings = [Reading(*row) for row in differences.history(connection, balance)]
        paid_by_jobs = balance.kind in {"cpu", "gpu"}
        jobs = differences.jobs_of(connection, balance, since=readings[0].reckoned) if paid_by_jobs else []
        uses = [_use(job, context.clock()) for job in jobs]
        found = windows.latest(readings, uses, longest=site.scaled(LONGEST_SECONDS))
        rise = None if found is None else Rise(balance, found.begin, found.end, found.units, found.ours, found.share)
        differences.keep(connection, balance, rise)
        recently = record.updated_time - site.scaled(OPINION_SECONDS)
        _give_opinions(connection, balance, readings, list(zip(jobs, uses, strict=True)), margins, since=recently)


def _use(job: Job, now: float) -> Use:
    end = now if job.end_time is None else job.end_time
    start = end if job.start_time is None else job.start_time
    # Of a job that Slurm started again the times of the earlier attempts aren't known, so nor is what falls where.
    told = None if job.again or job.start_time is None else job.units
    return Use(job.site, job.job_id, min(start, end), end, told, job.final)


def _give_opinions(
    connection: sqlite3.Connection,
    balance: Balance,
    readings: Sequence[Reading],
    ours: Sequence[tuple[Job, Use]],
    margins: Margins,
    *,
    since: float,
) -> None:
    for job, use in ours:
        if job.units is None or use.units is None or not job.final or use.end < since:
            continue
        if differences.opinion_of(connection, job.site, job.job_id) is not None:
            continue
        others = [other for _, other in ours if other is not use]
        found = windows.alone(readings, use, others, margins)
        if found is not None:
            bill = Bill(job.source, balance.kind, balance.unit, job.units, balance.project)
            words = windows.opinion(found, bill)
            opinion = Opinion(job.site, job.job_id, balance, found.begin, found.end, found.units, job.units, words)
            differences.give_opinion(connection, opinion)
