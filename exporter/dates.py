"""Dates and times as messages write them: in UTC, to the minute."""

from __future__ import annotations

import time

LAST = 253402300800
"""The end of the year 9999, epoch seconds: Python knows no later date, and what ends then or later never does."""


def minute(epoch: float) -> str:
    """Returns a time as `2026-11-25 16:05 UTC`.

    Args:
        epoch: epoch seconds, from 0 and before `LAST`.
    """
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(epoch))
