"""What the supervisors of launched jobs say of themselves, as it was last read from the jobs' folders."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict, dataclass
from typing import Any

from exporter.store import supervised
from exporter.store.jobs import JobRow
from exporter.store.supervised import OpenListener, TunnelRestarts


@dataclass(frozen=True, slots=True)
class Run:
    """What a job's supervisor has said; None is not known.

    Attributes:
        phase: the one it was in when it last wrote.
        phase_time: when it entered that, epoch seconds.
        heartbeat: when it last wrote, epoch seconds.
        ready_time: when every node was in the Ray cluster, epoch seconds.
        ray_version: as Ray tells it.
        session_name: by which this Ray is told from another one.
        outcome: how the job ended, in one word; see `jobs/ray_job.py`.
        reason: why it ended.
        exit_code: what the job ended with.
        summary: all that it said at its end, as it stands in `summary.json`.
        settled: whether nothing more will be read of it.
        node_names: its nodes, the head first.
        tunnels: how often each tunnel's ssh was started again.
        open_listeners: what of it listens for the site's network and asks for no token.
    """

    site: str
    job_id: str
    phase: str | None = None
    phase_time: float | None = None
    heartbeat: float | None = None
    ready_time: float | None = None
    ray_version: str | None = None
    session_name: str | None = None
    outcome: str | None = None
    reason: str | None = None
    exit_code: int | None = None
    summary: dict[str, Any] | None = None
    settled: bool = False
    node_names: list[str] | None = None
    tunnels: list[TunnelRestarts] | None = None
    open_listeners: list[OpenListener] | None = None

    @property
    def ending_time(self) -> float | None:
        """When the supervisor began to end the job, epoch seconds; None where it didn't say."""
        phases = (self.summary or {}).get("phases")
        for phase in phases if isinstance(phases, list) else []:
            if isinstance(phase, dict) and phase.get("phase") == "ending":
                at = phase.get("time")
                return float(at) if isinstance(at, int | float) else None
        return None


@dataclass(frozen=True, slots=True)
class Unread:
    """A launched job of which something is still to be read.

    Attributes:
        run_dir: its folder at the site.
        token: the submission's.
        ended: whether accounting has said its last word on it.
        ready: whether its Ray is known to have been ready.
        tunnel_up: whether its Ray was answering through the tunnel just now.
        read: when its folder was last read, epoch seconds; None where it never was.
        mended: when one of its tunnels was last seen to be another, or to be up after it was not, epoch seconds; None
            where none was.
    """

    job_id: str
    run_dir: str
    token: str
    ended: bool
    ready: bool
    tunnel_up: bool
    read: float | None
    mended: float | None


_LISTS = ("node_names", "tunnels", "open_listeners")
_FIELDS = tuple(
    name for name in Run.__dataclass_fields__ if name not in {"site", "job_id", "summary", "settled", *_LISTS}
)


def unread(connection: sqlite3.Connection, site: str, *, now: float, since: float) -> list[Unread]:
    """Returns the launched jobs of a site that run, or have ended since then and aren't settled, oldest first.

    Args:
        connection: of a snapshot.
        site: the site's name.
        now: epoch seconds.
        since: jobs that ended before are left alone.
    """
    rows = connection.execute(
        "SELECT j.job_id, s.run_dir, s.token, j.final AS ended, r.ready_time IS NOT NULL AS ready, r.read,"
        " coalesce(h.state = 'up' AND h.good_until > ?, 0) AS tunnel_up,"
        " (SELECT max(at) FROM (SELECT t.changed AS at FROM tunnel_sockets t WHERE t.site = j.site"
        " AND t.job_id = j.job_id UNION ALL SELECT f.last_at FROM tunnel_failures f JOIN tunnel_health u"
        " ON u.site = f.site AND u.job_id = f.job_id AND u.tunnel = f.tunnel AND u.state = 'up'"
        " WHERE f.site = j.site AND f.job_id = j.job_id)) AS mended"
        " FROM submissions s JOIN jobs j ON j.site = s.site AND j.job_id = s.job_id"
        " LEFT JOIN runs r ON r.site = j.site AND r.job_id = j.job_id"
        " LEFT JOIN tunnel_health h ON h.site = j.site AND h.job_id = j.job_id AND h.tunnel = 'dashboard'"
        " WHERE s.site = ? AND coalesce(r.settled, 0) = 0"
        " AND (j.state = 'running' OR (j.final = 1 AND j.start_time IS NOT NULL AND j.end_time > ?))"
        " ORDER BY s.created",
        (now, site, since),
    )
    return [
        Unread(
            row["job_id"], row["run_dir"], row["token"], bool(row["ended"]), bool(row["ready"]), bool(row["tunnel_up"]),
            row["read"], row["mended"],
        )
        for row in rows
    ]  # fmt: skip


