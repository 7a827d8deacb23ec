"""What of a job waits on this machine for its upload: a folder that is there as a whole or not at all."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any, cast

from exporter.archive.redact import Redactor
from exporter.errors import ArchiveError
from exporter.whole_files import sync

DRAFT = "draft.json"

PACKED = (".tar.gz", ".tgz")
"""How the names of packed files end."""

_READ_BYTES = 1024**2
_MEMBER_BYTES = 4 * 1024**2
"""A larger file of a packed one is kept on disk while its secrets are taken out."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A file of a job as its manifest lists it.

    Attributes:
        name: what it is called.
        source: where it came from: `site:PATH`, or `store:TABLE`.
        object: the name of its object: the SHA-256 of the content, with `.gz` where that is compressed there.
        encoding: `gzip`, or `identity` for what is stored as it is.
        sha256: of the content, without secrets.
        size: of the content, in bytes.
        stored_sha256: of the object's own bytes.
        stored_size: how many those are.
        source_size: how large the file was where it came from; None where it was none.
        modified_time: when that was last written.
        left_out: the bytes that were cut from its middle.
        redactions: how many secrets were taken out.
    """

    name: str
    source: str
    object: str
    encoding: str
    sha256: str
    size: int
    stored_sha256: str
    stored_size: int
    source_size: int | None = None
    modified_time: int | None = None
    left_out: int = 0
    redactions: int = 0


class _LocalFile:
    """A file of this machine: what goes wrong with it is not taken for a fault of the site's."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, content: bytes) -> int:
        with _local():
            return self._file.write(content)

    def flush(self) -> None:
        with _local():
            self._file.flush()


@dataclass
class Spool:
    """A job's folder while it is filled.

    Attributes:
        folder: where.
        files: what is in it.
        absent: what isn't, and why.
    """

    folder: Path
    files: list[Kept] = field(default_factory=list)
    absent: list[dict[str, Any]] = field(default_factory=list)

    def text(self, name: str, source: str, pieces: Iterable[bytes], redactor: Redactor, **facts: Any) -> None:
        """Keeps a text, without secrets and compressed."""
        before = redactor.count
        with self._writing() as (path, file):
            content = hashlib.sha256()
            size = 0
            with gzip.GzipFile(
                filename="", mode="wb", fileobj=cast("IO[bytes]", file), mtime=0, compresslevel=6
            ) as packed:
                for piece in redactor.stream(pieces):
                    content.update(piece)
                    size += len(piece)
                    packed.write(piece)
        digest = content.hexdigest()
        facts["redactions"] = redactor.count - before
        self._add(path, name, source, f"{digest}.gz", "gzip", digest, size, **facts)

    def blob(self, name: str, source: str, pieces: Iterable[bytes], **facts: Any) -> None:
        """Keeps something that is no text as it is."""
        with self._writing() as (path, file):
            content = hashlib.sha256()
            for piece in pieces:
                content.update(piece)
                file.write(piece)
        digest = content.hexdigest()
        self._add(path, name, source, digest, "identity", digest, path.stat().st_size, **facts)

    def packed(
        self, name: str, source: str, pieces: Iterable[bytes], redactor: Redactor, *, most: int, **facts: Any
    ) -> None:
        """Keeps a `.tar.gz` with the secrets taken out of the texts in it.

        Args:
            name: what it is called.
            source: where it came from.
            pieces: its bytes.
            redactor: knows the secrets.
            most: how many bytes of what is packed in it are kept.
            **facts: of `Kept`.
        """
        before = redactor.count
        with self._writing() as (raw, file):
            for piece in pieces:
                file.write(piece)
        try:
            with (
                self._writing() as (path, file),
                gzip.GzipFile(filename="", mode="wb", fileobj=cast("IO[bytes]", file), mtime=0) as zipped,
            ):
                _repack(raw, zipped, redactor, most)
        except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error, ValueError) as error:
            self.leave_out(name, source, f"it cannot be unpacked: {error}", facts.get("source_size"))
            return
        finally:
            raw.unlink(missing_ok=True)
        digest = _digest(path)
        facts["redactions"] = redactor.count - before
        self._add(path, name, source, digest, "identity", digest, path.stat().st_size, **facts)

    def redacted_last(self, count: int) -> None:
        """Notes how many secrets were taken out of what was kept last, before it came here."""
        self.files[-1] = replace(self.files[-1], redactions=count)

    def leave_out(self, name: str, source: str, reason: str, size: int | None = None) -> None:
        """Notes that something is not kept, and why."""
        self.absent.append({"name": name, "source": source, "reason": reason, "source_size": size})

    @contextmanager
    def _writing(self) -> Iterator[tuple[Path, _LocalFile]]:
        """Gives a new file for the owner alone; it is on disk afterwards."""
        with _local():
            number, path = tempfile.mkstemp(dir=self.folder, prefix="new-")
        try:
            file = os.fdopen(number, "wb")
            try:
                yield Path(path), _LocalFile(file)
                with _local():
                    file.flush()
                    os.fsync(file.fileno())
            finally:
                with _local():
                    file.close()
        except BaseException:
            Path(path).unlink(missing_ok=True)
            raise

    def _add(  # noqa: PLR0917 - the fields of `Kept`
        self, path: Path, name: str, source: str, stored_as: str, encoding: str, digest: str, size: int, **facts: Any
    ) -> None:
        stored = digest if encoding == "identity" else _digest(path)
        stored_size = path.stat().st_size
        with _local():
            path.replace(self.folder / stored_as)
        self.files.append(Kept(name, source, stored_as, encoding, digest, size, stored, stored_size, **facts))


