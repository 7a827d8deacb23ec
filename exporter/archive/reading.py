"""Reads the archive: lists it, gets files of a job, looks whether all is as it was written, and brings a store back."""

from __future__ import annotations

import gzip
import hashlib
import json
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exporter.archive.bucket import Bucket, Stored
from exporter.archive.layout import COUNTERS, named_by, object_key, read_manifest
from exporter.errors import ArchiveError, InputError, RefusedError
from exporter.store import archive
from exporter.store.counters import Counter
from exporter.store.db import Store

_READ_BYTES = 1024**2


@dataclass(slots=True)
class Verified:
    """What a look at the archive found.

    Attributes:
        jobs: manifests that were read.
        objects: objects that they name, each counted once.
        sound: those of them that are as they were written.
        faults: what isn't, one line each.
        loose: objects that no manifest names: of a job that is on its way, or of a manifest that is gone.
    """

    jobs: int = 0
    objects: int = 0
    sound: int = 0
    faults: list[str] = field(default_factory=list)
    loose: int = 0


def manifests(bucket: Bucket, site: str | None = None, job_id: str | None = None) -> Iterator[Stored]:
    """Gives the manifests in the bucket, those of one site or one job or all, ordered by key.

    Raises:
        ArchiveError: the bucket cannot be asked.
    """
    for stored in bucket.listed(f"{site}/" if site else ""):
        named = named_by(stored.key)
        if named is not None and job_id in {None, named["job"]}:
            yield stored


def manifest_of(bucket: Bucket, site: str, job_id: str) -> tuple[str, dict[str, Any]]:
    """Returns key and manifest of a job: the newest, where an id was used again.

    Raises:
        InputError: there is none.
        ArchiveError: the bucket cannot be asked.
    """
    keys = [stored.key for stored in manifests(bucket, site, job_id)]
    if not keys:
        raise InputError(f"the archive has no job {job_id} of {site}; `rayslurm archive list` shows what it has")
    newest = max(keys, key=lambda key: (named_by(key) or {})["day"])
    return newest, read_manifest(bucket.get(newest), newest)


def content(bucket: Bucket, file: dict[str, Any]) -> Iterator[bytes]:
    """Gives a file of a manifest piece by piece, as it was kept; what isn't as it was is told at its end.

    Raises:
        ArchiveError: it isn't there, or not as it was written.
    """
    stored, plain, size = hashlib.sha256(), hashlib.sha256(), 0
    unpack = zlib.decompressobj(wbits=31) if file["encoding"] == "gzip" else None
    name = f"{file['name']} ({object_key(file['object'])})"
    try:
        for piece in bucket.pieces(object_key(file["object"])):
            stored.update(piece)
            rest = piece
            while rest:
                out = rest if unpack is None else unpack.decompress(rest, _READ_BYTES)
                rest = b"" if unpack is None else unpack.unconsumed_tail
                plain.update(out)
                size += len(out)
                yield out
    except zlib.error as error:
        raise ArchiveError(f"{name}: is damaged: {error}", "damaged") from None
    if (stored.hexdigest(), plain.hexdigest(), size) != (file["stored_sha256"], file["sha256"], file["size"]):
        raise ArchiveError(f"{name}: is damaged: its content is not what was written", "damaged")


def get(bucket: Bucket, file: dict[str, Any], folder: Path) -> Path:
    """Writes a file of a manifest into a folder, under its name; returns where.

    Raises:
        ArchiveError: it isn't there, or not as it was written; nothing is left of it then.
    """
    path: Path = (folder / file["name"]).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ArchiveError(f"{file['name']}: leads out of {folder}", "damaged")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as out:
            for piece in content(bucket, file):
                out.write(piece)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def verify(
    bucket: Bucket, site: str | None = None, job_id: str | None = None, *, tell: Callable[[str], None] = lambda _: None
) -> Verified:
    """Reads every object that the manifests name, and compares it with what they say.

    Args:
        bucket: the bucket.
        site: only this site's.
        job_id: only this job's.
        tell: is told each manifest's key before it is looked at.

    Raises:
        ArchiveError: the bucket cannot be read.
    """
    found = Verified()
    seen: set[str] = set()
    for stored in manifests(bucket, site, job_id):
        tell(stored.key)
        found.jobs += 1
        with _noting(found, ""):
            files = {file["object"]: file for file in read_manifest(bucket.get(stored.key), stored.key)["files"]}
            for name in files.keys() - seen:
                found.objects += 1
                with _noting(found, f"{stored.key}: "):
                    for _ in content(bucket, files[name]):
                        pass
                    found.sound += 1
            seen |= files.keys()
    if site is None:
        found.loose = sum(one.key.rsplit("/", 1)[-1] not in seen for one in bucket.listed("_objects/"))
        for one in bucket.listed("_records/"):
            found.faults += _record_faults(bucket, one.key)
    return found


