"""What the texts on a project's balance have in common: amounts, dates and the time of the last update."""

from __future__ import annotations

import re
from datetime import tzinfo

from exporter.parsers.moments import moments

_AMOUNT = re.compile(r"-?[0-9]{1,15}(?:\.[0-9]{1,9})?\Z")
_TIME = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:[ T]([0-9]{2}:[0-9]{2})(:[0-9]{2})?(?:\.[0-9]{1,9})?)?\Z")
NOT_GRANTED = frozenset({"N/A", "n/a", "NA", "-"})


def amount(text: str) -> float:
    """Read a plain number.

    Raises:
        ValueError: it is none.
    """
    if not _AMOUNT.match(text):
        raise ValueError("not an amount")
    return float(text)


def decimals(text: str) -> int:
    """With how many decimals a number is printed."""
    return len(text.partition(".")[2])


def local_time(text: str, timezone: tzinfo) -> int | None:
    """Read `2026-11-23 16:25:53.167547`, `2025-09-02 15:12` or a date (its midnight) as UTC epoch seconds.

    Returns:
        None for a local time that occurs twice, in the night when clocks go back.

    Raises:
        ValueError: it is no time, or one that the clocks skip.
    """
    match = _TIME.match(text)
    if match is None:
        raise ValueError("not a time")
    date, clock, seconds = match.groups()
    possible = moments(f"{date}T{clock or '00:00'}{seconds or ':00'}", timezone)
    return possible[0] if len(possible) == 1 else None
