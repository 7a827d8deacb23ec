"""In what ways running jobs are of no use, and since when each was seen to be.

A look at a job says which condition holds, that none does, or that it isn't known. Looks that follow each other closely
and see the same make a spell; a gap ends it, and so does a look that sees nothing, or can't tell.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Condition = Literal["never_ready", "tunnel_down", "idle"]
"""Its Ray isn't ready; Ray was ready and its dashboard isn't reached; Ray uses no CPU and no GPU."""

CONDITIONS: tuple[Condition, ...] = ("never_ready", "tunnel_down", "idle")
"""In the order in which they count: at any moment one at most does."""


@dataclass(frozen=True, slots=True)
class Watched:
    """A running job that was launched from here, with what is known of its Ray.

    Attributes:
        spec: as the journal has it.
        start_time: when it began, epoch seconds; None where that isn't known.
        seen: when the queue last named it, epoch seconds.
        run_read: when its folder was last read, epoch seconds; None where it never was.
        ready_time: when its Ray was ready, epoch seconds; None where that isn't known to have happened.
        tunnel_state: how its dashboard's tunnel was when it was last probed; None where it never was.
        tunnel_good_until: from when on that isn't known any more, epoch seconds.
        last_success: when that tunnel was last up, epoch seconds; None where it never was.
    """

    site: str
    job_id: str
    spec: dict[str, Any]
    start_time: int | None
    seen: float
    run_read: float | None
    ready_time: float | None
    tunnel_state: str | None
    tunnel_good_until: float | None
    last_success: float | None


@dataclass(frozen=True, slots=True)
class Spell:
    """A time in which a condition was seen without a gap.

    Attributes:
        begin: when it was first seen, epoch seconds.
        until: when it was last seen, epoch seconds.
    """

    condition: Condition
    begin: float
    until: float

    @property
    def seconds(self) -> float:
        """How long it was seen."""
        return self.until - self.begin


def watched(connection: sqlite3.Connection, site: str) -> list[Watched]:
    """Returns the running jobs of a site that were launched from here, oldest first."""
    rows = connection.execute(
        "SELECT j.site, j.job_id, s.spec, j.start_time, j.seen, r.read AS run_read, r.ready_time,"
        " h.state AS tunnel_state, h.good_until AS tunnel_good_until, h.last_success"
        " FROM tracked t JOIN submissions s ON s.token = t.token"
        " JOIN jobs j ON j.site = s.site AND j.job_id = s.job_id"
        " LEFT JOIN runs r ON r.site = j.site AND r.job_id = j.job_id"
        " LEFT JOIN tunnel_health h ON h.site = j.site AND h.job_id = j.job_id AND h.tunnel = 'dashboard'"
        " WHERE t.done = 0 AND t.site = ? AND j.state = 'running' AND j.final = 0 ORDER BY s.created",
        (site,),
    )
    return [Watched(**{**dict(row), "spec": json.loads(row["spec"])}) for row in rows]


def has_open(connection: sqlite3.Connection, site: str) -> bool:
    """Tells whether a spell of a job of a site goes on."""
    row = connection.execute("SELECT 1 FROM spells WHERE site = ? AND open = 1 LIMIT 1", (site,)).fetchone()
    return row is not None


def close(connection: sqlite3.Connection, site: str) -> None:
    """Ends all spells of a site: what is seen from now on begins anew."""
    connection.execute("UPDATE spells SET open = 0 WHERE site = ? AND open = 1", (site,))


def observe(
    connection: sqlite3.Connection, site: str, seen: Mapping[str, Collection[Condition]], *, now: float, gap: float
) -> dict[tuple[str, Condition], Spell]:
    """Takes in what a look at all running jobs of a site saw.

    Args:
        connection: of a write transaction.
        site: the site's name.
        seen: the conditions that hold, by job; a spell of any other ends.
        now: epoch seconds.
        gap: how many seconds ago the look before may have been for a spell to go on.

    Returns:
        The spells that go on, by job and condition.
    """
    open_spells = {
        (row["job_id"], row["condition"]): row
        for row in connection.execute("SELECT * FROM spells WHERE site = ? AND open = 1", (site,))
    }
    close(connection, site)
    found = {}
    for job_id, conditions in seen.items():
        for condition in conditions:
            row = open_spells.get((job_id, condition))
            begin = row["begin"] if row is not None and 0 <= now - row["until"] <= gap else now
            connection.execute(
                "INSERT INTO spells (site, job_id, condition, begin, until, open) VALUES (?, ?, ?, ?, ?, 1)"
                " ON CONFLICT DO UPDATE SET until = max(until, excluded.until), open = 1",
                (site, job_id, condition, begin, now),
            )
            found[job_id, condition] = Spell(condition, begin, now)
    return found


def spells(connection: sqlite3.Connection, site: str, job_id: str) -> list[Spell]:
    """Returns what was seen of a job, in the order of its beginning."""
    rows = connection.execute(
        "SELECT condition, begin, until FROM spells WHERE site = ? AND job_id = ? ORDER BY begin, condition",
        (site, job_id),
    )
    return [Spell(row["condition"], row["begin"], row["until"]) for row in rows]


def forget(connection: sqlite3.Connection, site: str, job_id: str) -> None:
    """Forgets what was seen of a job."""
    connection.execute("DELETE FROM spells WHERE site = ? AND job_id = ?", (site, job_id))
