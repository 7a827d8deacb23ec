"""Submissions of which no job is known: their job is looked for by its name, and taken up, or found not to be there.

A reply to `sbatch` can get lost on the way, with this process or with the connection. Both queue and accounting are
asked for the name, which carries the submission's token. Where one of them names a job it is taken up. Absent is a
submission only when both answered and named none, did so once more after a while, and then a last time after its batch
script was put away: an `sbatch` that still hangs somewhere finds nothing to submit any more. Until then nothing is
known, and nothing is submitted again.
"""

from __future__ import annotations

import logging
import math
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from exporter.client.commands import LOOK_AHEAD_HOURS
from exporter.errors import InputError
from exporter.job_names import SCRIPT
from exporter.parsers.sacct import parse as parse_sacct
from exporter.parsers.squeue import parse as parse_squeue
from exporter.probes.base import ProbeContext
from exporter.probes.jobs import SACCT_PER_HOUR
from exporter.records import AccountingRecord, Parsed, QueueRecord
from exporter.store import submissions
from exporter.store.submissions import Submission

_log = logging.getLogger(__name__)

LOOK_SECONDS = 60.0
"""Between two looks into the store for such submissions."""

GRACE_SECONDS = 600.0
"""Between the first look that finds nothing and the second; accounting may lag."""

LAST_SECONDS = 60.0
"""Between putting the script away and the last look: for an `sbatch` that had read it just before."""

RETRY_SECONDS = (60.0, 120.0, 240.0, 480.0, 900.0, 1800.0, 3600.0)
"""How long to wait after each look that failed."""

WINDOW_HOURS = 24
"""How much further back than the submission accounting is looked through: clocks may differ."""

_DEADLINES = 2
"""The second look comes so many deadlines after the first at least: `sbatch` gives up within one."""

_WIDEST_HOURS = 30 * 24
"""How far back accounting is looked through where the clock is known to have been wrong."""

_ABSENT = "no job came of it: neither the queue nor accounting of {site} named one of its name {name}, time and again"


@dataclass(slots=True)
class _Doubt:
    """A submission that a look found nothing of.

    Attributes:
        since: when that was, by the monotonic clock.
        put_away: when its script was put away; None while it wasn't.
    """

    since: float
    put_away: float | None = None


@dataclass(slots=True)
class SubmissionsProbe:
    """Looks for the jobs of one site's submissions.

    Attributes:
        clock: a monotonic clock in seconds. That a look found nothing is kept here and not in the store: after a
            restart both looks are made anew, so neither a clock that was set nor a process that died cuts the wait.
    """

    name: str = "submissions"
    keeps_seconds: float = 0
    clock: Callable[[], float] = time.monotonic
    _nothing_found: dict[str, _Doubt] = field(default_factory=dict)
    _failures: int = 0

    def run(self, context: ProbeContext) -> float:
        """See `Probe.run`."""
        # Where accounting would have to be looked through further back than the site wants; the queue is seen anyway.
        doubtful = [row for row in _unsettled(context) if _hours(context, row) is not None]
        self._nothing_found = {
            row.token: self._nothing_found[row.token] for row in doubtful if row.token in self._nothing_found
        }
        due = [row for row in doubtful if self._is_due(row, context)]
        if due and context.ledger.sent("sacct") < SACCT_PER_HOUR:
            self._failures = min(self._failures + 1, len(RETRY_SECONDS))
            self._look(context, due)
        self._failures = 0
        return LOOK_SECONDS

    def delay_after_failure(self) -> float:
        """See `Probe.delay_after_failure`."""
        return RETRY_SECONDS[max(self._failures, 1) - 1]

    def hurry(self, context: ProbeContext) -> bool:
        """See `Probe.hurry`."""
        with context.store.snapshot() as connection:
            return bool(submissions.unsettled(connection, context.site.name))

    def _is_due(self, row: Submission, context: ProbeContext) -> bool:
        doubt = self._nothing_found.get(row.token)
        if doubt is None:
            return True
        if doubt.put_away is None:
            return self.clock() - doubt.since >= _wait(context, GRACE_SECONDS, _DEADLINES)
        return self.clock() - doubt.put_away >= _wait(context, LAST_SECONDS, 1)

    def _look(self, context: ProbeContext, due: list[Submission]) -> None:
        """Asks for the jobs; what is kept back for people is there for this, but a back-off is waited out."""
        started = self.clock()
        with context.client.for_person(at_once=False):
            answer = context.client.queue([row.slurm_name for row in due])
            queue = context.read("squeue", answer.stdout, parse_squeue)
            left = _adopt(context, due, "squeue", answer.stdout, queue)
            if not left:
                return
            hours = max(_hours(context, row) or 0 for row in left)
            answer = context.client.accounting_by_name([row.slurm_name for row in left], hours)
            accounting = context.read("sacct", answer.stdout, parse_sacct)
            left = _adopt(context, left, "sacct", answer.stdout, accounting)
            if left and (queue.warnings or accounting.warnings):
                raise InputError(
                    f"{context.site.name}: rows that were not understood may hide a job; it is looked for again"
                )
            for row in left:
                self._found_nothing(context, row, started)

    def _found_nothing(self, context: ProbeContext, row: Submission, started: float) -> None:
        doubt = self._nothing_found.setdefault(row.token, _Doubt(started))
        if doubt.put_away is not None:
            self._give_up(context, row)
        elif doubt.since < started:
            _put_away(context, row)
            doubt.put_away = self.clock()

    def _give_up(self, context: ProbeContext, row: Submission) -> None:
        reason = _ABSENT.format(site=row.site, name=row.slurm_name)
        context.store.write(
            lambda connection: submissions.unsettle(connection, row.token, "absent", reason, now=context.clock())
        )
        del self._nothing_found[row.token]
        _log.warning("site %s: the submission %s (%s) is absent: %s", row.site, row.name, row.token, reason)


