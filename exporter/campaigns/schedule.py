"""The times of a schedule. Pure.

Cron's times are those of Debian's cron (cronsim follows it): where the clock is put forward over a time it runs right
after, where the clock is put back it runs once, and what runs every hour or more often goes by real hours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime

from cronsim import CronSim

from exporter.campaigns.model import Campaign


def times(campaign: Campaign, *, after: float) -> Iterator[int]:
    """Gives the times of a campaign's schedule, oldest first.

    Args:
        campaign: its schedule, start and end.
        after: only later ones, epoch seconds.

    Returns:
        Epoch seconds, each once; without an end where the schedule has none.
    """
    start, end = campaign.start_time, campaign.end_time
    if start is not None:
        after = max(after, start - 1)
    for due in _interval(campaign, after) if campaign.schedule.every is not None else _cron(campaign, after):
        if end is not None and due >= end:
            return
        if due > after:
            yield due
            after = due


def between(campaign: Campaign, *, after: float, until: float) -> list[int]:
    """Returns the times of a campaign's schedule that lie after one moment and not after another, oldest first."""
    found = []
    for due in times(campaign, after=after):
        if due > until:
            break
        found.append(due)
    return found


def _cron(campaign: Campaign, after: float) -> Iterator[int]:
    begin = datetime.fromtimestamp(after, campaign.schedule.zone)
    for moment in CronSim(campaign.schedule.cron or "", begin):
        yield int(moment.timestamp())


def _interval(campaign: Campaign, after: float) -> Iterator[int]:
    every = campaign.schedule.every or math.inf
    anchor = campaign.start_time or 0.0
    number = max(math.floor((after - anchor) / every), 0)
    while True:
        yield math.ceil(anchor + number * every)
        number += 1
