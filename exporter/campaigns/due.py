"""What comes of a campaign's times, written down in one transaction with up to when they are decided."""

from __future__ import annotations

import logging
import sqlite3
from datetime import UTC, datetime

from exporter.campaigns.model import Campaign
from exporter.campaigns.plan import decide
from exporter.store import campaigns
from exporter.store.campaigns import CampaignRow

_log = logging.getLogger(__name__)


def decide_times(
    connection: sqlite3.Connection,
    row: CampaignRow,
    campaign: Campaign,
    *,
    now: float,
    next_due: float | None,
    configured: bool = True,
) -> None:
    """Makes each time that came since the last decision a run or a counted miss.

    Nothing is done where the campaign's file was read anew since `row` was read.

    Args:
        connection: of the write in which it is noted.
        row: the campaign, as the store has it.
        campaign: what `row` says.
        now: epoch seconds.
        next_due: its next time; None where there is none.
        configured: whether its site is in the configuration; else nobody would look after a run.
    """
    current = campaigns.find(connection, row.name)
    if current is None or current.text != row.text:  # changed meanwhile
        return
    if current.rests:
        campaigns.note_decided(connection, row.name, until=now, next_due=next_due)
        return
    # Of all sites: a file may name another one than when its run began.
    states = [run.state for run in campaigns.active(connection) if run.campaign == row.name]
    plan = decide(
        campaign,
        decided=current.decided,
        now=now,
        active=states.count("running"),
        waiting=states.count("waiting"),
    )
    for missed in plan.missed:
        if campaigns.miss(connection, current, missed.due, missed.reason, now=now):
            _log.warning("campaign %s: its run of %s is missed: %s", row.name, moment(missed.due), missed.reason)
    if plan.run is not None and not configured:
        reason = f"its site {current.site} was not in the configuration"
        campaigns.miss(connection, current, plan.run, reason, now=now)
        _log.warning("campaign %s: its run of %s is missed: %s", row.name, moment(plan.run), reason)
    elif plan.run is not None:
        campaigns.start(connection, current, plan.run, campaign.points(), now=now)
    campaigns.note_decided(connection, row.name, until=plan.until, next_due=next_due)


def moment(due: float) -> str:
    """Returns a time in words, in UTC."""
    return f"{datetime.fromtimestamp(due, UTC):%Y-%m-%d %H:%M:%S} UTC"
