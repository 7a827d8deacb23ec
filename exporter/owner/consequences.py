"""What follows when a running job is of no use: it is reported or cancelled, as its spec says, and counted as waste.

All of it is told by the store; only a cancel goes to the site. A condition must have been seen at every look for the
whole time that the spec gives, by a clock that didn't jump: where something is old or not known, that begins anew.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from exporter.errors import ConfigError
from exporter.launch.spec import Spec, spec_of_journal
from exporter.owner.canceller import Canceller
from exporter.probes import ProbeContext, Unhurried
from exporter.store import clusters, conditions, consequences, waste
from exporter.store.conditions import CONDITIONS, Condition, Spell, Watched
from exporter.store.consequences import Consequence

_log = logging.getLogger(__name__)

LOOK_SECONDS = 30.0
"""Between two looks into the store."""

SLACK_SECONDS = 60.0
"""By how much anything may be late because a command takes as long as it may."""

QUEUE_SECONDS = 1200.0
"""How long ago the queue may have named a job that counts as running."""

FOLDER_SECONDS = 600.0
"""How long ago a job's folder may have been read for what isn't there to count as not there."""

JUMP_SECONDS = 10.0
"""By how much the clock may go wrong between two looks."""

AHEAD_SECONDS = 120.0
"""How far ahead the end of what is good may lie; what lies further was written while the clock was wrong."""

KEYS: Mapping[Condition, str] = {
    "never_ready": "on_never_ready",
    "tunnel_down": "on_tunnel_loss",
    "idle": "on_idle",
}
"""Where a spec says what follows."""


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at one job saw.

    Attributes:
        since: the conditions that hold, and since when each does by the account of whoever told; one at most.
        gone: the conditions that don't hold. What stands in neither isn't known.
    """

    since: Mapping[Condition, float]
    gone: frozenset[Condition]


@dataclass(slots=True)
class Consequences(Unhurried):
    """Looks after the running jobs of one site; run like a probe, in its site's worker.

    Attributes:
        monotonic: a clock that never jumps, in seconds.
    """

    monotonic: Callable[[], float] = time.monotonic
    name: str = "consequences"
    keeps_seconds: float = 0
    _last: tuple[float, float] | None = None
    _canceller: Canceller = field(init=False)

    def __post_init__(self) -> None:
        self._canceller = Canceller(self.monotonic)

    def run(self, context: ProbeContext) -> float:
        """See `Probe.run`."""
        site, now = context.site.name, context.clock()
        jumped = self._jumped(now)
        with context.store.snapshot() as connection:
            watched = conditions.watched(connection, site)
            idle = clusters.idle_since(connection, site, now=now)
            nothing = not watched and not conditions.has_open(connection, site)
            settling = waste.to_settle(connection, site, now=now)
        self._canceller.keep_only({job.job_id for job in watched})
        if settling:
            context.store.write(lambda connection: waste.settle(connection, site, now=now))
        if nothing:
            return LOOK_SECONDS
        looks = {
            job.job_id: look(job, idle.get(job.job_id, _UNKNOWN), scaled=context.site.scaled, now=now)
            for job in watched
        }

        def take_in(connection: sqlite3.Connection) -> list[Consequence]:
            if jumped:
                conditions.close(connection, site)
            gap = 2 * context.site.scaled(LOOK_SECONDS) + SLACK_SECONDS
            seen = {job_id: looked.since for job_id, looked in looks.items()}
            spells = conditions.observe(connection, site, seen, now=now, gap=gap)
            return [
                following
                for job in watched
                if (following := _follow(connection, job, looks[job.job_id], spells, now=now)) is not None
            ]

        for following in context.store.write(take_in):
            self._canceller.cancel(context, following)
        return LOOK_SECONDS

    def delay_after_failure(self) -> float:
        """See `Probe.delay_after_failure`; it is the site that is spared after a failure, not the looks."""
        return LOOK_SECONDS

    def _jumped(self, now: float) -> bool:
        """Tells whether the clock went wrong, or was put right, since the last look."""
        steady, before = self.monotonic(), self._last
        self._last = (now, steady)
        return before is not None and abs((now - before[0]) - (steady - before[1])) > JUMP_SECONDS