def make() -> SubmissionsProbe:
    """Returns the probe for one site."""
    return SubmissionsProbe()


def _unsettled(context: ProbeContext) -> list[Submission]:
    """Returns the submissions in doubt; what is half done was left so, since this thread alone submits."""
    site = context.site.name
    with context.store.snapshot() as connection:
        found = submissions.unsettled(connection, site)
    if all(row.state == "unknown" for row in found):
        return found

    def settle(connection: sqlite3.Connection) -> list[Submission]:
        submissions.close_interrupted(connection, site=site, now=context.clock())
        return submissions.unsettled(connection, site)

    return context.store.write(settle)


def _adopt(
    context: ProbeContext,
    wanted: list[Submission],
    source: str,
    text: str,
    parsed: Parsed[QueueRecord] | Parsed[AccountingRecord],
) -> list[Submission]:
    """Takes up the jobs that an answer names; returns the submissions that it doesn't."""
    found = [(record.job_id, record.job_name) for record in parsed.records]

    def take_in(connection: sqlite3.Connection) -> list[Submission]:
        context.keep(connection, source, text, faults=len(parsed.warnings))
        return submissions.adopt(connection, context.site.name, found, now=context.clock())

    adopted = context.store.write(take_in)
    for row in adopted:
        _log.warning("site %s: job %s is that of the submission %s (%s)", row.site, row.job_id, row.name, row.token)
    known = {row.token for row in adopted}
    return [row for row in wanted if row.token not in known]


def _put_away(context: ProbeContext, row: Submission) -> None:
    """Gives the batch script another name, so that nobody can submit it any more."""
    path = f"{row.run_dir}/{SCRIPT}"
    with suppress(FileNotFoundError):  # the folder is gone, or it was done before
        context.client.rename(path, f"{path}.absent")


def _hours(context: ProbeContext, row: Submission) -> int | None:
    """Returns how far accounting is to be looked through for a job; None where that is further than the site wants."""
    policy = context.site.profile.policy
    window = None if policy is None else policy.accounting_window
    longest = None if window is None else int(window // 3600) - LOOK_AHEAD_HOURS
    age = context.clock() - row.created
    if age < 0:  # sent while the clock was ahead, nobody knows by how much
        return _WIDEST_HOURS if longest is None else longest
    hours = math.ceil(age / 3600) + WINDOW_HOURS
    return hours if longest is None or hours <= longest else None


def _wait(context: ProbeContext, seconds: float, deadlines: int) -> float:
    """Returns a length of time as the site lives it, and as long as so many commands may take at least."""
    return max(context.site.scaled(seconds), deadlines * context.client.command_deadline)
