"""Brings together what ended jobs left behind: files of their folders at the site, and what the store knows.

Run like a probe, in the site's worker: one session of file transfer a job, counted as one command, into a
folder of this machine. Secrets are taken out on the way, so that none lies here.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from exporter import __version__
from exporter.archive.layout import VERSION
from exporter.archive.redact import Redactor
from exporter.archive.spool import PACKED, Spool, filling, read_draft, spool_folder, spooled_bytes
from exporter.archive_settings import ArchiveSettings
from exporter.client.transport import RemoteFound
from exporter.config import Config
from exporter.errors import ArchiveError, BudgetExhaustedError, ConnectError, RayslurmError, SiteError
from exporter.job_names import OUTPUT
from exporter.probes import ProbeContext, Unhurried
from exporter.store import archive
from exporter.store.archive import Entry, Rows

_log = logging.getLogger(__name__)

LOOK_SECONDS = 60.0
"""Between two looks into the store for ended jobs."""

PAUSE_SECONDS = 10.0
"""Between two jobs, so that others get in between."""

FETCHES_PER_HOUR = 10
"""Jobs of which files are fetched in an hour; nobody waits for them."""

RETRY_SECONDS = (300.0, 600.0, 1200.0, 2400.0, 3600.0)
"""How long to wait after each time that files could not be had; after the last they are left out."""

RAW_TEXTS = 30
"""How many of the texts that the site printed of a job are kept, newest first."""

_LOGS = "logs.tar.gz"
_OWN = ("summary.json", "manifest.json", "work.diff")
_SECRET_FILE = "ray_auth_token"  # noqa: S105 - its name: it is read to be looked for in the others, and never kept
_WORK = "work"
_SECRET_NAME = re.compile(r"(?i)secret|token|passw|key|credential|auth")
_MAGIC_BYTES = 8192


@dataclass(slots=True)
class Collecting(Unhurried):
    """Brings together what the ended jobs of one site left behind, one job a run."""

    config: Config
    name: str = "archive"
    keeps_seconds: float = 0
    _told_full: bool = field(default=False)

    def run(self, context: ProbeContext) -> float:
        """See `Probe.run`."""
        settings, site, now = self.config.archive, context.site.name, context.clock()
        if settings is None:
            return LOOK_SECONDS
        patience = context.site.scaled(archive.PATIENCE_SECONDS)
        context.store.write(lambda connection: archive.queue_ended(connection, site, now=now, patience=patience))
        with context.store.snapshot() as connection:
            waiting = archive.due(connection, "waiting", now=now, site=site)
        if not waiting or context.ledger.sent("fetch") >= FETCHES_PER_HOUR:
            return LOOK_SECONDS
        if spooled_bytes(self.config.state_dir) >= settings.spool:
            if not self._told_full:
                _log.warning("site %s: nothing more is fetched for the archive: archive.spool is full", site)
            self._told_full = True
            return LOOK_SECONDS
        self._told_full = False
        self._collect(context, settings, waiting[0])
        return PAUSE_SECONDS if waiting[1:] else LOOK_SECONDS

    def delay_after_failure(self) -> float:
        """See `Probe.delay_after_failure`."""
        return LOOK_SECONDS

    def _collect(self, context: ProbeContext, settings: ArchiveSettings, entry: Entry) -> None:
        try:
            objects = collect(context, self.config, settings, entry, with_files=entry.tries < len(RETRY_SECONDS))
        except (ConnectError, BudgetExhaustedError):
            raise  # nothing was sent
        except RayslurmError as error:
            full = isinstance(error, ArchiveError)  # this machine's fault, so the site's files are not given up
            wait = context.site.scaled(RETRY_SECONDS[0 if full else min(entry.tries, len(RETRY_SECONDS) - 1)])
            now, words = context.clock(), str(error)
            if not full:
                context.store.write(
                    lambda connection: archive.postpone(connection, entry, words, until=now + wait, now=now)
                )
            raise
        context.store.write(
            lambda connection: archive.become(connection, entry, "spooled", objects=objects, now=context.clock())
        )


def collect(
    context: ProbeContext, config: Config, settings: ArchiveSettings, entry: Entry, *, with_files: bool = True
) -> int:
    """Fills the folder of one job; one that is there already stays.

    Args:
        context: the site, and the store.
        config: where the folder goes.
        settings: what is fetched at most.
        entry: the job.
        with_files: also fetch files from the site.

    Returns:
        How many objects there are, the manifest among them.

    Raises:
        ArchiveError: there is no room for it.
        SiteError: its files could not be had.
    """
    folder = spool_folder(config.state_dir, entry.site, entry.job_id)
    before = read_draft(folder)
    if before is not None and before["end_time"] == entry.end_time:
        return len({one["object"] for one in before["files"]}) + 1
    with context.store.snapshot() as connection:
        rows = archive.rows_of(connection, entry.site, entry.job_id)
        root_id = rows["jobs"][0]["root_id"] if rows["jobs"] else entry.job_id
        raw = archive.raw_texts(connection, entry.site, entry.job_id, root_id, most=RAW_TEXTS)
    submission = next(iter(rows["submissions"]), None)
    about: dict[str, Any] = {
        "version": VERSION,
        "written_by": f"rayslurm {__version__}",
        "site": entry.site,
        "job_id": entry.job_id,
        "project": rows["jobs"][0]["project"] if rows["jobs"] else None,
        "token": submission["token"] if submission else None,
        "end_time": entry.end_time,
        "collected": time.time(),
    }
    redactor = _redactor(submission)
    with filling(folder, about) as spool:
        if submission is not None and with_files:
            failed = _fetch(context, settings, spool, rows, submission, redactor)
            # What can't be read now may be there later; without the secret nothing can be looked through for it.
            if failed and (_SECRET_FILE in failed or entry.tries + 1 < len(RETRY_SECONDS)):
                name, why = next(iter(failed.items()))
                raise SiteError(f"{entry.site}: {submission['run_dir']}/{name} could not be read: {why}")
        elif submission is not None:
            spool.leave_out("", f"site:{submission['run_dir']}", f"it could not be fetched: {entry.error}")
        if submission is not None:
            sent = {"spec": _without_values(submission["spec"]), "files": json.loads(submission["sent"] or "{}")}
            _json(spool, "sent.json", "store:submissions", sent, redactor)
        if raw:
            _json(spool, "raw.json", "store:raw_outputs", raw, redactor)
        about["rows"] = redactor.value(_kept_rows(rows))
    return len({one.object for one in spool.files}) + 1


def _fetch(  # noqa: PLR0917 - what it fetches, from where and into what
    context: ProbeContext,
    settings: ArchiveSettings,
    spool: Spool,
    rows: Rows,
    submission: Mapping[str, Any],
    redactor: Redactor,
) -> dict[str, str]:
    """Fetches a job's files; returns why some that may be there could not be read, by name."""
    run_dir = submission["run_dir"]
    job_id = submission["job_id"] or rows["jobs"][0]["job_id"]
    results = _results(rows)
    names = [_SECRET_FILE, OUTPUT.format(job_id=job_id), _LOGS, *_OWN]
    names += [f"{_WORK}/{path}" for path in results[: settings.max_results]]
    for path in results[settings.max_results :]:
        spool.leave_out(f"{_WORK}/{path}", f"site:{run_dir}/{_WORK}/{path}", "more than archive.max_results")
    room = settings.max_job
    came: set[str] = set()

    def receive(name: str, found: RemoteFound) -> None:
        nonlocal room
        came.add(name)
        if name == _SECRET_FILE:
            secret = b"".join(found.pieces(0, 1024)).decode("ascii", "replace").strip()
            redactor.also(secret)
            return
        room -= _take(spool, settings, f"{run_dir}/{name}", name, found, room, redactor)

    failed = context.client.fetch(run_dir, names, receive)
    for name in names:
        if name in failed:
            spool.leave_out(name, f"site:{run_dir}/{name}", f"it could not be read: {failed[name]}")
        elif name not in came and name not in {_SECRET_FILE, "work.diff", "manifest.json"}:
            spool.leave_out(name, f"site:{run_dir}/{name}", "it is not there, or not a plain file of yours")
    return failed


