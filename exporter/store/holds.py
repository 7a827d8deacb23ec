"""What launches are held to cost until their bills are there, and what the jobs of a campaign cost together."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Hold:
    """What a launch was priced at its time limit.

    Attributes:
        kind: which budget pays.
        unit: what is paid in.
        units: how many.
        run: which run of its campaign; empty for none.
        limits: the campaign's budget by which it was launched, by period; empty for none.
        timezone: by whose clock its weeks and months begin.
        over: whether a person launched it over a budget, a floor or its cap.
    """

    kind: str
    unit: str
    units: float
    run: str = ""
    limits: Mapping[str, float] | None = None
    timezone: str = "UTC"
    over: bool = False


@dataclass(frozen=True, slots=True)
class Cost:
    """What one job of a campaign costs.

    Attributes:
        created: when it was launched, epoch seconds.
        run: which run it belongs to.
        paid: its bill, in its own kind and unit; None while that isn't known.
        held: what it was priced; None where that wasn't known.
        ended: whether it has ended, so that nothing more than its bill is to come.
    """

    token: str
    created: float
    run: str
    paid: tuple[str, str, float] | None
    held: tuple[str, str, float] | None
    ended: bool


def keep(connection: sqlite3.Connection, token: str, kept: Hold) -> None:
    """Writes down what a launch is held to cost; in the transaction that writes its journal row."""
    budget = None
    if kept.limits:
        budget = json.dumps({"limits": dict(kept.limits), "timezone": kept.timezone}, sort_keys=True)
    connection.execute(
        "INSERT INTO holds (token, kind, unit, units, run, budget, over) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            token, kept.kind, kept.unit, kept.units, kept.run, budget,
            int(kept.over),
        ),
    )  # fmt: skip


def of_token(connection: sqlite3.Connection, token: str) -> Hold | None:
    """Returns what a launch was priced; None where that wasn't known."""
    row = connection.execute("SELECT * FROM holds WHERE token = ?", (token,)).fetchone()
    if row is None:
        return None
    budget = json.loads(row["budget"]) if row["budget"] else {}
    return Hold(
        row["kind"], row["unit"], row["units"], row["run"], budget.get("limits"), budget.get("timezone", "UTC"),
        bool(row["over"]),
    )  # fmt: skip


def costs_of_campaign(connection: sqlite3.Connection, campaign: str, *, since: float, run: str) -> list[Cost]:
    """Returns what the jobs of a campaign cost that were launched since then, and those of one run whenever they were.

    What is known to have become no job costs nothing and is left out.

    Args:
        connection: of a snapshot or a transaction.
        campaign: the campaign's name.
        since: epoch seconds.
        run: the run's name; empty for none.
    """
    rows = connection.execute(
        "SELECT s.token, s.created, coalesce(r.run, '') AS run, b.kind AS paid_kind, b.unit AS paid_unit,"
        " b.units AS paid, r.kind, r.unit, r.units AS held, coalesce(j.final, 0) AS ended"
        " FROM submissions s LEFT JOIN holds r ON r.token = s.token"
        " LEFT JOIN jobs j ON j.site = s.site AND j.job_id = s.job_id"
        " LEFT JOIN bills b ON b.site = s.site AND b.job_id = s.job_id AND b.final = 1 AND j.final = 1"
        " WHERE s.campaign = ? AND s.state != 'absent' AND (s.created >= ? OR (r.run = ? AND ? != ''))"
        " ORDER BY s.created, s.token",
        (campaign, since, run, run),
    )
    return [
        Cost(
            row["token"],
            row["created"],
            row["run"],
            None if row["paid"] is None else (row["paid_kind"], row["paid_unit"], row["paid"]),
            None if row["held"] is None else (row["kind"], row["unit"], row["held"]),
            bool(row["ended"]),
        )
        for row in rows
    ]


def late_costs(connection: sqlite3.Connection, project: str, kind: str, unit: str, *, since: float) -> list[float]:
    """Returns what a project's jobs cost that have ended since then: a balance may not have it yet.

    By their bills; of one whose bill nobody will tell, what it was priced at its launch. One whose bill is awaited is
    among those that aren't paid, see `unpaid.unpaid`.
    """
    rows = connection.execute(
        "SELECT coalesce(b.units, h.units) AS units FROM jobs j"
        " LEFT JOIN bills b ON b.site = j.site AND b.job_id = j.job_id AND b.final = 1"
        " LEFT JOIN submissions s ON s.site = j.site AND s.job_id = j.job_id LEFT JOIN holds h ON h.token = s.token"
        " WHERE j.final = 1 AND j.end_time > ? AND coalesce(b.project, j.project) = ?"
        " AND coalesce(b.kind, h.kind) = ? AND coalesce(b.unit, h.unit) = ?"
        " AND (b.units IS NOT NULL OR NOT EXISTS (SELECT 1 FROM awaited_reports a WHERE a.site = j.site"
        " AND a.job_id = j.job_id))",
        (since, project, kind, unit),
    )
    return [row["units"] for row in rows]
