"""What is known of the project that pays, as far as a site takes or leaves a job for it. Pure reading of the store."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from exporter.billing.standing import blocks_submission, standing
from exporter.config import Site
from exporter.store import balances

FRESH_SECONDS = 6 * 3600.0
"""How old a balance may be for a launch to be refused for it; what is older is only said."""


@dataclass(frozen=True, slots=True)
class Purse:
    """How the project that pays stands.

    Attributes:
        refused: why the site takes none of its jobs, each a sentence; known for certain.
        warnings: what else there is to know.
    """

    refused: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def purse(connection: sqlite3.Connection, site: Site, project: str, kinds: frozenset[str], *, now: float) -> Purse:
    """Returns how a project stands at its provider, as it was last read.

    Args:
        connection: of a snapshot.
        site: where the job is to run.
        project: who is to pay.
        kinds: the kinds of units that the job's partitions are paid in.
        now: epoch seconds.
    """
    balance = site.profile.balance
    if balance is None:
        return Purse()
    known = next(
        (one for one in balances.projects(connection) if (one.provider, one.project) == (balance.provider, project)),
        None,
    )
    if known is None:
        return Purse()
    told = [one for one in balances.balances(connection) if (one.provider, one.project) == (balance.provider, project)]
    ago = f"read {max(0.0, now - known.read) / 3600:.1f} h ago"
    refused: list[str] = []
    warnings: list[str] = []
    for one in told:
        if blocks_submission(balance.provider, one):
            text = (
                f"{site.name}: {project} has no Storage BU left ({one.used:.0f} of {one.granted or 0:.0f}, {ago}), "
                "and CSC takes no job of such a project. Remove files, or apply for more in MyCSC"
            )
            (refused if 0 <= now - known.read <= FRESH_SECONDS else warnings).append(text)
    of_project = standing(None, accessible=known.accessible, end_time=known.end_time, status=known.status, now=now)
    if of_project.word:
        return Purse(tuple(refused), (*warnings, f"{site.name}: {project}: {of_project.word} ({ago})"))
    for one in told:
        stands = standing(one, accessible=known.accessible, end_time=known.end_time, status=known.status, now=now)
        wanted = one.kind in kinds or (balance.provider == "csc" and one.kind == "storage")
        if stands.is_bad and wanted and not blocks_submission(balance.provider, one):
            warnings.append(f"{site.name}: {project}: {one.kind} {one.unit} {stands.word} ({ago})")
    return Purse(tuple(refused), tuple(warnings))
