"""Brings what waits on this machine to the bucket, in a thread of its own, which nobody waits for.

A job's objects first, by what is in them; then its record, in its project's file of the month; then the lifetime
counters; last the manifest. What is there already is not sent again, so that whatever ends this process, whenever, the
next one goes on, and what has a manifest is whole.
"""

from __future__ import annotations

import gzip
import json
import logging
import shutil
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from exporter import __version__
from exporter.archive.bucket import Bucket
from exporter.archive.layout import COUNTERS, manifest_key, named_by, object_key, read_manifest, record, records_key
from exporter.archive.spool import read_draft, spool_folder
from exporter.archive_settings import ArchiveSettings
from exporter.config import Config
from exporter.errors import ConfigError, RayslurmError
from exporter.store import archive, counters
from exporter.store.archive import Entry
from exporter.store.db import Store

_log = logging.getLogger(__name__)

LOOK_SECONDS = 10.0
"""Between two looks into the store."""

CHECK_SECONDS = 3600.0
"""Between two looks whether the bucket is private."""

RETRY_SECONDS = (30.0, 60.0, 120.0, 300.0, 600.0, 900.0)
"""How long to wait after each time that it went wrong."""

_END_SECONDS = 5.0
_OF_ONE_JOB = frozenset({"damaged", "missing", "archive"})
"""What goes wrong with one job; all else, such as a service that can't be reached, concerns every job, so all wait."""

_OUTCOMES = ("uploaded", "present", "failed", "given_up")


@dataclass(frozen=True, slots=True)
class Archived:
    """What one job came to.

    Attributes:
        key: of its manifest.
        uploaded: objects that were sent, the manifest among them.
        present: objects that were there already.
    """

    key: str
    uploaded: int
    present: int


