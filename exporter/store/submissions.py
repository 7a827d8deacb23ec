"""The journal: every intention to launch a job, on disk before anything leaves this machine."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from exporter.job_names import slurm_name, split_name
from exporter.store import counters, jobs, leases


@dataclass(frozen=True, slots=True)
class Submission:
    """One intention to launch, and what became of it.

    Attributes:
        token: its identity; part of the job's name at the site.
        name: the job's readable name.
        spec: the spec as understood.
        run_dir: the job's folder at the site.
        dashboard_port: the port on this machine that its dashboard's tunnel listens on; None where it has none.
        state: `intended`, `submitting`, `submitted`, `unknown`, `adopted` or `absent`.
        job_id: the job that came of it; None while there is none or it isn't known.
        error: why it is unknown or absent.
        key: what whoever asked for it calls it; None where they gave it no name of its own.
        chain: the token of the submission that its chain began with; None: it is the first, or the only one.
        link: how many jobs of its chain came before.
        forced: whether it was launched in spite of what was known of the site.
    """

    token: str
    site: str
    campaign: str
    name: str
    spec: dict[str, Any]
    run_dir: str
    dashboard_port: int | None
    state: str
    job_id: str | None
    error: str | None
    created: float
    updated: float
    key: str | None = None
    chain: str | None = None
    link: int = 0
    forced: bool = False

    @property
    def slurm_name(self) -> str:
        """What its job is called at the site."""
        return slurm_name(self.name, self.token)


def in_doubt(submission: Submission, reason: str) -> str:
    """Returns what a person is told of a submission that is unknown: why, and what to do."""
    name, site = submission.slurm_name, submission.site
    return (
        f"{reason}; whether a job came of it is not known. `rayslurm serve` looks for it and takes it up; it submits "
        f"nothing again before that. To look on {site} yourself: squeue --me --name={name} and sacct -X -S now-2days "
        f"-E now+1days -s PD,R,S,CD,CA,F,TO,NF,PR,BF,DL,OOM --name={name}. If there is one: rayslurm track {site}/JOBID"
    )


def intend(
    connection: sqlite3.Connection,
    *,
    token: str,
    site: str,
    campaign: str,
    name: str,
    spec: dict[str, Any],
    run_dir: str,
    tunnels: Mapping[str, Sequence[int]],
    now: float,
    key: str | None = None,
    chain: str | None = None,
    link: int = 0,
    forced: bool = False,
    busy: Collection[int] | None = None,
) -> Submission:
    """Writes an intention down, and gives each of its tunnels a port that nobody else has.

    Args:
        connection: of a write transaction.
        token: its identity.
        site: where.
        campaign: whose it is.
        name: the job's readable name.
        spec: as understood.
        run_dir: the job's folder.
        tunnels: the ports that each of its tunnels may have.
        now: epoch seconds.
        key: what whoever asks calls it.
        chain: the token of the first of its chain.
        link: how many of its chain came before.
        forced: whether it is launched in spite of what is known of the site.
        busy: ports on which somebody listens; None where that isn't known.

    Returns:
        The intention. Where one with the same key stands that didn't come to nothing, that one, as it is.

    Raises:
        RefusedError: every port that a tunnel may have is taken.
    """
    if key is not None and (earlier := of_key(connection, key)) is not None:
        return earlier
    connection.execute(
        "INSERT INTO submissions"
        " (token, site, campaign, name, spec, run_dir, dashboard_port, state, created, updated, key, chain, link,"
        " forced) VALUES (?, ?, ?, ?, ?, ?, ?, 'intended', ?, ?, ?, ?, ?, ?)",
        (
            token,
            site,
            campaign,
            name,
            json.dumps(spec, sort_keys=True),
            run_dir,
            None,
            now,
            now,
            key,
            chain,
            link,
            int(forced),
        ),
    )
    if busy is not None:
        leases.release(connection, busy)
    ports = leases.take(connection, token, tunnels, busy=busy or (), now=now)
    connection.execute(
        "UPDATE submissions SET dashboard_port = ? WHERE token = ?", (ports.get(leases.DASHBOARD), token)
    )
    return get(connection, token)


def submitting(
    connection: sqlite3.Connection, token: str, run_dir: str, *, sent: Mapping[str, str] | None = None, now: float
) -> None:
    """Notes that the run folder is there and that `sbatch` runs next.

    Args:
        connection: of a write transaction.
        token: the submission's.
        run_dir: where the folder is, absolute.
        sent: the texts that were written there, by file, without secrets.
        now: epoch seconds.
    """
    connection.execute(
        "UPDATE submissions SET state = 'submitting', run_dir = ?, sent = ?, updated = ? WHERE token = ?",
        (run_dir, None if sent is None else json.dumps(sent), now, token),
    )


def note_manifest(connection: sqlite3.Connection, token: str, manifest: dict[str, Any]) -> None:
    """Keeps what was brought along, as it stands in the job's folder."""
    connection.execute("UPDATE submissions SET manifest = ? WHERE token = ?", (json.dumps(manifest), token))