def _take(  # noqa: PLR0917 - likewise
    spool: Spool,
    settings: ArchiveSettings,
    path: str,
    name: str,
    found: RemoteFound,
    room: int,
    redactor: Redactor,
) -> int:
    """Keeps one file; returns how many bytes were fetched for it."""
    facts = {"source_size": found.size, "modified_time": found.modified_time}
    source = f"site:{path}"
    if room <= 0:
        spool.leave_out(name, source, "more than archive.max_job", found.size)
        return 0
    most = min(settings.max_file, room)
    packed = name.endswith(PACKED)
    begin = b"".join(found.pieces(0, min(_MAGIC_BYTES, found.size)))
    text = b"\0" not in begin
    if packed and found.size <= room:
        spool.packed(name, source, found.pieces(0, found.size), redactor, most=4 * settings.max_job, **facts)
    elif text and not packed:
        left_out = max(0, found.size - most)
        spool.text(name, source, _cut(found, most), redactor, left_out=left_out, **facts)
    elif found.size <= most:
        spool.blob(name, source, found.pieces(0, found.size), **facts)
    else:
        spool.leave_out(name, source, "larger than archive.max_file or what is left of archive.max_job", found.size)
        return len(begin)
    return min(found.size, most if text else found.size)


def _cut(found: RemoteFound, most: int) -> Iterator[bytes]:
    """Gives a text; of one that is too long its beginning and its end, with a line between that says so."""
    if found.size <= most:
        yield from found.pieces(0, found.size)
        return
    half = most // 2
    yield from found.pieces(0, half)
    yield f"\n[{found.size - 2 * half} bytes of {found.size} are left out here: archive.max_file]\n".encode()
    yield from found.pieces(found.size - half, half)