class Archiver(threading.Thread):
    """Uploads until `stop`.

    Args:
        config: its section `archive` must be there.
        store: the queue.
        clock: gives UTC epoch seconds.
        look_seconds: between two looks into the store.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        *,
        clock: Callable[[], float] = time.time,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        super().__init__(name="archive", daemon=True)
        if config.archive is None:
            raise ValueError("no archive is configured")
        self._config, self._settings, self._store, self._clock = config, config.archive, store, clock
        self._look = look_seconds
        self._stopping = threading.Event()
        self._bucket: Bucket | None = None
        self._checked = 0.0
        self._failures = 0

    def run(self) -> None:
        """Works until it is told to end."""
        delay = 0.0
        while not self._stopping.wait(delay):
            try:
                delay = self.round()
            except Exception:  # noqa: BLE001 - the thread must live on
                _log.exception("archive: failed in a way it should not")
                delay = RETRY_SECONDS[-1]

    def stop(self) -> None:
        """Ends it; what is half done is done again by the next one."""
        self._stopping.set()
        if self.is_alive():
            self.join(_END_SECONDS)

    def round(self) -> float:
        """Uploads all that waits.

        Returns:
            Seconds until the next look.
        """
        now = self._clock()
        with self._store.snapshot() as connection:
            waiting = archive.due(connection, "spooled", now=now)
        for entry in waiting:
            if self._stopping.is_set():
                break
            try:
                self._one(entry)
            except (RayslurmError, OSError) as error:
                of_all = not isinstance(error, OSError) and error.reason not in _OF_ONE_JOB
                wait = self._failed(entry, error, self._failures if of_all else entry.tries)
                if of_all:
                    self._failures += 1
                    self._bucket, self._checked = None, 0.0  # the credentials may be corrected meanwhile
                    return wait
                continue
            self._failures = 0
        return self._look

    def _one(self, entry: Entry) -> None:
        draft = read_draft(spool_folder(self._config.state_dir, entry.site, entry.job_id))
        if draft is None or draft["end_time"] != entry.end_time:
            _log.warning("archive: %s/%s: what waited here is damaged or gone; fetched again", entry.site, entry.job_id)
            self._store.write(lambda connection: archive.become(connection, entry, "waiting", now=self._clock()))
            return
        done = upload(self._usable_bucket(), self._config, self._store, draft, now=self._clock())

        def note(connection: Any) -> None:
            archive.become(connection, entry, "kept", objects=0, key=done.key, now=self._clock())
            archive.count(connection, "uploaded", done.uploaded)
            archive.count(connection, "present", done.present)

        self._store.write(note)
        shutil.rmtree(spool_folder(self._config.state_dir, entry.site, entry.job_id), ignore_errors=True)
        _log.info("archive: %s/%s: kept as %s", entry.site, entry.job_id, done.key)

    def _usable_bucket(self) -> Bucket:
        now = time.monotonic()
        if self._bucket is None:
            self._bucket = Bucket(self._settings)
        if not self._checked or now > self._checked + CHECK_SECONDS:
            self._bucket.check()
            self._checked = now
        return self._bucket

    def _failed(self, entry: Entry, error: Exception, failures: int) -> float:
        """Notes what went wrong with a job after so many failures; returns how long it waits, in seconds."""
        wait = RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)]
        now, words = self._clock(), str(error)
        given_up = now - entry.since > self._settings.give_up_after

        def note(connection: Any) -> None:
            if given_up:
                archive.become(connection, entry, "given_up", objects=entry.objects, error=words, now=now)
                archive.count(connection, "given_up", entry.objects)
            else:
                archive.postpone(connection, entry, words, until=now + wait, now=now)
                archive.count(connection, "failed")

        self._store.write(note)
        if given_up:
            _log.error(
                "archive: %s/%s is given up after %d tries: %s; what it left waits in %s, and `rayslurm archive retry` "
                "tries again", entry.site, entry.job_id, entry.tries + 1, words,
                spool_folder(self._config.state_dir, entry.site, entry.job_id),
            )  # fmt: skip
        else:
            _log.warning("archive: %s/%s: %s; tried again in %d s", entry.site, entry.job_id, words, wait)
        return wait


def open_counters(store: Store) -> None:
    """Starts the counters at 0, so that `increase()` sees the first object."""

    def change(connection: Any) -> None:
        for outcome in _OUTCOMES:
            archive.count(connection, outcome, 0)

    store.write(change)


def upload(bucket: Bucket, config: Config, store: Store, draft: dict[str, Any], *, now: float) -> Archived:
    """Brings one job to the bucket.

    Args:
        bucket: the bucket.
        config: where its folder is.
        store: what the counters are read from.
        draft: of its manifest.
        now: epoch seconds.

    Raises:
        ArchiveError: something could not be written; what was is found again.
    """
    folder = spool_folder(config.state_dir, draft["site"], draft["job_id"])
    uploaded = present = 0
    # Where the service removes what is old, what is there already must not go before those who name it anew.
    since = 0.0 if bucket.expiry_days() is None else now - _FRESH_SECONDS
    for one in {file["object"]: file for file in draft["files"]}.values():
        key = object_key(one["object"])
        stored = bucket.stored(key)
        if stored is not None and stored.size == one["stored_size"] and stored.modified >= since:
            present += 1
            continue
        bucket.put_file(key, folder / one["object"], "application/gzip" if one["encoding"] == "gzip" else _BINARY)
        uploaded += 1
    key = manifest_key(draft["site"], draft["project"], draft["end_time"], draft["job_id"])
    if draft["rows"]["jobs"]:
        _add_record(bucket, draft, key)
    with store.snapshot() as connection:
        known = [asdict(counter) for counter in counters.read(connection)]
    bucket.put(COUNTERS, json.dumps({"version": draft["version"], "time": now, "counters": known}, indent=1).encode())
    manifest = {**draft, "written": now, "written_by": f"rayslurm {__version__}"}
    bucket.put(key, (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode())
    return Archived(key, uploaded + 1, present)


_BINARY = "application/octet-stream"
_FRESH_SECONDS = 86400.0


def _add_record(bucket: Bucket, draft: dict[str, Any], key: str) -> None:
    """Writes a job's record into its project's file of the month, in place of an earlier one of the same job."""
    where = records_key(draft["site"], draft["project"], draft["end_time"])
    before = read_records(bucket, where)
    own = record(draft["rows"], key)
    after = [one for one in before if (one["job_id"], one["token"]) != (own["job_id"], own["token"])] + [own]
    after.sort(key=lambda one: (one["end_time"] or 0, one["job_id"]))
    if after == before:
        return
    lines = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in after)
    bucket.put(where, gzip.compress(lines.encode(), mtime=0), "application/gzip")


def read_records(bucket: Bucket, key: str) -> list[dict[str, Any]]:
    """Returns the records of a month's file; of one that is damaged what the manifests say.

    Raises:
        ArchiveError: the bucket cannot be read.
    """
    if bucket.stored(key) is None:
        return []
    try:
        return [json.loads(line) for line in gzip.decompress(bucket.get(key)).splitlines()]
    except (OSError, EOFError, ValueError, zlib.error) as error:
        _log.warning("archive: %s is damaged (%s); made anew of the manifests", key, error)
    folder = key.removeprefix("_records/").removesuffix(".ndjson.gz")
    folder = f"{folder[:-3]}/{folder[-2:]}/"
    keys = [one.key for one in bucket.listed(folder) if named_by(one.key)]
    return [record(read_manifest(bucket.get(one), one)["rows"], one) for one in keys]


def settings_of(config: Config) -> ArchiveSettings:
    """Returns the section `archive`.

    Raises:
        ConfigError: there is none.
    """
    if config.archive is None:
        raise ConfigError("archive: is missing; write endpoint and bucket of the S3 service there")
    return config.archive
