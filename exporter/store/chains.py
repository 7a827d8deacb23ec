"""Chains: a job that met its time limit, and those that went on where it stopped."""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from exporter.records import Bill
from exporter.store import awaited, bills, jobs, runs, submissions
from exporter.store.jobs import JobRow
from exporter.store.runs import Run
from exporter.store.submissions import Submission


@dataclass(frozen=True, slots=True)
class Link:
    """One job of a chain.

    Attributes:
        submission: its submission.
        job: what is known of it; None while no job is known.
        run: what its supervisor said; None where nothing was read.
        bill: what it cost; None where that isn't known, or not yet.
        bill_awaited: whether the site is still to be asked what it cost.
    """

    submission: Submission
    job: JobRow | None
    run: Run | None
    bill: Bill | None
    bill_awaited: bool


@dataclass(frozen=True, slots=True)
class Chain:
    """The jobs of one intention, in their order.

    Attributes:
        links: the jobs; those that came to nothing are left out.
        times: how many may follow the first.
        total_units: what they may cost together; None: no limit.
        end: why no further one follows; None while one may.
    """

    links: tuple[Link, ...]
    times: int
    total_units: float | None
    end: str | None

    @property
    def token(self) -> str:
        """The first submission's, by which the chain is known."""
        return self.links[0].submission.token

    @property
    def last(self) -> Link:
        """The newest job."""
        return self.links[-1]

    @property
    def rests(self) -> bool:
        """Whether each of its jobs has ended, and none may be there that isn't known."""
        return all(link.job is not None and link.job.final and not link.submission.error for link in self.links)

    @property
    def bill(self) -> Bill | None:
        """What its ended jobs cost together; None where that isn't known of all of them, or not in one unit."""
        known = [link.bill for link in self.links if link.job is not None and link.job.final]
        paid = [bill for bill in known if bill is not None]
        if not paid or len(paid) < len(known) or len({(bill.kind, bill.unit, bill.project) for bill in paid}) > 1:
            return None
        sources = sorted({bill.source for bill in paid})
        units = sum(bill.units for bill in paid)
        return Bill("+".join(sources), paid[0].kind, paid[0].unit, round(units, 6), paid[0].project)

    def as_json(self) -> dict[str, Any]:
        """Returns what `status --json` says of it."""
        bill = self.bill
        return {
            "token": self.token,
            "continuation": self.last.submission.link,
            "times": self.times,
            "total_units": self.total_units,
            "end": self.end,
            "job_ids": [link.submission.job_id for link in self.links],
            "bill": None if bill is None else {name: getattr(bill, name) for name in Bill.__dataclass_fields__},
        }


def open_chains(connection: sqlite3.Connection, site: str) -> list[Chain]:
    """Returns the chains of a site that may go on and of which no job goes on now, oldest first."""
    found = _chains(connection, "s.site = ? AND coalesce(f.chain_end, '') = ''", (site,))
    return [chain for chain in found if chain.rests]


def of_jobs(connection: sqlite3.Connection, shown: Iterable[JobRow]) -> dict[tuple[str, str], Chain]:
    """Returns the chains that some jobs belong to, by site and job."""
    wanted = {(job.site, job.job_id) for job in shown}
    found = {}
    for chain in _with(connection, wanted):
        for link in chain.links:
            key = (link.submission.site, link.submission.job_id or "")
            if key in wanted:
                found[key] = chain
    return found


def of_job(connection: sqlite3.Connection, site: str, job_id: str) -> Chain | None:
    """Returns the chain that a job belongs to; None where it belongs to none."""
    for chain in _with(connection, [(site, job_id)]):
        if any(link.submission.job_id == job_id for link in chain.links):
            return chain
    return None


def end(connection: sqlite3.Connection, token: str, reason: str) -> None:
    """Notes that no further job follows in a chain, and why."""
    connection.execute("UPDATE submissions SET chain_end = ? WHERE token = ? AND chain_end IS NULL", (reason, token))


def _with(connection: sqlite3.Connection, wanted: Iterable[tuple[str, str]]) -> list[Chain]:
    """Returns the chains of some jobs, given by site and job, oldest first; the others aren't looked at."""
    firsts = {
        row["first"]
        for identity in wanted
        for row in connection.execute(
            "SELECT coalesce(chain, token) AS first FROM submissions WHERE site = ? AND job_id = ?", identity
        )
    }
    return _chains(connection, "f.token IN (SELECT value FROM json_each(?))", (json.dumps(sorted(firsts)),))


def _chains(connection: sqlite3.Connection, condition: str, values: tuple[str, ...]) -> list[Chain]:
    rows = connection.execute(
        "SELECT s.token, coalesce(s.chain, s.token) AS first, f.chain_end,"  # noqa: S608 - the conditions stand above
        " json_extract(f.spec, '$.continue_on_timeout.times') AS times,"
        " json_extract(f.spec, '$.continue_on_timeout.total_units') AS total_units"
        " FROM submissions f JOIN submissions s ON s.chain = f.token OR (s.chain IS NULL AND s.token = f.token)"
        f" WHERE json_extract(s.spec, '$.continue_on_timeout') IS NOT NULL AND s.state != 'absent' AND {condition}"
        " ORDER BY f.created, f.token, s.link, s.created",
        values,
    ).fetchall()
    by_first: dict[str, list[sqlite3.Row]] = defaultdict(list)
    for row in rows:
        by_first[row["first"]].append(row)
    return [
        Chain(
            tuple(_link(connection, row["token"]) for row in members),
            members[0]["times"],
            members[0]["total_units"],
            members[0]["chain_end"],
        )
        for members in by_first.values()
    ]


def _link(connection: sqlite3.Connection, token: str) -> Link:
    submission = submissions.get(connection, token)
    if submission.job_id is None:
        return Link(submission, None, None, None, bill_awaited=False)
    site, job_id = submission.site, submission.job_id
    found = jobs.find(connection, job_id, site)
    return Link(
        submission,
        found[0] if found else None,
        runs.of_job(connection, site, job_id),
        bills.of_job(connection, site, job_id),
        bill_awaited=awaited.is_awaited(connection, site, job_id),
    )
