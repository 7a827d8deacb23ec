"""What the jobs in the queue cost by what it tells of them, and whether that was right when their bill is there."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import replace

from exporter.billing import reconcile
from exporter.billing.charge import BILLING_KIND
from exporter.billing.price import NoPrice
from exporter.billing.reconcile import Estimated
from exporter.launch.pricing import hourly_price_of_job
from exporter.probes.base import ProbeContext
from exporter.states import UNKNOWN
from exporter.store import bills, estimates, jobs
from exporter.store.estimates import Estimate, Mismatch

_HOUR = 3600.0


def take_in(connection: sqlite3.Connection, context: ProbeContext, job_ids: Iterable[str]) -> None:
    """Works out anew what jobs cost that the queue has just told of.

    Args:
        connection: of a write transaction, in which the queue's words stand already.
        context: what a probe works with.
        job_ids: the followed ones among those that the queue names.
    """
    site, now = context.site, context.clock()
    estimates.open_counter(connection, site.name)
    for job_id in sorted(job_ids):
        for job in jobs.find(connection, job_id, site.name):
            before = estimates.of_job(connection, site.name, job_id)
            hourly = hourly_price_of_job(connection, job, site)
            waits = job.state == "pending"
            unreadable = job.state == UNKNOWN or (not waits and None in {job.start_time, job.elapsed_seconds})
            if isinstance(hourly, NoPrice) or unreadable:
                continue  # what the last look told stays, with its age
            hours = (job.elapsed_seconds or 0.0) / _HOUR
            limit = job.time_limit_seconds
            per_hour = float(hourly.units_per_hour)
            started = None if waits else job.start_time
            found = Estimate(
                site=site.name,
                job_id=job_id,
                kind=hourly.kind,
                unit=hourly.unit,
                source="squeue" if hourly.kind == BILLING_KIND else "formula",
                rule=f"{hourly.rule}; {hourly.source}",
                units_per_hour=per_hour,
                limit_units=None if limit is None else per_hour * limit / _HOUR,
                start_time=started,
                attempt_units=0.0 if started is None else per_hour * hours,
                attempts=0,
                earlier_units=0.0,
                restarts=job.restarts or 0,
                at=now,
            )
            estimates.keep(connection, after(found, before))


def after(found: Estimate, before: Estimate | None) -> Estimate:
    """Returns an estimate with what is known of earlier attempts.

    One is over when the job waits again, or has begun anew and Slurm counts one more. A start alone tells nothing:
    Slurm moves it when nodes had to boot first, and a cell can be garbled.

    Args:
        found: what the queue tells now.
        before: what was known; None where nothing was.
    """
    if before is None or (before.kind, before.unit) != (found.kind, found.unit):
        return found
    begins_anew = found.start_time != before.start_time and found.restarts > before.restarts
    if before.start_time is not None and (found.start_time is None or begins_anew):
        return replace(found, attempts=before.attempts + 1, earlier_units=before.earlier_units + before.attempt_units)
    return replace(found, attempts=before.attempts, earlier_units=before.earlier_units)


def settle(connection: sqlite3.Connection, context: ProbeContext) -> None:
    """Holds the estimates of jobs whose bill is there against it; what differs is counted and kept with its reason.

    Of a job that Slurm started again that isn't done: what an attempt cost is known to the last look at it alone. Nor
    where the site has no rates and prints a bill all the same: nobody said what that would be.

    Args:
        connection: of a write transaction.
        context: what a probe works with.
    """
    site = context.site.name
    for estimate in estimates.to_settle(connection, site):
        (job,) = jobs.find(connection, estimate.job_id, site)
        bill = bills.of_job(connection, site, job.job_id)
        mismatch = None
        again = job.restarts or estimate.attempts
        without_rates = estimate.source == "squeue" and bill is not None and bill.source == "seff"
        if bill is not None and job.elapsed_seconds is not None and not again and not without_rates:
            units = estimate.units_per_hour * job.elapsed_seconds / _HOUR
            estimated = Estimated(units, estimate.kind, estimate.unit, estimate.rule, job.tres_by_name)
            accounted = None if job.accounted_tres is None else json.loads(job.accounted_tres)
            by_formula = bills.by_source(connection, site, job.job_id, "formula")
            reason = reconcile.difference(estimated, bill, by_formula, accounted)
            if reason is not None:
                mismatch = Mismatch(
                    site, job.job_id, units, estimate.kind, estimate.unit, bill.units, bill.kind, bill.unit, reason,
                    context.clock(),
                )  # fmt: skip
        estimates.settle(connection, estimate, mismatch)
