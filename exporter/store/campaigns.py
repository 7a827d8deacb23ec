"""Campaigns, their runs and the jobs of these. (campaign, due) is unique: a time gives one run or one miss."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from exporter.store import counters

ACTIVE = ("waiting", "running")
"""The states of a run that goes on."""

OUTCOMES = ("succeeded", "failed", "cancelled", "refused")
"""How a run ends, `missed` apart."""

KEEP_SECONDS = 400 * 86400.0
"""How long runs are kept; a run or a miss that was decided is not decided again while it is."""

REFUSALS = ("policy", "budget", "site", "spec")
"""Why a job of a campaign was refused: by what is known of the site, by a budget, by the site itself, or its spec."""


@dataclass(frozen=True, slots=True)
class CampaignRow:
    """A campaign as its file said when that was last good.

    Attributes:
        name: the campaign's.
        site: where its jobs go.
        file: the path of its file.
        text: what stood in it.
        schedule: its schedule in words.
        paused: whether its file says that nothing is launched.
        held: whether somebody said so with `rayslurm campaigns pause`.
        present: whether its file is there.
        created: when it was first seen, epoch seconds.
        loaded: when its file was last read anew.
        decided: up to when its times are decided.
        next_due: its next time; None where there is none.
    """

    name: str
    site: str
    file: str
    text: str
    schedule: str
    paused: bool
    held: bool
    present: bool
    created: float
    loaded: float
    decided: float
    next_due: float | None

    @property
    def rests(self) -> bool:
        """Whether nothing of it is launched."""
        return self.paused or self.held or not self.present


@dataclass(frozen=True, slots=True)
class RunRow:
    """What became of one time of a schedule, or of a launch by hand.

    Attributes:
        due: the time, epoch seconds.
        manual: whether a person launched it.
        state: `waiting`, `running`, one of `OUTCOMES`, or `missed`.
        reason: why it ended so.
        file: the path of the campaign's file.
        text: what stood in it then.
        started: when its first job was launched.
    """

    campaign: str
    due: float
    site: str
    manual: bool
    state: str
    reason: str | None
    file: str
    text: str
    created: float
    started: float | None
    ended: float | None


@dataclass(frozen=True, slots=True)
class JobPoint:
    """One job of a run.

    Attributes:
        point: its number in the run's matrix, from 0.
        parameters: what it has of the matrix.
        state: `waiting`, `launched`, or one of `OUTCOMES`.
        attempt: how often it was launched again because the machine had ended it.
        tries: how often in a row a launch came to nothing.
        not_before: not to be launched before, epoch seconds.
        token: of its latest submission.
        reason: why it ended so, or why it waits.
    """

    campaign: str
    due: float
    point: int
    parameters: Mapping[str, str]
    state: str
    attempt: int
    tries: int
    not_before: float
    token: str | None
    reason: str | None

    @property
    def key(self) -> str:
        """What its launch is called: whatever dies meanwhile, one job comes of it."""
        return f"campaign {self.campaign} {self.due:.3f} {self.point} {self.attempt}"


@dataclass(frozen=True, slots=True)
class Reload:
    """How the last reading of the files went.

    Attributes:
        success: whether every file is good.
        at: when that was last so, epoch seconds.
        errors: what is wrong, by path.
    """

    success: bool
    at: float
    errors: Mapping[str, str]


def keep(
    connection: sqlite3.Connection,
    *,
    name: str,
    site: str,
    file: str,
    text: str,
    schedule: str,
    paused: bool,
    next_due: float | None,
    now: float,
) -> None:
    """Keeps a campaign as its file says, with the first of its times that isn't decided, and starts its counters.

    One that is new, or whose file had been away, begins now: nothing of before is due.
    """
    connection.execute(
        "INSERT INTO campaigns (name, site, file, text, schedule, paused, created, loaded, decided, next_due)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET site = excluded.site,"
        " file = excluded.file, text = excluded.text, schedule = excluded.schedule, paused = excluded.paused,"
        " loaded = excluded.loaded, decided = CASE present WHEN 1 THEN decided ELSE excluded.decided END, present = 1,"
        " next_due = excluded.next_due",
        (name, site, file, text, schedule, int(paused), now, now, now, next_due),
    )
    counters.add(connection, "campaign_missed_runs_total", 0, site=site, campaign=name)
    counters.add(connection, "jobs_submitted_total", 0, site=site, campaign=name)
    for outcome in OUTCOMES:
        counters.add(connection, "campaign_runs_total", 0, site=site, campaign=name, outcome=outcome)
    for reason in REFUSALS:
        counters.add(connection, "campaign_refusals_total", 0, site=site, campaign=name, reason=reason)


def leave(connection: sqlite3.Connection, name: str) -> None:
    """Notes that a campaign's file is gone: nothing more is launched."""
    connection.execute("UPDATE campaigns SET present = 0, next_due = NULL WHERE name = ?", (name,))


