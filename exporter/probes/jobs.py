"""The jobs: `squeue` for those that wait or run, `sacct` for those that left the queue.

One `squeue --me` tells of all jobs: every 2 minutes around a launch, a start or an end, backing off to 10.
Accounting is asked with all ids at once, by id and never by a window, at most 12 times an hour, and only for jobs that
left the queue.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from exporter.billing.charge import BILLING_KIND, BILLING_UNIT, bill_by_billing, bill_by_formula
from exporter.efficiency import from_accounting
from exporter.parsers.sacct import parse as parse_sacct
from exporter.parsers.squeue import parse as parse_squeue
from exporter.probes import estimating
from exporter.probes.base import ProbeContext
from exporter.records import FINAL_STATES, AccountingRecord
from exporter.sites import SiteProfile
from exporter.store import following, jobs, submissions
from exporter.store.following import InQueue, Told
from exporter.store.jobs import Tracked

_log = logging.getLogger(__name__)

QUICK_SECONDS = 120.0
"""Between two looks at the queue around a launch, a start or an end."""

SLOW_SECONDS = 600.0
"""The same when nothing has changed for a while."""

SQUEUE_UNHURRIED = 24
"""From this many looks an hour on, there is one every `SLOW_SECONDS` only: 30 in all at most."""

SACCT_PER_HOUR = 12
"""CSC and Slurm's manual both ask to spare accounting."""

SACCT_UNHURRIED = 6
"""From this many an hour on, there is one every `SLOW_SECONDS` only: what ends meanwhile is asked for together."""

SACCT_RETRY_SECONDS = (120.0, 240.0, 480.0, 960.0, 1800.0)
"""How long to wait while accounting lags: longer each time."""

STEP_LAG_SECONDS = 900.0
"""How long after a job's end its record may lack something before it is taken as it is."""


@dataclass(slots=True)
class JobsProbe:
    """Follows the jobs of one site."""

    name: str = "jobs"
    keeps_seconds: float = 0
    _delay: float = QUICK_SECONDS
    _picture: dict[str, str | None] = field(default_factory=dict)

    def run(self, context: ProbeContext) -> float:
        """See `Probe.run`."""
        site = context.site.name
        answer = context.client.queue()
        queue = context.read("squeue", answer.stdout, parse_squeue)
        profile = context.site.profile
        paid_in = {partition: (rate.kind, rate.unit) for rate in profile.rates for partition in rate.partitions}
        otherwise = None if profile.rates else (BILLING_KIND, BILLING_UNIT)

        def take_in(connection: sqlite3.Connection) -> tuple[InQueue, list[Tracked]]:
            context.keep(connection, "squeue", answer.stdout, faults=len(queue.warnings))
            named = [(record.job_id, record.job_name) for record in queue.records]
            for row in submissions.adopt(connection, site, named, now=context.clock()):
                _log.warning("site %s: job %s is that of the lost submission %s", site, row.job_id, row.token)
            in_queue = following.apply_queue(
                connection, site, queue.records, now=context.clock(), paid_in=paid_in, otherwise_paid_in=otherwise
            )
            estimating.take_in(connection, context, in_queue.job_ids)
            return in_queue, jobs.open_tracked(connection, site)

        in_queue, followed = context.store.write(take_in)
        gone = [tracked for tracked in followed if tracked.root_id not in in_queue.whole]
        asked = self._ask_accounting(context, gone, in_queue.job_ids)
        picture = {record.job_id: record.state for record in queue.records}
        if picture != self._picture or any(tracked.sacct_tries == 0 for tracked in asked):
            self._delay = QUICK_SECONDS
        else:
            self._delay = min(self._delay * 1.5, SLOW_SECONDS)
        self._picture = picture
        if context.ledger.sent("squeue") > SQUEUE_UNHURRIED:
            self._delay = SLOW_SECONDS
        return self._delay

    def delay_after_failure(self) -> float:
        """See `Probe.delay_after_failure`."""
        return self._delay

    def hurry(self, context: ProbeContext) -> bool:
        """See `Probe.hurry`."""
        if context.ledger.sent("squeue") >= SQUEUE_UNHURRIED:
            return False
        self._delay = QUICK_SECONDS
        return True

    def _ask_accounting(
        self, context: ProbeContext, gone: Sequence[Tracked], in_queue: frozenset[str]
    ) -> list[Tracked]:
        """Asks for the last word on jobs that left the queue; returns those that were asked for."""
        site = context.site.name
        now = context.clock()
        longest = context.site.scaled(SACCT_RETRY_SECONDS[-1])
        # What lies further ahead than the longest wait was written while the clock was wrong.
        due = [tracked for tracked in gone if not now < tracked.sacct_after <= now + longest]
        if due and not _may_ask_accounting(context):
            _log.info("site %s: %d jobs left the queue; accounting is asked a bit later", site, len(due))
            due = []
        later = [tracked.root_id for tracked in gone if tracked not in due]
        if later:
            context.store.write(partial(_note_left, site=site, root_ids=later, in_queue=in_queue, now=now))
        if not due:
            return []
        ids = [tracked.root_id for tracked in due]
        # Where accounting doesn't tell that a job ran again (Slurm 22.05), every attempt is always asked for.
        again = "Restarts" not in context.client.accounting_fields()
        with context.store.snapshot() as connection:
            again = again or jobs.restarted(connection, site, ids)
        answer = context.client.accounting(ids, duplicates=again)
        parsed = context.read("sacct", answer.stdout, parse_sacct)
        records = [with_attempts(record) if again else record for record in parsed.records]

        def take_in(connection: sqlite3.Connection) -> None:
            now = context.clock()
            raw = context.keep(connection, "sacct", answer.stdout, faults=len(parsed.warnings))
            for tracked in due:
                told = [
                    as_told(record, context.site.profile, last_word=_is_last_word(record, now, context, asked=again))
                    for record in records
                    if jobs.root_of(record.job_id) == tracked.root_id
                ]
                following.apply_accounting(connection, site, tracked.root_id, told, in_queue, now=now, raw_sha256=raw)
                wait = SACCT_RETRY_SECONDS[min(tracked.sacct_tries, len(SACCT_RETRY_SECONDS) - 1)]
                following.postpone_accounting(connection, site, tracked.root_id, until=now + context.site.scaled(wait))
            estimating.settle(connection, context)

        context.store.write(take_in)
        for record in parsed.records:
            if record.state in FINAL_STATES:
                _log.info("site %s: job %s ended: %s", site, record.job_id, record.state)
        return due


