"""A project's balance over a window, held against what our jobs cost in it. Pure.

A balance is known as it was when the provider reckoned it, which it does about once an hour, by its own clock;
colleagues use the same project. So what a balance rose by is ours and theirs together, and only of a job that was alone
in a window with enough room before and after does it say anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from exporter.billing.reconcile import agree
from exporter.records import Bill

_WHOLE_ROUNDING = 0.5
_LEAST_ROUNDINGS = 10
"""How many times what it may be off a rise must be for a share of it to mean anything."""

_NOISE = 1e-6
"""What floating point may make of the same sum in another order."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a project had used.

    Attributes:
        reckoned: when the provider had reckoned it, by its clock, epoch seconds.
        used: units.
        whole: whether it was printed in whole units.
    """

    reckoned: float
    used: float
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Use:
    """What one of our jobs used of a project, in the kind and unit that is looked at.

    Attributes:
        start: when it began, by the site's clock, epoch seconds.
        end: when it ended, or was last seen to run.
        units: what it cost up to then; None where that isn't known.
        ended: whether it uses no more.
    """

    site: str
    job_id: str
    start: float
    end: float
    units: float | None
    ended: bool = True


@dataclass(frozen=True, slots=True)
class Margins:
    """How far what is printed may be from what is true.

    Attributes:
        lag: seconds by which what was used may come into a balance late.
        skew: seconds by which the clocks of a site may differ among themselves.
    """

    lag: float = 3600.0
    skew: float = 600.0


@dataclass(frozen=True, slots=True)
class Difference:
    """By how much a balance rose.

    Attributes:
        begin: when the earlier balance was reckoned, epoch seconds.
        end: when the later one was.
        units: by how much it rose, not negative.
        ours: what our jobs cost in between; None where that isn't known of one of them.
        rounding: units by which it may be off since its balances were printed in whole ones.
    """

    begin: float
    end: float
    units: float
    ours: float | None
    rounding: float = 0.0

    @property
    def share(self) -> float | None:
        """Our share of it, 0 to 1; None where nothing was used, ours isn't known, or rounding could be much of it.

        Ours may be more than the balance rose by, as long as a part of it isn't booked: the share is 1 then.
        """
        if self.ours is None or self.units <= self.rounding * _LEAST_ROUNDINGS:
            return None
        return min(self.ours / self.units, 1.0)


def latest(readings: Iterable[Reading], ours: Iterable[Use], *, longest: float) -> Difference | None:
    """Returns by how much a balance rose lately, and how much of it our jobs cost.

    Args:
        readings: of one project, kind and unit, in any order.
        ours: our jobs that used it.
        longest: seconds that the window may have at most.

    Returns:
        The difference over the longest window up to the last reading in which use never went down (where it does, the
        provider began to count anew); None where there is no such window.
    """
    window = _rising(sorted(readings, key=lambda reading: reading.reckoned), longest)
    if len(window) < 2:  # noqa: PLR2004 - a difference is one of two
        return None
    first, last = window[0], window[-1]
    return _difference(first, last, _within(ours, first.reckoned, last.reckoned))


def alone(readings: Iterable[Reading], job: Use, others: Iterable[Use], margins: Margins) -> Difference | None:
    """Returns by how much a balance rose over an ended job, where no other of ours can have a part in that.

    Args:
        readings: of one project, kind and unit, in any order.
        job: the job.
        others: our other jobs that used it.
        margins: how far apart times may be.

    Returns:
        The difference between the last balance that has nothing of the job in it and the first that has all of it; None
        where one of them isn't there, another job may be in between, or use went down meanwhile.
    """
    if not job.ended:
        return None
    known = sorted(readings, key=lambda reading: reading.reckoned)
    before = [reading for reading in known if reading.reckoned <= job.start - margins.skew]
    after = [reading for reading in known if reading.reckoned >= job.end + margins.lag + margins.skew]
    if not before or not after:
        return None
    first, last = before[-1], after[0]
    reach = margins.lag + margins.skew
    if any(_may_be_booked(other, first.reckoned - reach, last.reckoned + margins.skew) for other in others):
        return None
    between = [reading for reading in known if first.reckoned <= reading.reckoned <= last.reckoned]
    if len(_rising(between, last.reckoned - first.reckoned)) < len(between):
        return None
    return _difference(first, last, job.units)


def opinion(found: Difference, bill: Bill) -> str:
    """Returns what a balance says of the bill of a job that was alone in its window, in a sentence for people.

    Args:
        found: as `alone` returns it.
        bill: the job's.
    """
    unit = f"{bill.kind} {bill.unit}"
    rose = f"while it was the project's only job known here, the balance rose by {found.units:.4f} {unit}"
    if agree(found.units, bill.units, bill.source) or abs(found.units - bill.units) <= found.rounding + _NOISE:
        return f"{rose}, which is its bill"
    if found.units > bill.units:
        return f"{rose}, {found.units - bill.units:.4f} more than its bill: others' use, or a rate that is too low"
    return f"{rose}, {bill.units - found.units:.4f} less than its bill: a rate that is too high, or late booking"


def _difference(first: Reading, last: Reading, ours: float | None) -> Difference:
    rounding = _WHOLE_ROUNDING * (first.whole + last.whole)
    return Difference(first.reckoned, last.reckoned, max(0.0, last.used - first.used), ours, rounding)


def _rising(known: Sequence[Reading], longest: float) -> list[Reading]:
    """Returns the last readings of a sorted series in which use doesn't go down, but for rounding."""
    window: list[Reading] = []
    for reading in reversed(known):
        if window and window[-1].reckoned == reading.reckoned:
            continue
        if window and (window[0].reckoned - reading.reckoned > longest or _fell(reading, window[-1])):
            break
        window.append(reading)
    return window[::-1]


def _fell(earlier: Reading, later: Reading) -> bool:
    slack = _WHOLE_ROUNDING * (earlier.whole + later.whole) + _NOISE * max(1.0, abs(earlier.used))
    return later.used < earlier.used - slack


def _within(ours: Iterable[Use], begin: float, end: float) -> float | None:
    """Returns what our jobs cost in a window, each by the part of its time that lies in it."""
    units = 0.0
    for use in ours:
        overlap = min(use.end, end) - max(use.start, begin)
        if overlap <= 0:
            continue
        if use.units is None:
            return None
        units += use.units * min(1.0, overlap / (use.end - use.start))
    return units


def _may_be_booked(use: Use, begin: float, end: float) -> bool:
    return use.start <= end and (not use.ended or use.end >= begin)