def manifest(connection: sqlite3.Connection, token: str) -> dict[str, Any] | None:
    """Returns what was brought along; None where nothing was sent.

    Raises:
        KeyError: there is no submission with that token.
    """
    row = connection.execute("SELECT manifest FROM submissions WHERE token = ?", (token,)).fetchone()
    if row is None:
        raise KeyError(token)
    kept: dict[str, Any] | None = row["manifest"] and json.loads(row["manifest"])
    return kept


@dataclass(frozen=True, slots=True)
class Sent:
    """What was sent of a submission.

    Attributes:
        submission: which.
        files: the texts, by file, without secrets.
    """

    submission: Submission
    files: dict[str, str]


def last_sent(connection: sqlite3.Connection, site: str, name: str) -> Sent | None:
    """Returns what was last sent to a site for a spec of that name; None where nothing was.

    Jobs that go on where another met its time limit don't count: nobody launched them.
    """
    row = connection.execute(
        "SELECT * FROM submissions WHERE site = ? AND name = ? AND sent IS NOT NULL AND link = 0"
        " ORDER BY created DESC, rowid DESC LIMIT 1",
        (site, name),
    ).fetchone()
    return None if row is None else Sent(_submission(row), json.loads(row["sent"]))


def unsettle(connection: sqlite3.Connection, token: str, state: str, error: str, *, now: float) -> Submission:
    """Notes that a submission is `unknown` or `absent`, and why."""
    connection.execute(
        "UPDATE submissions SET state = ?, error = ?, updated = ? WHERE token = ?", (state, error, now, token)
    )
    return get(connection, token)


def is_open(connection: sqlite3.Connection, token: str) -> bool:
    """Tells whether a submission has a job that is followed, or may have one."""
    row = connection.execute(
        "SELECT 1 FROM submissions s LEFT JOIN tracked t ON t.token = s.token"
        " WHERE s.token = ? AND s.state != 'absent' AND coalesce(t.done, 0) = 0",
        (token,),
    ).fetchone()
    return row is not None


def submitted(
    connection: sqlite3.Connection, token: str, job_id: str, *, now: float, state: str = "submitted"
) -> Submission:
    """Notes the job that came of a submission, counts it, and follows it from now on: all or nothing."""
    submission = get(connection, token)
    connection.execute(
        "UPDATE submissions SET state = ?, job_id = ?, error = NULL, updated = ? WHERE token = ?",
        (state, job_id, now, token),
    )
    counters.add(connection, "jobs_submitted_total", site=submission.site, campaign=submission.campaign)
    project, partition = submission.spec.get("project"), submission.spec.get("partition")
    jobs.open_finished_counters(connection, submission.site, project, partition, submission.campaign)
    jobs.track(connection, submission.site, job_id, campaign=submission.campaign, token=token, now=now)
    jobs.expect(
        connection,
        submission.site,
        job_id,
        job_name=submission.name,
        project=project,
        partition=partition,
        campaign=submission.campaign,
        new=state == "submitted",
        now=now,
    )
    return get(connection, token)


def adopt(
    connection: sqlite3.Connection, site: str, found: Iterable[tuple[str, str | None]], *, now: float
) -> list[Submission]:
    """Takes up the jobs whose names carry the token of a submission, as far as they aren't followed yet.

    One that was taken for absent is taken up as well: a job that is there is followed. Should there be several jobs of
    one token, all are followed, and the submission says so.

    Args:
        connection: of a write transaction.
        site: where they are.
        found: id and name, as the site has them.
        now: epoch seconds.

    Returns:
        The submissions of which a job was taken up.
    """
    by_token: dict[str, set[str]] = {}
    for job_id, job_name in found:
        token = split_name(job_name or "")[1]
        if token is not None:
            by_token.setdefault(token, set()).add(jobs.root_of(job_id))
    return [
        get(connection, token)
        for token, job_ids in by_token.items()
        if _take_up(connection, site, token, sorted(job_ids, key=int), now=now)
    ]


def _take_up(connection: sqlite3.Connection, site: str, token: str, job_ids: list[str], *, now: float) -> bool:
    row = connection.execute("SELECT job_id FROM submissions WHERE token = ? AND site = ?", (token, site)).fetchone()
    if row is None:
        return False
    known, error, news = row["job_id"], None, row["job_id"] is None
    if news:
        known = job_ids[0]
        error = _give_up_key(connection, token)
        submitted(connection, token, known, now=now, state="adopted")
        ended = _end_of_chain(connection, token)
        if ended is not None:
            error = f"no further job of its chain was to follow ({ended}); cancel it if you don't want it"
    more = [job_id for job_id in job_ids if job_id != known and jobs.track(connection, site, job_id, now=now)]
    if more:
        error = f"several jobs carry its token: {', '.join([known, *more])}; cancel those that you don't want"
    if error is not None:
        connection.execute("UPDATE submissions SET error = ? WHERE token = ?", (error, token))
    return news or bool(more)


