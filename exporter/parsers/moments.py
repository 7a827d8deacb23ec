"""Points in time as Slurm prints them: epoch seconds, or local times of the site."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, tzinfo

_EPOCH = re.compile(r"[0-9]{1,10}\Z")
_LOCAL = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})(?:(Z)|([+-])([0-9]{2}):?([0-9]{2}))?\Z"
)
_NO_TIME = frozenset({"", "unknown", "none", "n/a", "na", "(null)", "not_set"})
_END_OF_TIME = 2**32 - 2
"""NO_VAL, which Slurm keeps where there is no time."""
_FIRST_YEAR, _LAST_YEAR = 1971, 2105

Moments = tuple[int, ...]
"""What a cell may mean: nothing, one epoch second, or two in the night when clocks go back."""


def moments(text: str, timezone: tzinfo) -> Moments:
    """Read a time as UTC epoch seconds.

    Args:
        text: `1795450041` (SLURM_TIME_FORMAT=%s), `2026-11-23T16:07:21` in `timezone`, or the same with an offset.
        timezone: the site's.

    Returns:
        Nothing for `Unknown`, `None`, `N/A` and empty; two moments where the local time occurs twice.

    Raises:
        ValueError: it is not a time, or one that the site's clocks skip.
    """
    if _EPOCH.match(text):
        seconds = int(text)
        return (seconds,) if 0 < seconds < _END_OF_TIME else ()
    match = _LOCAL.match(text)
    if match is None:
        if text.casefold() in _NO_TIME:
            return ()
        raise ValueError("not a time")
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    if not _FIRST_YEAR <= year <= _LAST_YEAR:
        raise ValueError("not a time a job can have")
    naive = datetime(year, month, day, hour, minute, second)  # noqa: DTZ001 - the zone follows below
    if match[7]:
        return (int(naive.replace(tzinfo=UTC).timestamp()),)
    if match[8]:
        ahead = timedelta(hours=int(match[9]), minutes=int(match[10]))
        moment = naive - ahead if match[8] == "+" else naive + ahead
        return (int(moment.replace(tzinfo=UTC).timestamp()),)
    early, late = (int(naive.replace(tzinfo=timezone, fold=fold).timestamp()) for fold in (0, 1))
    if early > late:
        raise ValueError("a local time that the clocks skip")
    return (early,) if early == late else (early, late)


def settle(
    submit: Moments,
    start: Moments,
    end: Moments,
    elapsed: float | None,
) -> tuple[int | None, int | None, int | None]:
    """Choose among what ambiguous local times may mean by what must hold between them.

    A job is submitted before it starts, starts before it ends, and ends `elapsed` seconds after its start. A time on
    which all remaining choices agree is known; any other is None.
    """
    if len(submit) < 2 and len(start) < 2 and len(end) < 2:  # noqa: PLR2004 - two: ambiguous
        return submit[0] if submit else None, start[0] if start else None, end[0] if end else None
    known = tuple(each[0] if len(each) == 1 else None for each in (submit, start, end))
    fitting = [
        choice
        for choice in itertools.product(submit or (None,), start or (None,), end or (None,))
        if _fits(choice, elapsed if start and end else None)
    ]
    settled = []
    for position, fallback in enumerate(known):
        values = {choice[position] for choice in fitting}
        settled.append(values.pop() if len(values) == 1 else fallback)
    return settled[0], settled[1], settled[2]


def _fits(choice: Sequence[int | None], elapsed: float | None) -> bool:
    submit, start, end = choice
    if submit is not None and start is not None and submit > start:
        return False
    if start is None or end is None:
        return True
    return start <= end and (elapsed is None or start + elapsed == end)
