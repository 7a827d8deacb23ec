"""What projects had used over time, by how much that rose lately, and what it says of jobs that were alone in it."""

from __future__ import annotations

import sqlite3
from dataclasses import astuple, dataclass

KEPT_SECONDS = 40 * 86400.0
"""How long what a project had used is kept."""


@dataclass(frozen=True, slots=True)
class Balance:
    """Which balance it is.

    Attributes:
        provider: who keeps it.
        kind: of what; kinds are never added up.
    """

    provider: str
    project: str
    kind: str
    unit: str


@dataclass(frozen=True, slots=True)
class Job:
    """A job that used a project, or may have.

    Attributes:
        start_time: by the site's clock, epoch seconds; None where it isn't known.
        end_time: when it ended, or was last seen to run.
        units: what it cost up to then; None where that isn't known.
        final: whether it has ended and its bill is there.
        again: whether Slurm started it again, so that its times are those of the last attempt alone.
        source: whose figure it is.
    """

    site: str
    job_id: str
    start_time: float | None
    end_time: float | None
    units: float | None
    final: bool
    again: bool
    source: str


@dataclass(frozen=True, slots=True)
class Rise:
    """By how much a balance rose over the latest window.

    Attributes:
        begin: epoch seconds.
        ours: what our jobs cost in it; None where that isn't known.
        share: our share of it, 0 to 1; None where nothing was used, or ours isn't known.
    """

    balance: Balance
    begin: float
    end: float
    units: float
    ours: float | None
    share: float | None


@dataclass(frozen=True, slots=True)
class Opinion:
    """What a project's balance says of a job that was alone in its window.

    Attributes:
        begin: when the earlier balance was reckoned, epoch seconds.
        end: when the later one was.
        units: by how much it rose.
        billed: what the job's bill is.
        words: what to think of it, for people.
    """

    site: str
    job_id: str
    balance: Balance
    begin: float
    end: float
    units: float
    billed: float
    words: str


def note(connection: sqlite3.Connection, balance: Balance, *, reckoned: float, used: float, whole: bool) -> None:
    """Notes what a project had used when the provider reckoned it, and forgets what is too old."""
    connection.execute(
        "INSERT OR REPLACE INTO balance_history (provider, project, kind, unit, reckoned, used, whole)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (*astuple(balance), reckoned, used, int(whole)),
    )
    connection.execute(
        "DELETE FROM balance_history WHERE provider = ? AND project = ? AND kind = ? AND unit = ? AND reckoned < ?",
        (*astuple(balance), reckoned - KEPT_SECONDS),
    )


def history(connection: sqlite3.Connection, balance: Balance) -> list[tuple[float, float, bool]]:
    """Returns when a balance was reckoned, what was used, and whether it was in whole units, oldest first."""
    rows = connection.execute(
        "SELECT reckoned, used, whole FROM balance_history WHERE provider = ? AND project = ? AND kind = ? AND unit = ?"
        " ORDER BY reckoned",
        astuple(balance),
    )
    return [(row["reckoned"], row["used"], bool(row["whole"])) for row in rows]


def jobs_of(connection: sqlite3.Connection, balance: Balance, *, since: float) -> list[Job]:
    """Returns the jobs that used a balance since then, or may have: of some it isn't known what they are paid in.

    Providers are told apart by their units.
    """
    rows = connection.execute(
        "SELECT j.site, j.job_id, j.final, j.restarts, coalesce(e.start_time, j.start_time) AS start_time,"
        " CASE WHEN j.final = 1 THEN j.end_time ELSE coalesce(e.at, j.seen) END AS end_time,"
        " coalesce(b.units, e.attempt_units) AS units, b.units IS NOT NULL AS billed,"
        " coalesce(b.source, e.source, '') AS source"
        " FROM jobs j LEFT JOIN bills b ON b.site = j.site AND b.job_id = j.job_id AND b.final = 1"
        " LEFT JOIN estimates e ON e.site = j.site AND e.job_id = j.job_id"
        " WHERE coalesce(b.project, j.project) = ? AND (j.final = 0 OR j.end_time >= ?) AND j.state != 'pending'"
        " AND coalesce(j.elapsed_seconds, 1) > 0"
        " AND coalesce(b.kind, e.kind, ?) = ? AND coalesce(b.unit, e.unit, ?) = ?",
        (balance.project, since, balance.kind, balance.kind, balance.unit, balance.unit),
    )
    return [
        Job(
            row["site"],
            row["job_id"],
            row["start_time"],
            row["end_time"],
            row["units"],
            bool(row["final"] and row["billed"]),
            bool(row["restarts"]),
            row["source"],
        )
        for row in rows
    ]


def keep(connection: sqlite3.Connection, balance: Balance, rise: Rise | None) -> None:
    """Keeps by how much a balance rose lately, in place of what was known before; None: that isn't known."""
    connection.execute(
        "DELETE FROM differences WHERE provider = ? AND project = ? AND kind = ? AND unit = ?", astuple(balance)
    )
    if rise is not None:
        connection.execute(
            "INSERT INTO differences (provider, project, kind, unit, begin, end, units, ours, share)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*astuple(balance), rise.begin, rise.end, rise.units, rise.ours, rise.share),
        )


def rises(connection: sqlite3.Connection) -> list[Rise]:
    """Returns by how much the balances of accessible projects rose lately."""
    rows = connection.execute(
        "SELECT d.* FROM differences d JOIN projects p ON p.provider = d.provider AND p.project = d.project"
        " WHERE p.accessible = 1 ORDER BY d.provider, d.project, d.kind, d.unit"
    )
    return [
        Rise(
            Balance(row["provider"], row["project"], row["kind"], row["unit"]),
            row["begin"], row["end"], row["units"], row["ours"], row["share"],
        )
        for row in rows
    ]  # fmt: skip


def give_opinion(connection: sqlite3.Connection, found: Opinion) -> None:
    """Keeps what a balance says of a job."""
    connection.execute(
        "INSERT OR REPLACE INTO second_opinions"
        " (site, job_id, provider, project, kind, unit, begin, end, units, billed, words)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            found.site, found.job_id, *astuple(found.balance), found.begin, found.end, found.units, found.billed,
            found.words,
        ),
    )  # fmt: skip


def opinion_of(connection: sqlite3.Connection, site: str, job_id: str) -> Opinion | None:
    """Returns what its project's balance says of a job; None where it wasn't alone, or that isn't known yet."""
    row = connection.execute("SELECT * FROM second_opinions WHERE site = ? AND job_id = ?", (site, job_id)).fetchone()
    if row is None:
        return None
    balance = Balance(row["provider"], row["project"], row["kind"], row["unit"])
    return Opinion(
        row["site"], row["job_id"], balance, row["begin"], row["end"], row["units"], row["billed"], row["words"]
    )
