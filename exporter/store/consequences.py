"""What followed when a job was of no use or over its cap, as its spec has it: it was reported, or cancelled."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal, Self

from exporter.store.jobs import JobRow

Cause = Literal["never_ready", "tunnel_down", "idle", "over_cap"]
"""One of `conditions.CONDITIONS`, or that it has cost more than its `max_units`."""


@dataclass(frozen=True, slots=True)
class Consequence:
    """What followed.

    Attributes:
        state: `reported`; `cancelling`: the site is being told, or was and it isn't known; `cancelled`: it was told.
        reason: why, for people.
        at: when, epoch seconds.
    """

    site: str
    job_id: str
    condition: Cause
    state: Literal["reported", "cancelling", "cancelled"]
    reason: str
    at: float

    def told(self, *, at: float) -> Self:
        """Returns the same as one that the site was told."""
        return replace(self, state="cancelled", at=at)


def note(connection: sqlite3.Connection, consequence: Consequence) -> None:
    """Writes down what follows, or followed, in place of what stood there of the same condition."""
    connection.execute(
        "INSERT OR REPLACE INTO consequences (site, job_id, condition, state, reason, at) VALUES (?, ?, ?, ?, ?, ?)",
        (
            consequence.site, consequence.job_id, consequence.condition, consequence.state, consequence.reason,
            consequence.at,
        ),
    )  # fmt: skip


def withdraw(connection: sqlite3.Connection, site: str, job_id: str, gone: Collection[Cause]) -> None:
    """Takes back what was reported of a running job, and a cancel that came to nothing, of conditions that are gone."""
    for condition in gone:
        connection.execute(
            "DELETE FROM consequences WHERE site = ? AND job_id = ? AND condition = ? AND state != 'cancelled'",
            (site, job_id, condition),
        )


def of_job(connection: sqlite3.Connection, site: str, job_id: str) -> list[Consequence]:
    """Returns what followed for a job, oldest first."""
    rows = connection.execute(
        "SELECT * FROM consequences WHERE site = ? AND job_id = ? ORDER BY at, condition", (site, job_id)
    )
    return [Consequence(**dict(row)) for row in rows]


def in_words(job: JobRow, found: Collection[Consequence]) -> str:
    """Returns for people what rayslurm did about a job, or has to say of it; nothing where there is nothing.

    Of an ended job only that it was cancelled: where Slurm says otherwise, it had ended before the cancel came.
    """
    cancels = [one for one in found if one.state != "reported"]
    if job.final:
        return f"cancelled by rayslurm: {cancels[0].reason}" if cancels and job.state == "cancelled" else ""
    told = [one for one in cancels if one.state == "cancelled"]
    if told:
        return f"being cancelled by rayslurm: {told[0].reason}"
    return "; ".join(one.reason for one in found)