def note_reload(connection: sqlite3.Connection, errors: Mapping[str, str], *, now: float) -> None:
    """Notes how a reading of all files went."""
    connection.execute(
        "INSERT INTO campaign_reload (id, success, at, errors) VALUES (1, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET"
        " success = excluded.success, errors = excluded.errors, at = CASE excluded.success WHEN 1 THEN excluded.at"
        " ELSE at END",
        (int(not errors), now, json.dumps(dict(errors), sort_keys=True)),
    )


def reload_of(connection: sqlite3.Connection) -> Reload | None:
    """Returns how the last reading of the files went; None where there was none."""
    row = connection.execute("SELECT success, at, errors FROM campaign_reload").fetchone()
    return None if row is None else Reload(bool(row["success"]), row["at"], json.loads(row["errors"]))


def campaigns(connection: sqlite3.Connection, site: str | None = None) -> list[CampaignRow]:
    """Returns the campaigns whose files are there, or were and whose runs go on, of one site or all, by name."""
    rows = connection.execute(
        "SELECT * FROM campaigns c WHERE (? IS NULL OR site = ?) AND (present = 1 OR EXISTS (SELECT 1 FROM"
        " campaign_runs r WHERE r.site = c.site AND r.campaign = c.name AND r.state IN ('waiting', 'running')))"
        " ORDER BY name",
        (site, site),
    )
    return [_campaign(row) for row in rows]


def find(connection: sqlite3.Connection, name: str) -> CampaignRow | None:
    """Returns a campaign; None where no file of that name was ever read."""
    row = connection.execute("SELECT * FROM campaigns WHERE name = ?", (name,)).fetchone()
    return None if row is None else _campaign(row)


def hold(connection: sqlite3.Connection, name: str, *, held: bool, now: float) -> None:
    """Pauses a campaign, or lets it go on from now: what was due meanwhile was meant not to be launched."""
    connection.execute(
        "UPDATE campaigns SET held = ?, decided = CASE WHEN held = 1 AND ? = 0 THEN ? ELSE decided END WHERE name = ?",
        (int(held), int(held), now, name),
    )


def note_decided(connection: sqlite3.Connection, name: str, *, until: float, next_due: float | None) -> None:
    """Notes up to when a campaign's times are decided, and its next time."""
    connection.execute("UPDATE campaigns SET decided = ?, next_due = ? WHERE name = ?", (until, next_due, name))


def start(
    connection: sqlite3.Connection,
    campaign: CampaignRow,
    due: float,
    points: Iterable[Mapping[str, str]],
    *,
    manual: bool = False,
    now: float,
) -> bool:
    """Writes a run down, with its jobs waiting; False where this time was decided before."""
    if not _insert(connection, campaign, due, "waiting", None, manual=manual, now=now):
        return False
    connection.executemany(
        "INSERT INTO campaign_jobs (campaign, due, point, parameters, state) VALUES (?, ?, ?, ?, 'waiting')",
        [
            (campaign.name, due, number, json.dumps(dict(parameters), sort_keys=True))
            for number, parameters in enumerate(points)
        ],
    )
    return True


def miss(connection: sqlite3.Connection, campaign: CampaignRow, due: float, reason: str, *, now: float) -> bool:
    """Writes a missed time down and counts it; False where it was decided before."""
    if not _insert(connection, campaign, due, "missed", reason, manual=False, now=now):
        return False
    counters.add(connection, "campaign_missed_runs_total", site=campaign.site, campaign=campaign.name)
    return True


def _insert(
    connection: sqlite3.Connection,
    campaign: CampaignRow,
    due: float,
    state: str,
    reason: str | None,
    *,
    manual: bool,
    now: float,
) -> bool:
    cursor = connection.execute(
        "INSERT INTO campaign_runs (campaign, due, site, manual, state, reason, file, text, created, ended)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (
            campaign.name, due, campaign.site, int(manual), state, reason, campaign.file, campaign.text, now,
            None if state in ACTIVE else now,
        ),
    )  # fmt: skip
    return cursor.rowcount == 1


def active(connection: sqlite3.Connection, site: str | None = None, *, campaign: str | None = None) -> list[RunRow]:
    """Returns the runs that go on or wait, of one site or campaign, or all, by campaign and oldest first."""
    rows = connection.execute(
        "SELECT * FROM campaign_runs WHERE state IN ('waiting', 'running') AND (? IS NULL OR site = ?)"
        " AND (? IS NULL OR campaign = ?) ORDER BY campaign, due",
        (site, site, campaign, campaign),
    )
    return [_run(row) for row in rows]


def history(connection: sqlite3.Connection, name: str, *, most: int) -> list[RunRow]:
    """Returns a campaign's runs and misses, newest first."""
    rows = connection.execute("SELECT * FROM campaign_runs WHERE campaign = ? ORDER BY due DESC LIMIT ?", (name, most))
    return [_run(row) for row in rows]