@contextmanager
def filling(folder: Path, about: Mapping[str, Any]) -> Iterator[Spool]:
    """Gives a folder to fill; afterwards it is there as a whole, or not at all.

    Args:
        folder: where it will be.
        about: what the draft of the manifest says beside the files; read when it is filled.

    Raises:
        ArchiveError: there is no room for it.
    """
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    with _local():
        part.mkdir(mode=0o700, parents=True)
    try:
        spool = Spool(part)
        yield spool
        draft = {**about, "files": [asdict(one) for one in spool.files], "left_out": spool.absent}
        with _local():
            with (part / DRAFT).open("w", encoding="utf-8") as file:
                json.dump(draft, file)
                file.flush()
                os.fsync(file.fileno())
            shutil.rmtree(folder, ignore_errors=True)
            part.rename(folder)
            sync(folder.parent)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def read_draft(folder: Path) -> dict[str, Any] | None:
    """Returns the draft of a job's manifest; None where the folder isn't there, or not as it was left."""
    try:
        draft = json.loads((folder / DRAFT).read_text(encoding="utf-8"))
        for one in draft["files"]:
            if _digest(folder / one["object"]) != one["stored_sha256"]:
                return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    found: dict[str, Any] = draft
    return found


def spool_folder(state_dir: Path, site: str, job_id: str) -> Path:
    """Returns where what is left of a job waits."""
    return state_dir / "archive" / site / job_id


def spooled_bytes(state_dir: Path) -> int:
    """Returns how many bytes wait on this machine."""
    return sum(path.stat().st_size for path in (state_dir / "archive").rglob("*") if path.is_file())


def spooled_jobs(state_dir: Path) -> list[str]:
    """Returns the jobs that wait on this machine as a whole, as `SITE/ID`."""
    return [f"{path.parent.parent.name}/{path.parent.name}" for path in (state_dir / "archive").glob(f"*/*/{DRAFT}")
            if not path.parent.name.endswith(".part")]  # fmt: skip


def _repack(raw: Path, into: gzip.GzipFile, redactor: Redactor, most: int) -> None:
    """Copies a packed file into a new one, without secrets and without what no plain file is.

    What is packed in it, such as the logs of each node, is treated likewise.
    """
    with (
        raw.open("rb") as file,
        tarfile.open(fileobj=file, mode="r|gz") as old,
        tarfile.open(fileobj=into, mode="w|", format=tarfile.PAX_FORMAT) as new,
    ):
        left = most
        for member in old:
            content = old.extractfile(member) if member.isreg() else None
            if content is None:
                continue
            with _local(), tempfile.SpooledTemporaryFile(_MEMBER_BYTES, dir=str(raw.parent)) as clean:
                if member.name.endswith(PACKED):
                    _repack_inner(content, cast("IO[bytes]", clean), redactor, left, raw.parent)
                else:
                    for piece in redactor.stream(_at_most(content, left)):
                        clean.write(piece)
                entry = tarfile.TarInfo(member.name)
                entry.size, entry.mtime, entry.mode = clean.tell(), member.mtime, 0o600
                left -= min(left, member.size)
                clean.seek(0)
                new.addfile(entry, clean)


def _repack_inner(content: IO[bytes], clean: IO[bytes], redactor: Redactor, most: int, folder: Path) -> None:
    """Writes what is packed in a packed file, without secrets; of what cannot be unpacked it says so."""
    with tempfile.NamedTemporaryFile(dir=folder) as inner:
        for piece in _at_most(content, most):
            inner.write(piece)
        inner.flush()
        try:
            with gzip.GzipFile(filename="", mode="wb", fileobj=clean, mtime=0) as zipped:
                _repack(Path(inner.name), zipped, redactor, most)
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            clean.seek(0)
            clean.truncate()
            clean.write(f"[left out: it cannot be unpacked, so that secrets in it cannot be found: {error}]\n".encode())


def _at_most(content: IO[bytes], most: int) -> Iterator[bytes]:
    while most > 0 and (piece := content.read(min(_READ_BYTES, most))):
        most -= len(piece)
        yield piece
    if most <= 0 and content.read(1):
        yield b"\n[the rest is left out: archive.max_job]\n"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _local() -> Iterator[None]:
    """Says of this machine's disk what else would look like the site's fault."""
    try:
        yield
    except OSError as error:
        raise ArchiveError(
            f"{error.filename or 'the folder of the archive'}: {error.strerror}; is there room on this machine's disk?",
            "full",
        ) from None
