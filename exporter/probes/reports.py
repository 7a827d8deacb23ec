"""The site's own report on a finished job, by `seff`: how well it used what it had and, at CSC, what it cost.

Each finished job is asked for once, when accounting has said its last word on it; more often only while that fails.
"""

from __future__ import annotations

import logging
import sqlite3
from dataclasses import dataclass

from exporter.client.client import checked, whole
from exporter.efficiency import from_seff
from exporter.errors import BudgetExhaustedError, ConnectError, InputError, RayslurmError
from exporter.parsers.seff import parse
from exporter.probes import estimating
from exporter.probes.base import ProbeContext, Unhurried
from exporter.records import Bill, Parsed, SeffReport
from exporter.states import base_state
from exporter.store import awaited, bills, jobs, reports
from exporter.store.awaited import Awaited
from exporter.store.jobs import JobRow

_log = logging.getLogger(__name__)

LOOK_SECONDS = 60.0
"""Between two looks into the store for finished jobs."""

PAUSE_SECONDS = 5.0
"""Between two reports, so that others get in between."""

SEFF_PER_HOUR = 50
"""What is left of the budget's hundred when queue, accounting and balances have had theirs."""

RETRY_SECONDS = (120.0, 240.0, 480.0, 960.0, 1800.0)
"""How long to wait after each time that a report could not be had; after the last it is given up."""


@dataclass(slots=True)
class ReportsProbe(Unhurried):
    """Asks for the reports of one site's finished jobs, one a run."""

    name: str = "reports"
    keeps_seconds: float = 0

    def run(self, context: ProbeContext) -> float:
        """See `Probe.run`."""
        now = context.clock()
        longest = context.site.scaled(RETRY_SECONDS[-1])
        with context.store.snapshot() as connection:
            waiting = awaited.waiting(connection, context.site.name)
        # What lies further ahead than the longest wait was written while the clock was wrong.
        due = [job for job in waiting if not now < job.after <= now + longest]
        if not due:
            return LOOK_SECONDS
        if context.ledger.sent("seff") >= SEFF_PER_HOUR:
            _log.info("site %s: %d reports wait for the next hour", context.site.name, len(due))
            return LOOK_SECONDS
        self._ask(context, due[0])
        return PAUSE_SECONDS if due[1:] else LOOK_SECONDS

    def delay_after_failure(self) -> float:
        """See `Probe.delay_after_failure`."""
        return LOOK_SECONDS

    def _ask(self, context: ProbeContext, job: Awaited) -> None:
        try:
            answer = whole(checked(context.client.tool("seff", job.job_id)))
            parsed = context.read("seff", answer.stdout, parse)
            report = _of_job(parsed, job.job_id)
        except (ConnectError, BudgetExhaustedError):
            raise  # nothing was sent
        except RayslurmError:
            context.store.write(lambda connection: _postpone(connection, context, job))
            raise

        def take_in(connection: sqlite3.Connection) -> None:
            raw = context.keep(connection, "seff", answer.stdout, faults=len(parsed.warnings))
            keep_report(connection, context, job.job_id, report, raw)
            awaited.done(connection, job.site, job.job_id)
            estimating.settle(connection, context)

        context.store.write(take_in)


def make() -> ReportsProbe:
    """Returns the probe for one site."""
    return ReportsProbe()


def _of_job(parsed: Parsed[SeffReport], job_id: str) -> SeffReport:
    for report in parsed.records:
        if job_id in {report.job_id, report.array_job_id}:
            if base_state(report.state) in {"pending", "running", "suspended"}:
                raise InputError(f"seff says that job {job_id} is {report.state}, while accounting has its end")
            return report
    told = ", ".join(report.job_id for report in parsed.records)
    raise InputError(f"seff was asked for job {job_id} and told of {told or 'none'}")


def keep_report(
    connection: sqlite3.Connection, context: ProbeContext, job_id: str, report: SeffReport, raw: str
) -> None:
    """Takes in what `seff` says of a job that the store knows; `raw` is the digest of its text."""
    site, now = context.site.name, context.clock()
    (job,) = jobs.find(connection, job_id, site)
    by_accounting = [known for known in reports.of_job(connection, site, job_id) if known.source == "sacct"]
    accounted = by_accounting[0].cpu_used_seconds if by_accounting else None
    reports.keep(connection, site, job_id, from_seff(report, accounted_cpu_seconds=accounted), now=now)
    bill = _bill(context, job, report)
    if bill is not None:
        # seff tells of a requeued job's last attempt alone.
        bills.keep(connection, site, job_id, bill, final=not job.restarts, now=now, raw_sha256=raw)
    else:
        without_report(connection, site, job_id, now=now)


def _bill(context: ProbeContext, job: JobRow, report: SeffReport) -> Bill | None:
    if report.billing_units is None:
        return None
    rate = context.site.profile.rate(job.partition or "")
    if rate is not None:
        kind, unit = rate.kind, rate.unit
    else:
        kind, unit = "gpu" if job.gpus or "gpu" in report.billing_components else "cpu", "BU"
    return Bill("seff", kind, unit, report.billing_units, report.billed_project)


def _postpone(connection: sqlite3.Connection, context: ProbeContext, job: Awaited) -> None:
    """Asks again later, or gives up: what the job cost is then by formula, and how it used it by accounting."""
    if job.tries < len(RETRY_SECONDS):
        until = context.clock() + context.site.scaled(RETRY_SECONDS[job.tries])
        awaited.postpone(connection, job.site, job.job_id, until=until)
        return
    _log.warning("site %s: job %s: its report could not be had, and is given up", job.site, job.job_id)
    without_report(connection, job.site, job.job_id, now=context.clock())
    awaited.done(connection, job.site, job.job_id)
    estimating.settle(connection, context)


def without_report(connection: sqlite3.Connection, site: str, job_id: str, *, now: float) -> None:
    """Takes what accounting says that a job cost, by whichever rule; at most one of them was kept."""
    for source in ("formula", "sacct"):
        bills.make_final(connection, site, job_id, source, now=now)