_UNKNOWN = float("nan")


def look(job: Watched, idle_since: float | None, *, scaled: Callable[[float], float], now: float) -> Look:
    """Says what is known of a running job.

    Args:
        job: the job.
        idle_since: since when its Ray uses nothing, epoch seconds; None: it uses something; NaN: that isn't known.
        scaled: makes intervals of those of the site.
        now: epoch seconds.
    """
    if not 0 <= now - job.seen <= scaled(QUEUE_SECONDS) + SLACK_SECONDS:
        return Look({}, frozenset())
    good_until = job.tunnel_good_until or 0.0
    probed = job.tunnel_state is not None and now < good_until <= now + AHEAD_SECONDS
    up = probed and job.tunnel_state == "up"
    read = job.run_read is not None and 0 <= now - job.run_read <= scaled(FOLDER_SECONDS) + SLACK_SECONDS
    if job.ready_time is None and not up:
        if not read or job.start_time is None:
            return Look({}, frozenset())
        return Look({"never_ready": job.start_time}, frozenset({"tunnel_down", "idle"}))
    if probed and not up and job.ready_time is not None:
        return Look({"tunnel_down": job.last_success or job.ready_time}, frozenset({"never_ready"}))
    gone: set[Condition] = {"never_ready"}
    if up:
        gone.add("tunnel_down")
    if idle_since is None:
        gone.add("idle")
    elif up and idle_since <= now:
        return Look({"idle": idle_since}, frozenset(gone))
    return Look({}, frozenset(gone))


def _follow(
    connection: sqlite3.Connection,
    job: Watched,
    looked: Look,
    spells: Mapping[tuple[str, Condition], Spell],
    *,
    now: float,
) -> Consequence | None:
    """Notes what follows of what was seen of a job; returns the cancel that the site is to be told, if any."""
    consequences.withdraw(connection, job.site, job.job_id, looked.gone)
    known = {one.condition: one for one in consequences.of_job(connection, job.site, job.job_id)}
    if any(one.state == "cancelled" for one in known.values()):
        return None
    for condition in CONDITIONS:
        since, spell = looked.since.get(condition), spells.get((job.job_id, condition))
        if since is None or spell is None or (spec := _spec(job)) is None:
            continue
        action, after = spec.consequence(condition)
        if min(spell.seconds, now - since) < after:
            continue
        before = known.get(condition)
        if action == "cancel":
            reason = f"{_words(condition, job, since)}; {KEYS[condition]}: cancel after {_length(after)}"
            following = Consequence(job.site, job.job_id, condition, "cancelling", reason, now)
            consequences.note(connection, following)
            return following
        if before is None:
            reason = _words(condition, job, since)
            consequences.note(connection, Consequence(job.site, job.job_id, condition, "reported", reason, now))
            _log.warning("site %s: job %s: %s", job.site, job.job_id, reason)
    return None


def _spec(job: Watched) -> Spec | None:
    try:
        return spec_of_journal(job.spec)
    except ConfigError as error:
        _log.warning("site %s: job %s: nothing follows, whatever it does: %s", job.site, job.job_id, error)
        return None


def _words(condition: Condition, job: Watched, since: float) -> str:
    moment = f"{datetime.fromtimestamp(since, UTC):%Y-%m-%d %H:%M:%S} UTC"
    if condition == "never_ready":
        return f"its Ray is not ready, and it has run since {moment}"
    if condition == "tunnel_down":
        return f"its dashboard has not been reached since {moment} ({job.tunnel_state})"
    return f"its Ray has used no CPU and no GPU since {moment}"


def _length(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{seconds:g} s" if rest or not minutes else f"{minutes:g} min"