def keep(connection: sqlite3.Connection, run: Run, *, now: float) -> None:
    """Keeps what was read of a job; what is not known any more stays as it was known."""
    summary = None if run.summary is None else json.dumps(run.summary, sort_keys=True)
    lists = [None if (found := getattr(run, name)) is None else _json(found) for name in _LISTS]
    names = [*_FIELDS, "summary", *_LISTS]
    kept = ", ".join(f"{name} = coalesce(excluded.{name}, {name})" for name in names)
    connection.execute(
        f"INSERT INTO runs (site, job_id, {', '.join(names)}, settled, read)"  # noqa: S608 - names of this module's own
        f" VALUES (?, ?, {', '.join('?' for _ in names)}, ?, ?) ON CONFLICT (site, job_id) DO UPDATE SET {kept},"
        " settled = excluded.settled, read = excluded.read",
        (run.site, run.job_id, *(getattr(run, name) for name in _FIELDS), summary, *lists, int(run.settled), now),
    )


def _json(found: list[Any]) -> str:
    return json.dumps([one if isinstance(one, str) else asdict(one) for one in found])


def ready(connection: sqlite3.Connection, site: str, job_id: str) -> tuple[float | None, str | None]:
    """Returns when a job's Ray was ready, and its version; None for what isn't known."""
    row = connection.execute(
        "SELECT ready_time, ray_version FROM runs WHERE site = ? AND job_id = ?", (site, job_id)
    ).fetchone()
    return (None, None) if row is None else (row["ready_time"], row["ray_version"])


def restarts(connection: sqlite3.Connection, site: str, job_id: str) -> dict[str, TunnelRestarts]:
    """Returns how often the ssh of each of a job's tunnels was started again, as far as that is known."""
    row = connection.execute("SELECT tunnels FROM runs WHERE site = ? AND job_id = ?", (site, job_id)).fetchone()
    found = None if row is None or row["tunnels"] is None else json.loads(row["tunnels"])
    return {one.name: one for one in supervised.tunnels({"tunnels": found}) or ()}


def of_job(connection: sqlite3.Connection, site: str, job_id: str) -> Run | None:
    """Returns what is known of one job; None where nothing was read."""
    row = connection.execute("SELECT * FROM runs WHERE site = ? AND job_id = ?", (site, job_id)).fetchone()
    return None if row is None else _run(row)


_SLURMS_WORDS = {
    "boot_fail": "a node did not boot",
    "cancelled": "it was cancelled",
    "deadline": "its deadline passed",
    "node_fail": "Slurm lost a node of it",
    "out_of_memory": "it ran out of memory",
    "preempted": "another job took its place",
    "timeout": "it reached its time limit",
}


def ending(job: JobRow, run: Run | None, acted: str = "") -> str:
    """Returns why an ended job ended, for people: in its supervisor's own words, or else by what Slurm says.

    Args:
        job: the job.
        run: what its supervisor said; None where nothing was read.
        acted: why rayslurm itself ended it, which goes before what others say of that; nothing where it did not.

    Returns:
        Nothing where the job goes on, where its folder is still to be read, or where it isn't known.
    """
    if not job.final:
        return ""
    if acted:
        return acted
    if run is not None and run.reason:
        return run.reason
    if run is not None and not run.settled and job.state != "cancelled":
        return ""
    words = _SLURMS_WORDS.get(job.state, "")
    last = f"its supervisor's last word was of phase {run.phase}" if run is not None and run.phase else ""
    return "; ".join(part for part in (words, last) if part)


def _run(row: sqlite3.Row) -> Run:
    known = {name: row[name] for name in ("site", "job_id", *_FIELDS)}
    summary = None if row["summary"] is None else json.loads(row["summary"])
    lists = {name: None if row[name] is None else json.loads(row[name]) for name in _LISTS}
    return Run(
        **known,
        summary=summary,
        settled=bool(row["settled"]),
        node_names=supervised.node_names(lists),
        tunnels=supervised.tunnels(lists),
        open_listeners=supervised.open_listeners(lists),
    )
