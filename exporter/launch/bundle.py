"""What is brought along, as it was when somebody launched: a copy of the files with their manifest, in one file.

The command line makes it and `serve` sends it, maybe minutes later, when the person has gone on working on the files.
It is a ZIP file without compression: `work/...`, `work.diff` and `manifest.json`, as they will be in the run folder.
Whoever sends it takes it out of its folder first, so that nothing is left of it however that ends. What nobody takes is
swept.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
import stat
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Self

from exporter import __version__
from exporter.client.transport import PIECE_BYTES, RemoteFile, RemoteStream
from exporter.errors import RayslurmError, RefusedError, StoreError
from exporter.launch import rules
from exporter.launch.bring import WORK_FOLDER
from exporter.launch.gitstate import MAX_DIFF_BYTES, GitState, git_state
from exporter.launch.selection import BroughtFile, Selection, Source, files_text, size_text
from exporter.store import requests
from exporter.store.db import Store

MANIFEST = "manifest.json"
DIFF = "work.diff"
"""The names of what lies beside the working folder."""

_VERSION = 1
_READ_BYTES = 1024**2

_KEEP_SECONDS = 600.0
"""How old a copy that no request names must be to be swept: the request may be about to be written."""


@dataclass(frozen=True, slots=True)
class SpecFile:
    """The spec as a file.

    Attributes:
        path: where it is on this machine.
        sha256: of its text.
    """

    path: str
    sha256: str

    @classmethod
    def of(cls, path: Path, text: str) -> Self:
        """Returns what there is to say of a spec's file and text."""
        return cls(str(path.absolute()), hashlib.sha256(text.encode()).hexdigest())


class Bundle:
    """Files that are brought along, with their manifest. It is open until `close`.

    Args:
        file: the ZIP file.

    Raises:
        StoreError: it is damaged.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        try:
            self._zip = zipfile.ZipFile(file)
            self.manifest: dict[str, Any] = json.loads(self._zip.read(MANIFEST))
        except (OSError, zipfile.BadZipFile, KeyError, ValueError) as error:
            file.close()
            raise _damaged(error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of it."""
        self._zip.close()
        self._file.close()

    @property
    def count(self) -> int:
        """How many files it holds for the working folder."""
        return len(self.manifest["files"])

    @property
    def total_bytes(self) -> int:
        """The bytes of these files together."""
        return int(self.manifest["total"]["bytes"])

    @property
    def folders(self) -> list[str]:
        """The folders in the run folder that its files need, those above first."""
        return [WORK_FOLDER, *(f"{WORK_FOLDER}/{path}" for path in self.manifest["folders"])]

    def files(self, sent: Callable[[int], None] = lambda _: None) -> dict[str, RemoteFile | RemoteStream]:
        """Returns its files, with the manifest, by their names in the run folder.

        Args:
            sent: told of each piece how many bytes it was, when it is on its way; 2 MiB at most haven't arrived.
        """
        files: dict[str, RemoteFile | RemoteStream] = {}
        for about in self.manifest["files"]:
            name = f"{WORK_FOLDER}/{about['path']}"
            files[name] = RemoteStream(self._reader(name, about, sent), int(about["mode"], 8))
        if self.manifest["diff"]:
            files[DIFF] = RemoteFile(self._zip.read(DIFF), 0o600)
        text = json.dumps(self.manifest, indent=1) + "\n"
        return files | {MANIFEST: RemoteFile(text.encode())}

    def _reader(
        self, name: str, about: Mapping[str, Any], sent: Callable[[int], None]
    ) -> Callable[[], Iterator[bytes]]:
        def pieces() -> Iterator[bytes]:
            digest = hashlib.sha256()
            try:
                with self._zip.open(name) as stream:
                    while piece := stream.read(PIECE_BYTES):
                        digest.update(piece)
                        yield piece
                        sent(len(piece))
            except (OSError, EOFError, zipfile.BadZipFile) as error:
                raise _damaged(error) from None
            if digest.hexdigest() != about["sha256"]:
                raise _damaged(ValueError(f"{about['path']} is not what it was"))

        return pieces