def _may_ask_accounting(context: ProbeContext) -> bool:
    sent = context.ledger.sent("sacct") + context.ledger.sent("sacct-helpformat")
    since = context.ledger.since_last("sacct")
    if sent < SACCT_UNHURRIED or since is None:
        return True
    return sent < SACCT_PER_HOUR and since >= context.site.scaled(SLOW_SECONDS)


def _note_left(
    connection: sqlite3.Connection, site: str, root_ids: Sequence[str], in_queue: frozenset[str], now: float
) -> None:
    for root_id in root_ids:
        following.left_queue(connection, site, root_id, in_queue, now=now)


def with_attempts(record: AccountingRecord) -> AccountingRecord:
    """Returns a job of which every attempt was asked for: how often it ran again is known then.

    Ids are used again when Slurm is set up anew: what ran under another user is no attempt of this job.
    """
    attempts = tuple(attempt for attempt in record.attempts if attempt.user == record.user)
    known = record.restarts is not None and len(attempts) == len(record.attempts)
    restarts = record.restarts if known else len(attempts)
    return replace(record, attempts=attempts, restarts=restarts)


def make() -> JobsProbe:
    """Returns the probe for one site."""
    return JobsProbe()


def as_told(record: AccountingRecord, profile: SiteProfile, *, last_word: bool) -> Told:
    """Returns what accounting tells of a job, with what that makes of its use and its bill at the site."""
    accounting = profile.accounting
    partition = profile.partition(record.partition or "")
    ran = bool(record.elapsed_seconds)
    # A job that never ran used and cost nothing; of a heterogeneous job's part seff doesn't know.
    report = ran and accounting.seff in {"csc", "slurm"} and "+" not in record.job_id
    rate = profile.rate(record.partition or "")
    return Told(
        record,
        from_accounting(
            record,
            threads_per_core=accounting.threads_per_core,
            whole_nodes=partition.whole_nodes if partition else None,
        ),
        last_word,
        bill_by_formula(rate, record, threads_per_core=accounting.threads_per_core)
        if profile.rates
        else bill_by_billing(record),
        # seff at CSC prints the bill, but of a requeued job that of the last attempt alone.
        bill_is_final=not (report and accounting.seff == "csc") or bool(record.attempts or record.restarts),
        await_report=report,
    )


def _is_last_word(record: AccountingRecord, now: float, context: ProbeContext, *, asked: bool) -> bool:
    """Tells whether accounting has all it will have of a job: it lags, and tells of the job before its steps.

    Args:
        record: the job.
        now: epoch seconds.
        context: what the probe works with.
        asked: whether earlier attempts were asked for.
    """
    if record.state not in FINAL_STATES or record.end_time is None or (record.restarts and not asked):
        return False
    ran = bool(record.elapsed_seconds)
    # slurmdbd may hear of a job's step before it hears of the job: what it has then is no whole record. Such a row has
    # neither a partition nor the job's name.
    whole = record.partition is not None
    if whole and all(step.state in FINAL_STATES for step in record.steps) and (record.steps or not ran):
        return True
    return now - record.end_time > context.site.scaled(STEP_LAG_SECONDS)
