"""How fast a project's units go, and what becomes of the rest: running dry, the cutter, the project's end. Pure.

A balance is read now and then: it lags, other people use it too, grants raise it and cuts lower it. So use is reckoned
from what was used alone, as what is used now less the least that was used within the time looked at, between the first
and the last reading of that time. The recording rules in prometheus/rules do so too. It is never negative, whatever the
readings are, and where a provider begins to count anew it is too little for a while and never too much.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

DAY_SECONDS = 86400.0

WINDOWS = {"1d": (DAY_SECONDS, 6 * 3600.0), "7d": (7 * DAY_SECONDS, DAY_SECONDS)}
"""Over how long use is reckoned, and how much of that must have been seen."""

STALE_SECONDS = 6 * 3600.0
"""How old the last reading may be: balances are read twice an hour, and a site may be away for a while."""

FARTHEST_SECONDS = 10 * 365 * DAY_SECONDS
"""Nothing is forecast beyond: units that last ten years are not running dry."""

CUTTER_SHARE = 0.4
"""CSC's cutter takes part of what is left from a project that has used less than this share of its units."""

CUTTER_SECONDS = 182 * DAY_SECONDS
"""How long after its last grant a project is looked at: six months, to the day no more exactly known."""

GRANT_SLACK_SECONDS = 2 * DAY_SECONDS
"""How far from a grant's date a reading may be to stand for that moment: the date is a day, not an hour."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A balance as it was read once.

    Attributes:
        at: when, by this machine's clock, epoch seconds.
        used: all that was ever used, in the balance's unit.
        granted: None where nothing is granted.
    """

    at: float
    used: float
    granted: float | None = None


@dataclass(frozen=True, slots=True)
class Cutter:
    """What CSC's cutter will find.

    Attributes:
        check_time: when it looks, epoch seconds.
        used_ratio: which share of the units is used by now.
        expected_ratio: which will be then, if use goes on as in the last week; None where that isn't known.
        lost_at_most: what would be left then, of which it takes a part; 0 where enough will be used, None where that
            isn't known.
    """

    check_time: float
    used_ratio: float
    expected_ratio: float | None
    lost_at_most: float | None


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is known of a balance's going.

    Attributes:
        per_day_1d: units a day over the last day; None where that isn't known.
        per_day_7d: likewise over the last week.
        ours_7d: units a day that our own ended jobs cost over the last week; None where that isn't known.
        exhausted_at: when it runs dry, epoch seconds; None where it doesn't, or that isn't known.
        lost_at_end: what is left when the project ends, if use goes on so; None where that isn't known.
        cutter: None where there is none, or that isn't known.
    """

    per_day_1d: float | None = None
    per_day_7d: float | None = None
    ours_7d: float | None = None
    exhausted_at: float | None = None
    lost_at_end: float | None = None
    cutter: Cutter | None = None

    @property
    def our_share(self) -> float | None:
        """Which share of the project's use is ours, 0-1; our bills come late, so it is never more than all."""
        if self.per_day_7d is None or self.ours_7d is None or self.per_day_7d <= 0:
            return None
        return min(1.0, self.ours_7d / self.per_day_7d)


def per_day(readings: Iterable[Reading], *, now: float, window: float, least: float) -> float | None:
    """Returns the units a day that were used lately.

    Args:
        readings: in any order; those of the future were read while the clock was wrong, and don't count.
        now: epoch seconds.
        window: how far back use is looked at, in seconds.
        least: how much of that must have been seen, in seconds.

    Returns:
        None where too little was seen, or the last reading is too old.
    """
    seen = sorted((one for one in readings if now - window <= one.at <= now), key=lambda one: one.at)
    if not seen or now - seen[-1].at > STALE_SECONDS:
        return None
    covered = seen[-1].at - seen[0].at
    if covered < least:
        return None
    return (seen[-1].used - min(one.used for one in seen)) / covered * DAY_SECONDS