class Progress:
    """Says how much has been sent, at most once a second.

    Args:
        bundle: what is sent.
        tell: says it.
        clock: gives seconds.
    """

    def __init__(
        self, bundle: Bundle, tell: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._total, self._sent = bundle.total_bytes, 0
        self._tell, self._clock = tell, clock
        self._told = clock()
        if bundle.count:
            tell(f"copying {files_text(bundle.count, self._total)}")

    def __call__(self, count: int) -> None:
        """Notes that so many more bytes are at the site."""
        self._sent += count
        if self._clock() - self._told >= 1:
            self._told = self._clock()
            self._tell(f"copying: {size_text(self._sent)} of {size_text(self._total)}")


@contextmanager
def packed(selection: Selection, state_dir: Path, *, spec: SpecFile | None, now: float) -> Iterator[Bundle]:
    """Copies what is brought along, and gives the copy; it has no name, so nothing is left of it afterwards.

    Args:
        selection: what is brought.
        state_dir: where there is room for the copy.
        spec: the spec's file, where there is one.
        now: epoch seconds.

    Raises:
        RefusedError: a file went away, can't be read any more, or grew over the limit.
        StoreError: the copy could not be written.
    """
    file: IO[bytes] = io.BytesIO()
    try:
        if selection.files:
            file = tempfile.TemporaryFile(dir=_folder(state_dir))  # noqa: SIM115 - closed below, or by the bundle
        _pack(selection, file, spec=spec, now=now)
    except BaseException as error:
        with suppress(OSError):
            file.close()
        if isinstance(error, OSError):
            raise _no_room(state_dir, error) from None
        raise
    with Bundle(file) as bundle:
        yield bundle


def stage(selection: Selection, state_dir: Path, *, spec: SpecFile, now: float) -> str:
    """Copies what is brought along for whoever will send it; returns the name that `take` wants. As `packed`."""
    path = _folder(state_dir) / f"{secrets.token_hex(16)}.zip"
    try:
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w+b") as file:
            _pack(selection, file, spec=spec, now=now)
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _no_room(state_dir, error) from None
        raise
    return path.name


def take(state_dir: Path, name: str) -> Bundle:
    """Returns a copy that was staged; from now on it has no name, and is gone when it is closed.

    Raises:
        RayslurmError: there is none of that name.
        StoreError: it is damaged.
    """
    path = _folder(state_dir) / Path(name).name
    try:
        file = path.open("rb")
    except OSError as error:
        raise RayslurmError(
            f"what the job is to bring along was copied to {path}, which can't be opened ({error.strerror}); nothing "
            "was submitted: launch again"
        ) from None
    path.unlink(missing_ok=True)
    return Bundle(file)


def sweep(state_dir: Path, store: Store, *, now: float) -> None:
    """Removes the copies that nobody will take any more."""
    for path in (state_dir / "staged").glob("*.zip"):
        try:
            if now - path.stat().st_mtime < _KEEP_SECONDS:
                continue
        except FileNotFoundError:
            continue
        with store.snapshot() as connection:
            wanted = {request.payload.get("bundle") for request in requests.open_ones(connection)}
        if path.name not in wanted:
            path.unlink(missing_ok=True)


def _folder(state_dir: Path) -> Path:
    folder = state_dir / "staged"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _no_room(state_dir, error) from None
    return folder


def _pack(selection: Selection, file: IO[bytes], *, spec: SpecFile | None, now: float) -> None:
    """Writes the ZIP file; OSError where that can't be written."""
    states = [git_state(source.root, [one.source for one in source.files]) for source in selection.sources]
    diff = b"".join(state.diff for state in states if state and state.diff)
    why_no_diff = rules.secret_in_diff(diff)
    if len(diff) > MAX_DIFF_BYTES or why_no_diff:
        diff = b""
    listed: list[dict[str, Any]] = []
    left = selection.max_bytes
    with zipfile.ZipFile(file, "w") as archive:
        for one in selection.files:
            digest, size = hashlib.sha256(), 0
            with archive.open(f"{WORK_FOLDER}/{one.path}", "w", force_zip64=True) as member:
                for piece in _read(one):
                    digest.update(piece)
                    size += len(piece)
                    if size > left:
                        raise RefusedError(
                            f"bring: {one.source} grew while it was copied, over bring_limits.max_bytes, "
                            f"{size_text(selection.max_bytes)}; exclude what is being written"
                        )
                    member.write(piece)
            left -= size
            listed.append({"path": one.path, "size": size, "sha256": digest.hexdigest(), "mode": f"{one.mode:04o}"})
        if diff:
            archive.writestr(DIFF, diff)
        manifest = {
            "version": _VERSION,
            "created": datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "rayslurm": __version__,
            "spec": None if spec is None else {"path": spec.path, "sha256": spec.sha256},
            "sources": [_about(source, state) for source, state in zip(selection.sources, states, strict=True)],
            "diff": DIFF if diff else None,
            **({"diff_left_out": why_no_diff} if why_no_diff else {}),
            "folders": list(selection.folders),
            "files": listed,
            "total": {"files": len(listed), "bytes": selection.max_bytes - left},
        }
        archive.writestr(MANIFEST, json.dumps(manifest))
    file.flush()


def _about(source: Source, state: GitState | None) -> dict[str, Any]:
    git = None
    if state is not None:
        git = {
            "commit": state.commit,
            "branch": state.branch,
            "dirty": state.dirty,
            "modified": state.modified,
            "untracked": state.untracked,
            "changes": list(state.changes),
        }
    return {"path": source.path, "to": source.to, "files": len(source.files), "git": git}


def _read(file: BroughtFile) -> Iterator[bytes]:
    """Gives the content of a file that is brought; one that became something else, or a secret, meanwhile isn't."""
    try:
        descriptor = os.open(file.source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as stream:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise RefusedError(f"bring: {file.source} is no file any more; launch again")
            piece = stream.read(_READ_BYTES)
            why = rules.secret((file.source.name,), piece[: rules.HEAD_BYTES])
            if why and not file.named:
                raise RefusedError(
                    f"bring: {file.source} looks like a secret now ({why}); exclude it, or name it as an item of its "
                    "own if it must go"
                )
            while piece:
                yield piece
                piece = stream.read(_READ_BYTES)
    except OSError as error:
        raise RefusedError(f"bring: {file.source}: {error.strerror}; it was there a moment ago: launch again") from None


def _no_room(state_dir: Path, error: OSError) -> StoreError:
    return StoreError(f"{state_dir}: {error.strerror}; what is brought along is copied there first: is there room?")


def _damaged(error: Exception) -> StoreError:
    return StoreError(
        f"the copy of what the job brings along is damaged ({error}); nothing was submitted: launch again"
    )