@contextmanager
def _noting(found: Verified, before: str) -> Iterator[None]:
    """Notes what is damaged or missing, and goes on."""
    try:
        yield
    except ArchiveError as error:
        if error.reason not in {"damaged", "missing"}:
            raise
        found.faults.append(f"{before}{error}")


def _record_faults(bucket: Bucket, key: str) -> Iterable[str]:
    try:
        for line in gzip.decompress(bucket.get(key)).splitlines():
            json.loads(line)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        return [f"{key}: is damaged: {error}; the next job of that project and month makes it anew"]
    return []


@dataclass(frozen=True, slots=True)
class Restored:
    """What came back.

    Attributes:
        jobs: how many.
        entries: of the ledger.
        counters: lifetime counters.
        faults: what could not be read, one line each.
    """

    jobs: int
    entries: int
    counters: int
    faults: tuple[str, ...]


def restore(bucket: Bucket, store: Store, *, now: float, tell: Callable[[str], None] = lambda _: None) -> Restored:
    """Reads the archive back into a store that knows of no job.

    Args:
        bucket: the bucket.
        store: the store.
        now: epoch seconds.
        tell: is told each manifest's key before it is read.

    Raises:
        RefusedError: the store has jobs.
        ArchiveError: the bucket cannot be read.
    """
    with store.snapshot() as connection:
        if not archive.is_empty(connection):
            raise RefusedError(f"{store.path} knows jobs already; import only fills a store that has none")
    newest: dict[tuple[str, str, str | None], tuple[str, dict[str, Any]]] = {}
    faults: list[str] = []
    for stored in manifests(bucket):
        tell(stored.key)
        try:
            manifest = read_manifest(bucket.get(stored.key), stored.key)
        except ArchiveError as error:
            if error.reason != "damaged":
                raise
            faults.append(str(error))
            continue
        identity = (manifest["site"], manifest["job_id"], manifest["token"])
        before = newest.get(identity)
        if before is None or before[1]["end_time"] <= manifest["end_time"]:
            newest[identity] = (stored.key, manifest)
    # The first of a chain is there before those that name it.
    ordered = sorted(newest.values(), key=lambda one: (_link(one[1]), one[1]["end_time"]))
    texts = [_raw_texts(bucket, manifest, faults) for _, manifest in ordered]
    known = _counters(bucket)

    def put_back(connection: sqlite3.Connection) -> int:
        if not archive.is_empty(connection):
            raise RefusedError(f"{store.path} knows jobs already; import only fills a store that has none")
        for (key, manifest), raw in zip(ordered, texts, strict=True):
            archive.put_back(connection, manifest["rows"])
            archive.put_raw_back(connection, manifest["site"], raw)
            archive.note_kept(connection, manifest["site"], manifest["job_id"], manifest["end_time"], key, now=now)
        archive.set_counters(connection, known)
        return int(connection.execute("SELECT count(*) FROM ledger").fetchone()[0])

    entries = store.write(put_back)
    return Restored(len(ordered), entries, len(known), tuple(faults))


def _link(manifest: dict[str, Any]) -> int:
    return max((row.get("link") or 0 for row in manifest["rows"].get("submissions", ())), default=0)


def _raw_texts(bucket: Bucket, manifest: dict[str, Any], faults: list[str]) -> list[dict[str, Any]]:
    for file in manifest["files"]:
        if file["name"] == "raw.json":
            try:
                texts: list[dict[str, Any]] = json.loads(b"".join(content(bucket, file)))
            except ArchiveError as error:
                if error.reason not in {"damaged", "missing"}:
                    raise
                faults.append(str(error))
                return []
            return texts
    return []


def _counters(bucket: Bucket) -> list[Counter]:
    if bucket.stored(COUNTERS) is None:
        return []
    return [Counter(**one) for one in json.loads(bucket.get(COUNTERS))["counters"]]