def used_since(
    readings: Iterable[Reading], since: float, *, begin: float | None = None, now: float
) -> tuple[float, float] | None:
    """Returns what was used since a grant, and what had been used before it.

    Args:
        readings: in any order.
        since: the grant's date, epoch seconds.
        begin: when the project began; where that is the same date, nothing had been used before.
        now: epoch seconds.

    Returns:
        None where no reading is near that date.
    """
    known = sorted((one for one in readings if one.at <= now), key=lambda one: one.at)
    if not known:
        return None
    if begin is not None and abs(since - begin) < DAY_SECONDS:
        before = 0.0
    else:
        nearest = min(known, key=lambda one: abs(one.at - since))
        if abs(nearest.at - since) > GRANT_SLACK_SECONDS:
            return None
        before = nearest.used
    later = [one.used for one in known if one.at >= since]
    lowest = min([before, *later])
    return known[-1].used - lowest, lowest


def exhausted_at(remaining: float | None, burn: float | None, *, now: float) -> float | None:
    """Returns when units run dry at so many a day, epoch seconds; None where they don't, or there are none left."""
    if remaining is None or burn is None or remaining <= 0 or burn <= 0:
        return None
    seconds = remaining / burn * DAY_SECONDS
    return now + seconds if seconds <= FARTHEST_SECONDS else None


def left_at_end(remaining: float | None, burn: float | None, end: float | None, *, now: float) -> float | None:
    """Returns what is left when a project ends, if use goes on so; None where that isn't known, or it has ended."""
    if remaining is None or burn is None or end is None or end <= now:
        return None
    return max(0.0, remaining - burn * (end - now) / DAY_SECONDS)


def cutter(
    used: tuple[float, float] | None, granted: float | None, burn: float | None, *, grant_time: float | None, now: float
) -> Cutter | None:
    """Returns what the cutter will find at its first look after a grant.

    When it looks after that isn't told by any site, so nothing is said of a later one.

    Args:
        used: since the grant, and before it.
        granted: in all.
        burn: units a day.
        grant_time: epoch seconds.
        now: epoch seconds.

    Returns:
        None where the data don't support it, or that look is over.
    """
    if used is None or granted is None or grant_time is None or now < grant_time:
        return None
    check_time = grant_time + CUTTER_SECONDS
    since, before = used
    pool = granted - before
    if pool <= 0 or check_time <= now:
        return None
    expected = None if burn is None else min(since + burn * (check_time - now) / DAY_SECONDS, pool)
    left = None
    if expected is not None:
        left = pool - expected if expected / pool < CUTTER_SHARE else 0.0
    return Cutter(check_time, min(1.0, since / pool), None if expected is None else max(0.0, expected / pool), left)


def forecast(
    readings: Sequence[Reading],
    *,
    remaining: float | None,
    granted: float | None,
    now: float,
    ours_7d: float | None = None,
    end_time: float | None = None,
    start_time: float | None = None,
    grant_time: float | None = None,
    has_cutter: bool = False,
) -> Forecast:
    """Returns what is known of how a balance goes on.

    Args:
        readings: as far back as there are any, in any order.
        remaining: now; None where that isn't known.
        granted: in all; None where nothing is.
        now: epoch seconds.
        ours_7d: units a day that our own jobs cost over the last week.
        end_time: when the project ends.
        start_time: when it began.
        grant_time: when it was last granted something.
        has_cutter: whether its provider cuts what isn't used.
    """
    rates = {name: per_day(readings, now=now, window=window, least=least) for name, (window, least) in WINDOWS.items()}
    week = rates["7d"]
    found = None
    if has_cutter and grant_time is not None:
        used = used_since(readings, grant_time, begin=start_time, now=now)
        found = cutter(used, granted, week, grant_time=grant_time, now=now)
    dry = exhausted_at(remaining, week, now=now)
    return Forecast(
        rates["1d"],
        week,
        ours_7d,
        dry,
        left_at_end(remaining, week, end_time, now=now),
        found,
    )