def _results(rows: Rows) -> list[str]:
    """Returns the files that a job's summary lists as results, where they can be below its working folder."""
    for run in rows["runs"]:
        listed = (json.loads(run["summary"]) if run["summary"] else {}).get("results") or []
        paths = [one.get("path") for one in listed if isinstance(one, dict)]
        return [
            path
            for path in paths
            if isinstance(path, str) and path and not path.startswith("/") and ".." not in path.split("/")
        ]
    return []


def _json(spool: Spool, name: str, source: str, value: Any, redactor: Redactor) -> None:
    """Keeps what the store knows as JSON, each text of it without secrets."""
    before = redactor.count
    content = json.dumps(redactor.value(value), indent=1, sort_keys=True, ensure_ascii=False).encode()
    spool.text(name, source, [content], Redactor(), source_size=None)
    spool.redacted_last(redactor.count - before)


def _redactor(submission: Mapping[str, Any] | None) -> Redactor:
    """Returns what knows a job's own secrets: the values of `ray.env` whose names say that they are some."""
    if submission is None:
        return Redactor()
    env = (json.loads(submission["spec"]).get("ray") or {}).get("env") or {}
    known = [value for name, value in env.items() if _SECRET_NAME.search(name)]
    return Redactor(known, harmless=[submission["token"], *([submission["job_id"]] if submission["job_id"] else [])])


def _without_values(spec: str) -> dict[str, Any]:
    """Returns a spec with the first digits of their digests in place of the values of `ray.env`."""
    found: dict[str, Any] = json.loads(spec)
    env = (found.get("ray") or {}).get("env") or {}
    env.update({name: f"sha256:{hashlib.sha256(str(value).encode()).hexdigest()[:8]}" for name, value in env.items()})
    return found


def _kept_rows(rows: Rows) -> Rows:
    submissions = [
        {**row, "spec": json.dumps(_without_values(row["spec"]), sort_keys=True)} for row in rows["submissions"]
    ]
    return {**rows, "submissions": submissions}