def _end_of_chain(connection: sqlite3.Connection, token: str) -> str | None:
    """Returns why no further job was to follow in a submission's chain; None where one may, or it is the first."""
    row = connection.execute(
        "SELECT f.chain_end FROM submissions s JOIN submissions f ON f.token = s.chain WHERE s.token = ?", (token,)
    ).fetchone()
    return None if row is None else row["chain_end"]


def _give_up_key(connection: sqlite3.Connection, token: str) -> str | None:
    """Takes the key from a submission of which a job is found, where it stands for another launch meanwhile."""
    row = get(connection, token)
    other = None if row.key is None else of_key(connection, row.key)
    if other is None or other.token == token:
        return None
    connection.execute("UPDATE submissions SET key = NULL WHERE token = ?", (token,))
    return (
        f"it had been taken for absent, and its key {row.key} was launched again as {other.job_id or other.token}; "
        "cancel the one that you don't want"
    )


def troubled(connection: sqlite3.Connection) -> list[Submission]:
    """Returns the submissions of followed jobs with which something is wrong, oldest first."""
    rows = connection.execute(
        "SELECT s.* FROM submissions s JOIN tracked t ON t.token = s.token"
        " WHERE t.done = 0 AND s.job_id IS NOT NULL AND s.error IS NOT NULL ORDER BY s.created"
    )
    return [_submission(row) for row in rows]


def of_key(connection: sqlite3.Connection, key: str) -> Submission | None:
    """Returns the submission that a key stands for; None where there is none, or it came to nothing."""
    row = connection.execute("SELECT * FROM submissions WHERE key = ? AND state != 'absent'", (key,)).fetchone()
    return None if row is None else _submission(row)


def get(connection: sqlite3.Connection, token: str) -> Submission:
    """Returns a submission.

    Raises:
        KeyError: there is none with that token.
    """
    row = connection.execute("SELECT * FROM submissions WHERE token = ?", (token,)).fetchone()
    if row is None:
        raise KeyError(token)
    return _submission(row)


def unsettled(connection: sqlite3.Connection, site: str | None = None) -> list[Submission]:
    """Returns the submissions of which no job is known and that aren't absent, of one site or of all, oldest first."""
    rows = connection.execute(
        "SELECT * FROM submissions WHERE job_id IS NULL AND state != 'absent' AND (? IS NULL OR site = ?)"
        " ORDER BY created",
        (site, site),
    )
    return [_submission(row) for row in rows]


def became_nothing(connection: sqlite3.Connection, *, since: float) -> list[Submission]:
    """Returns the submissions that were found to have become no job since then, oldest first.

    One that was to follow another job is tried again, and its chain says so when that is given up.
    """
    rows = connection.execute(
        "SELECT * FROM submissions WHERE state = 'absent' AND chain IS NULL AND updated > ? ORDER BY created", (since,)
    )
    return [_submission(row) for row in rows]


def settled(connection: sqlite3.Connection) -> list[Submission]:
    """Returns the submissions that became a job which is still followed, oldest first."""
    rows = connection.execute(
        "SELECT s.* FROM submissions s JOIN tracked t ON t.token = s.token WHERE t.done = 0 ORDER BY s.created"
    )
    return [_submission(row) for row in rows]


def close_interrupted(connection: sqlite3.Connection, *, site: str | None = None, now: float) -> None:
    """Settles what was left in the middle, at one site or at all: nobody is at work on it.

    What was only intended was never sent: absent. What was being submitted is unknown.

    Args:
        connection: of a write transaction, of whoever owns the sites.
        site: the site whose worker says that it isn't submitting anything; None for all.
        now: epoch seconds.
    """
    connection.execute(
        "UPDATE submissions SET state = 'absent', error = 'nothing was submitted: rayslurm ended before it could',"
        " updated = ? WHERE state = 'intended' AND (? IS NULL OR site = ?)",
        (now, site, site),
    )
    for row in unsettled(connection, site):
        if row.state == "submitting":
            reason = "rayslurm ended, or could not write, while sbatch ran"
            unsettle(connection, row.token, "unknown", in_doubt(row, reason), now=now)


def _submission(row: sqlite3.Row) -> Submission:
    return Submission(
        **{name: row[name] for name in Submission.__dataclass_fields__ if name not in {"spec", "forced"}},
        spec=json.loads(row["spec"]),
        forced=bool(row["forced"]),
    )
