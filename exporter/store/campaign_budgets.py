"""How the budgets of campaigns stand, as last reckoned."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BudgetState:
    """One budget of a campaign.

    Attributes:
        period: `run`, `week` or `month`.
        units: the limit.
        remaining: what is left of it after what is paid and held; below 0 where a person launched over it.
    """

    campaign: str
    site: str
    period: str
    kind: str
    unit: str
    units: float
    remaining: float


@dataclass(frozen=True, slots=True)
class Overdraw:
    """Whether the next run of a campaign would be refused for its cost.

    Attributes:
        reason: why, for people; empty where it would not.
    """

    campaign: str
    site: str
    would: bool
    reason: str


def replace_all(
    connection: sqlite3.Connection,
    site: str,
    states: Iterable[BudgetState],
    overdraws: Iterable[Overdraw],
    *,
    now: float,
) -> None:
    """Keeps how a site's campaigns stand in place of what was kept."""
    connection.execute("DELETE FROM campaign_budgets WHERE site = ?", (site,))
    connection.execute("DELETE FROM campaign_overdraws WHERE site = ?", (site,))
    for one in states:
        connection.execute(
            "INSERT OR REPLACE INTO campaign_budgets (campaign, site, period, kind, unit, units, remaining, at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (one.campaign, one.site, one.period, one.kind, one.unit, one.units, one.remaining, now),
        )
    for each in overdraws:
        connection.execute(
            "INSERT OR REPLACE INTO campaign_overdraws (campaign, site, would, reason, at) VALUES (?, ?, ?, ?, ?)",
            (each.campaign, each.site, int(each.would), each.reason, now),
        )


def states(connection: sqlite3.Connection) -> list[BudgetState]:
    """Returns all budgets, by campaign."""
    rows = connection.execute(
        "SELECT campaign, site, period, kind, unit, units, remaining FROM campaign_budgets ORDER BY campaign, period"
    )
    return [BudgetState(*row) for row in rows]


def overdraws(connection: sqlite3.Connection) -> list[Overdraw]:
    """Returns of which campaigns it is known whether the next run would be refused, by name."""
    rows = connection.execute("SELECT campaign, site, would, reason FROM campaign_overdraws ORDER BY campaign")
    return [Overdraw(row["campaign"], row["site"], bool(row["would"]), row["reason"]) for row in rows]