def last_times(connection: sqlite3.Connection, name: str) -> tuple[float | None, float | None]:
    """Returns when a campaign's latest run was launched, and when the latest that succeeded ended."""
    row = connection.execute(
        "SELECT max(started) AS started, max(CASE state WHEN 'succeeded' THEN ended END) AS succeeded"
        " FROM campaign_runs WHERE campaign = ?",
        (name,),
    ).fetchone()
    return row["started"], row["succeeded"]


def jobs_of(connection: sqlite3.Connection, run: RunRow) -> list[JobPoint]:
    """Returns the jobs of a run, by their number."""
    rows = connection.execute(
        "SELECT * FROM campaign_jobs WHERE campaign = ? AND due = ? ORDER BY point", (run.campaign, run.due)
    )
    return [JobPoint(**{**dict(row), "parameters": json.loads(row["parameters"])}) for row in rows]


def job_ids(connection: sqlite3.Connection, name: str) -> dict[str | None, str | None]:
    """Returns the jobs of a campaign's submissions, by token."""
    rows = connection.execute("SELECT token, job_id FROM submissions WHERE campaign = ?", (name,))
    return {row["token"]: row["job_id"] for row in rows}


def launched(connection: sqlite3.Connection, point: JobPoint, token: str, *, now: float) -> None:
    """Notes the submission of a job."""
    _update(connection, point, state="launched", token=token, tries=0, reason=None)
    connection.execute(
        "UPDATE campaign_runs SET state = 'running', started = coalesce(started, ?)"
        " WHERE campaign = ? AND due = ? AND state IN ('waiting', 'running')",
        (now, point.campaign, point.due),
    )


def postpone(
    connection: sqlite3.Connection, point: JobPoint, reason: str, *, not_before: float, attempt: int | None = None
) -> None:
    """Has a job wait, because a launch came to nothing or, with a new `attempt`, to launch it again."""
    again = attempt is not None
    _update(
        connection,
        point,
        state="waiting",
        reason=reason,
        not_before=not_before,
        attempt=attempt if again else point.attempt,
        tries=0 if again else point.tries + 1,
    )


def settle(connection: sqlite3.Connection, point: JobPoint, state: str, reason: str | None) -> None:
    """Notes how a job ended."""
    _update(connection, point, state=state, reason=reason)


def refuse(connection: sqlite3.Connection, site: str, point: JobPoint, why: str, reason: str) -> None:
    """Notes that a job was refused, and counts it; `why` is one of `REFUSALS`."""
    settle(connection, point, "refused", reason)
    counters.add(connection, "campaign_refusals_total", site=site, campaign=point.campaign, reason=why)


def finish(connection: sqlite3.Connection, run: RunRow, points: Sequence[JobPoint], *, now: float) -> str:
    """Notes that all jobs of a run have ended, counts it, and returns how it ended: as the worst of them."""
    states = [point.state for point in points]
    worst = next((state for state in ("refused", "failed", "cancelled") if state in states), "succeeded")
    reasons = [point.reason for point in points if point.state == worst and point.reason]
    counted = f"{states.count('succeeded')} of {len(points)} succeeded" if len(points) > 1 else None
    reason = "; ".join([part for part in (counted, reasons[0] if reasons else None) if part]) or None
    cursor = connection.execute(
        "UPDATE campaign_runs SET state = ?, reason = ?, ended = ? WHERE campaign = ? AND due = ?"
        " AND state IN ('waiting', 'running')",
        (worst, reason, now, run.campaign, run.due),
    )
    if cursor.rowcount:
        counters.add(connection, "campaign_runs_total", site=run.site, campaign=run.campaign, outcome=worst)
    return worst


def sweep(connection: sqlite3.Connection, *, now: float) -> int:
    """Forgets runs that ended long ago; returns how many."""
    return connection.execute(
        "DELETE FROM campaign_runs WHERE state NOT IN ('waiting', 'running') AND due < ?", (now - KEEP_SECONDS,)
    ).rowcount


def _update(connection: sqlite3.Connection, point: JobPoint, **values: object) -> None:
    names = ", ".join(f"{name} = ?" for name in values)
    connection.execute(
        f"UPDATE campaign_jobs SET {names} WHERE campaign = ? AND due = ? AND point = ?",  # noqa: S608 - names of this module's own
        (*values.values(), point.campaign, point.due, point.point),
    )


def _campaign(row: sqlite3.Row) -> CampaignRow:
    flags = {name: bool(row[name]) for name in ("paused", "held", "present")}
    return CampaignRow(**{**dict(row), **flags})


def _run(row: sqlite3.Row) -> RunRow:
    return RunRow(**{**dict(row), "manual": bool(row["manual"])})
