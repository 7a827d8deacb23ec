"""Reads a folder of old texts that `sacct` and `seff` printed, as people keep them of sites that are closed."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from exporter.errors import InputError
from exporter.parsers.sacct import parse as parse_sacct
from exporter.parsers.seff import parse as parse_seff
from exporter.probes import ProbeContext
from exporter.probes.jobs import as_told, with_attempts
from exporter.probes.reports import keep_report, without_report
from exporter.records import FINAL_STATES, AccountingRecord, Parsed, SeffReport
from exporter.store import awaited, bills, following, jobs

_MAX_BYTES = 64 * 1024**2


@dataclass(frozen=True, slots=True)
class TextsRead:
    """What came of a folder.

    Attributes:
        jobs: how many jobs it told of that were not known.
        bills: of how many of them it is known what they cost.
        left_out: files and jobs that could not be taken in, and why, one line each.
    """

    jobs: int
    bills: int
    left_out: tuple[str, ...]


def import_texts(context: ProbeContext, folder: Path) -> TextsRead:
    """Takes in every text of a folder and those below it; what the store knows already stays as it is.

    Args:
        context: the site whose texts they are, which is not asked, and the store.
        folder: the folder.

    Raises:
        InputError: there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: is no folder")
    left_out: list[str] = []
    accounted: list[tuple[str, Parsed[AccountingRecord]]] = []
    reported: list[tuple[str, Parsed[SeffReport]]] = []
    for path in sorted(one for one in folder.rglob("*") if one.is_file()):
        _read(context, path, accounted, reported, left_out)
    new: dict[str, None] = {}

    def take_in(connection: sqlite3.Connection) -> int:
        for text, parsed in accounted:
            raw = context.keep(connection, "sacct", text, faults=0)
            _account(connection, context, parsed, raw, new, left_out)
        for text, report in reported:
            raw = context.keep(connection, "seff", text, faults=0)
            for one in report.records:
                _report(connection, context, one, raw, new, left_out)
        site = context.site.name
        for job_id in new:
            awaited.done(connection, site, job_id)
            if bills.of_job(connection, site, job_id) is None:
                without_report(connection, site, job_id, now=context.clock())
        return sum(bills.of_job(connection, site, job_id) is not None for job_id in new)

    billed = context.store.write(take_in)
    return TextsRead(len(new), billed, tuple(left_out))


def _read(
    context: ProbeContext,
    path: Path,
    accounted: list[tuple[str, Parsed[AccountingRecord]]],
    reported: list[tuple[str, Parsed[SeffReport]]],
    left_out: list[str],
) -> None:
    if path.stat().st_size > _MAX_BYTES:
        left_out.append(f"{path}: is too large to be a text of sacct or seff")
        return
    text = path.read_text(encoding="utf-8", errors="backslashreplace")
    zone = context.site.timezone
    try:
        reported.append((text, parse_seff(text, timezone=zone)))
    except InputError:
        try:
            accounted.append((text, parse_sacct(text, timezone=zone)))
        except InputError as error:
            left_out.append(f"{path}: neither sacct nor seff printed it: {error}")


def _account(  # noqa: PLR0917 - what is taken in, and where to
    connection: sqlite3.Connection,
    context: ProbeContext,
    parsed: Parsed[AccountingRecord],
    raw: str,
    new: dict[str, None],
    left_out: list[str],
) -> None:
    site, now = context.site.name, context.clock()
    by_root: dict[str, list[AccountingRecord]] = {}
    for record in parsed.records:
        if record.state not in FINAL_STATES:
            left_out.append(f"job {record.job_id}: had not ended when sacct told of it ({record.state})")
        elif not jobs.find(connection, record.job_id, site):
            by_root.setdefault(jobs.root_of(record.job_id), []).append(with_attempts(record))
            new[record.job_id] = None
    for root, records in by_root.items():
        jobs.track(connection, site, root, now=now)
        known = [as_told(record, context.site.profile, last_word=True) for record in records]
        following.apply_accounting(connection, site, root, known, frozenset(), now=now, raw_sha256=raw)


def _report(  # noqa: PLR0917 - likewise
    connection: sqlite3.Connection,
    context: ProbeContext,
    report: SeffReport,
    raw: str,
    new: dict[str, None],
    left_out: list[str],
) -> None:
    site, now = context.site.name, context.clock()
    job_id = report.array_job_id or report.job_id
    if job_id not in new and jobs.find(connection, job_id, site):
        return
    if job_id not in new:
        if report.state not in FINAL_STATES:
            left_out.append(f"job {job_id}: had not ended when seff told of it ({report.state})")
            return
        record = AccountingRecord(
            job_id=job_id,
            user=report.user,
            project=report.billed_project,
            partition=report.partition,
            state=report.state,
            exit_code=report.exit_code,
            alloc_cpus=report.cores,
            alloc_nodes=report.nodes,
            elapsed_seconds=report.wall_clock_seconds,
        )
        new[job_id] = None
        jobs.track(connection, site, jobs.root_of(job_id), now=now)
        known = [as_told(record, context.site.profile, last_word=True)]
        following.apply_accounting(connection, site, jobs.root_of(job_id), known, frozenset(), now=now)
    keep_report(connection, context, job_id, report, raw)
