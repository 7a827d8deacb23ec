"""What unfinished jobs cost by what the queue last told, and whether that was right in the end."""

from __future__ import annotations

import sqlite3
from dataclasses import astuple, dataclass, fields

from exporter.store import counters


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a job that isn't paid yet costs, by what the queue last told.

    Attributes:
        kind: which budget will pay.
        source: `formula`, the site's rates on what the queue tells, or `squeue`, the billing TRES that it tells.
        rule: the rate, and where it was read, for people.
        units_per_hour: how many units an hour costs while it runs.
        limit_units: what this attempt costs when it takes all of its time; None where it has no limit.
        start_time: when this attempt began; None while it waits.
        attempt_units: what this attempt has cost so far.
        attempts: how many earlier attempts were seen.
        earlier_units: what they cost, each up to the last time that the queue told of it.
        restarts: how many earlier attempts there were.
        at: when the queue told, epoch seconds.
    """

    site: str
    job_id: str
    kind: str
    unit: str
    source: str
    rule: str
    units_per_hour: float
    limit_units: float | None
    start_time: int | None
    attempt_units: float
    attempts: int
    earlier_units: float
    restarts: int
    at: float

    @property
    def _counts(self) -> bool:
        """Whether the attempts are those that Slurm counts; while the job waits again, Slurm may have one to add."""
        return self.attempts == self.restarts or (self.start_time is None and self.attempts == self.restarts + 1)

    @property
    def units(self) -> float | None:
        """What it has cost so far, all attempts together; None before it runs, or where an attempt wasn't seen."""
        if not self._counts or (self.start_time is None and not self.attempts):
            return None
        return self.earlier_units + self.attempt_units

    @property
    def units_at_limit(self) -> float | None:
        """What it will have cost when it takes all of its time; None where that isn't known."""
        if self.limit_units is None or not self._counts:
            return None
        return self.earlier_units + self.limit_units

    def as_json(self) -> dict[str, object]:
        """Returns what `status --json` says of it."""
        return {
            "units": self.units,
            "units_per_hour": self.units_per_hour,
            "units_at_limit": self.units_at_limit,
            "kind": self.kind,
            "unit": self.unit,
            "source": self.source,
            "rule": self.rule,
            "at": self.at,
        }


@dataclass(frozen=True, slots=True)
class Mismatch:
    """An estimate that was not what the job cost.

    Attributes:
        estimated: what the estimate comes to for the time that the job took, in `kind` and `unit`.
        billed: what it cost, in `billed_kind` and `billed_unit`.
        reason: why, as far as that is known, for people.
        at: when that was noticed.
    """

    site: str
    job_id: str
    estimated: float
    kind: str
    unit: str
    billed: float
    billed_kind: str
    billed_unit: str
    reason: str
    at: float


_COLUMNS = tuple(field.name for field in fields(Estimate))
_MISMATCH = tuple(field.name for field in fields(Mismatch))


def keep(connection: sqlite3.Connection, estimate: Estimate) -> None:
    """Keeps an estimate in place of the job's last one."""
    marks = ", ".join("?" * len(_COLUMNS))
    connection.execute(
        f"INSERT OR REPLACE INTO estimates ({', '.join(_COLUMNS)}) VALUES ({marks})",  # noqa: S608 - our columns
        astuple(estimate),
    )


def of_job(connection: sqlite3.Connection, site: str, job_id: str) -> Estimate | None:
    """Returns a job's last estimate; None where there is none, or its bill is there."""
    row = connection.execute(
        f"SELECT {', '.join(_COLUMNS)} FROM estimates WHERE site = ? AND job_id = ?",  # noqa: S608 - our columns
        (site, job_id),
    ).fetchone()
    return None if row is None else Estimate(*row)


def to_settle(connection: sqlite3.Connection, site: str) -> list[Estimate]:
    """Returns the estimates of a site's ended jobs of which no more bill is awaited."""
    rows = connection.execute(
        f"SELECT {', '.join('e.' + name for name in _COLUMNS)} FROM estimates e"  # noqa: S608 - our columns
        " JOIN jobs j ON j.site = e.site AND j.job_id = e.job_id WHERE e.site = ? AND j.final = 1 AND NOT EXISTS"
        " (SELECT 1 FROM awaited_reports a WHERE a.site = e.site AND a.job_id = e.job_id) ORDER BY e.job_id",
        (site,),
    )
    return [Estimate(*row) for row in rows]


def settle(connection: sqlite3.Connection, estimate: Estimate, mismatch: Mismatch | None) -> None:
    """Forgets an estimate of which it is known whether it was right; one that wasn't is counted.

    Args:
        connection: of a write transaction.
        estimate: the estimate.
        mismatch: what was wrong with it; None where nothing was.
    """
    site, job_id = estimate.site, estimate.job_id
    connection.execute("DELETE FROM estimates WHERE site = ? AND job_id = ?", (site, job_id))
    if mismatch is None:
        connection.execute("DELETE FROM mismatches WHERE site = ? AND job_id = ?", (site, job_id))
        return
    connection.execute(
        f"INSERT OR REPLACE INTO mismatches ({', '.join(_MISMATCH)})"  # noqa: S608 - our columns
        f" VALUES ({', '.join('?' * len(_MISMATCH))})",
        astuple(mismatch),
    )
    counters.add(connection, "billing_estimate_mismatches_total", site=site)


def open_counter(connection: sqlite3.Connection, site: str) -> None:
    """Starts a site's counter of mismatches at 0, so that `increase()` sees the first."""
    counters.add(connection, "billing_estimate_mismatches_total", 0, site=site)


def mismatch_of(connection: sqlite3.Connection, site: str, job_id: str) -> Mismatch | None:
    """Returns what was wrong with a job's estimate; None where nothing was, or that isn't known yet."""
    row = connection.execute(
        f"SELECT {', '.join(_MISMATCH)} FROM mismatches WHERE site = ? AND job_id = ?",  # noqa: S608 - our columns
        (site, job_id),
    ).fetchone()
    return None if row is None else Mismatch(*row)
