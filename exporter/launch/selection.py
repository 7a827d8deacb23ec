"""Which files of this machine go where in a job's working folder.

Only regular files are brought, and folders. A symbolic link is followed where it leads to something within the brought
folder, and refused where it leads out of it, nowhere, or round in a circle.
"""

from __future__ import annotations

import os
import posixpath
import re
import stat
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from exporter.config import Config
from exporter.errors import ConfigError, RefusedError
from exporter.launch import rules
from exporter.launch.bring import BringItem, BringLimits

_UNUSABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
"""What no name may have at the site: control characters, and what stands for bytes that are no UTF-8."""

_LOOK_AT = 20
"""How many times as many files as are allowed are counted before the rest isn't looked at."""

_DEEPEST = 100
"""How many folders may lie in one another."""

_FAULTS_TOLD = 10
_OFFENDERS_TOLD = 5


@dataclass(frozen=True, slots=True)
class BroughtFile:
    """A file to be brought along.

    Attributes:
        path: where it goes, relative to the working folder.
        source: where its content is on this machine; no link.
        size: bytes when it was looked at.
        mode: its permissions there.
        named: whether it is an item of its own, which may be a secret.
    """

    path: str
    source: Path
    size: int
    mode: int
    named: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """An item of the list, and what of it is brought.

    Attributes:
        path: as the spec has it, absolute.
        to: where it goes, relative to the working folder; `.` for the folder itself.
        root: what the path stands for, without links.
        files: what is brought of it.
    """

    path: str
    to: str
    root: Path
    files: tuple[BroughtFile, ...]


@dataclass(frozen=True, slots=True)
class Selection:
    """All that is brought along.

    Attributes:
        sources: by item.
        files: each once, by path.
        folders: that are needed in the working folder, those above before those below.
        max_bytes: what the files may have together when they are read.
    """

    sources: tuple[Source, ...]
    files: tuple[BroughtFile, ...]
    folders: tuple[str, ...]
    max_bytes: int

    @property
    def total_bytes(self) -> int:
        """The bytes of all files."""
        return sum(file.size for file in self.files)

    def largest(self, count: int = _OFFENDERS_TOLD) -> tuple[BroughtFile, ...]:
        """Returns the largest files, the largest first."""
        return tuple(sorted(self.files, key=lambda file: (-file.size, file.path))[:count])


def private_paths(config: Config) -> tuple[Path, ...]:
    """Returns what is never brought along: rayslurm's state and the keys it logs in with."""
    keys = (site.settings.ssh.key for site in config.resolved_sites.values())
    return (config.state_dir, *(key for key in keys if key is not None))


def select(items: Sequence[BringItem], limits: BringLimits, *, private: Iterable[Path] = ()) -> Selection:
    """Looks at what is to be brought along, without reading more of it than shows whether it is a secret.

    Args:
        items: as `BringItem.at` returns them.
        limits: how much it may be.
        private: paths that are never brought.

    Returns:
        What is brought; nothing of it goes anywhere but into the working folder.

    Raises:
        ConfigError: an item names what isn't there.
        RefusedError: it is more than the limits allow, looks like a secret, leads out of its folder or can't be read;
            names each and says what to do.
    """
    roots = [_root(number, item) for number, item in enumerate(items)]
    looking = _Looking(
        limits,
        private=frozenset(Path(os.path.realpath(path)) for path in private),
        named=frozenset(root for root in roots if root.is_file()),
    )
    sources = tuple(looking.source(item, root) for item, root in zip(items, roots, strict=True))
    return looking.selection(sources)


def size_text(size: float) -> str:
    """Returns a number of bytes in words: `12 bytes`, `34.5 KiB`, `1.2 GiB`."""
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:  # noqa: PLR2004 - a unit is 1024 of the one before
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def files_text(count: int, size: float) -> str:
    """Returns in words how many files there are, and their bytes together: `3 files, 1.2 MiB`."""
    return f"{count} file{'' if count == 1 else 's'}, {size_text(size)}"


def _root(number: int, item: BringItem) -> Path:
    if not Path(item.path).is_absolute() or item.to is None:
        raise ConfigError(f"bring.{number}.path: {item.path} is relative, and it isn't known to what; write it in full")
    try:
        return Path(item.path).resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        reason = error.strerror if isinstance(error, OSError) else "is a link that leads round in a circle"
        raise ConfigError(
            f"bring.{number}.path: {item.path}: {reason}; name a file or folder of this machine"
        ) from None


class _Fault(Exception):  # noqa: N818 - it is told with others, not raised to anybody
    """Why a file isn't brought."""


@dataclass(slots=True)
class _Looking:
    """What was found so far.

    Attributes:
        named: files that are items of their own: somebody means them, also where they look like secrets.
        stopped: whether there was so much that the rest wasn't looked at.
    """

    limits: BringLimits
    private: Collection[Path]
    named: Collection[Path]
    files: dict[str, BroughtFile] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)
    stopped: bool = False

    def source(self, item: BringItem, root: Path) -> Source:
        """Takes what an item brings."""
        to = item.to or "."
        before = set(self.files)
        if self._is_private(root):
            self._note(item.path, "is rayslurm's own state or key, which never goes to a site; name something else")
            target = "."
        elif root.is_dir():
            target = posixpath.normpath(to)
            self._walk(_Within(item, root, target), root, (), (root,))
        else:
            in_folder = to.endswith("/") or posixpath.normpath(to) == "."
            target = posixpath.normpath(posixpath.join(to, PurePosixPath(item.path).name) if in_folder else to)
            self._need(posixpath.dirname(target))
            self._take(item.path, root, target, (root.name,))
        return Source(item.path, target, root, tuple(self.files[path] for path in sorted(self.files.keys() - before)))

    def selection(self, sources: tuple[Source, ...]) -> Selection:
        """Returns it all, where nothing is wrong with it."""
        for path in sorted(self.files.keys() & self.folders):
            self._note(path, "is to be both a file and a folder in the working folder; give one another `to`")
        if self.faults:
            told = self.faults[:_FAULTS_TOLD]
            more = len(self.faults) - len(told)
            raise RefusedError("\n".join([*told, *([f"bring: and {more} more like these"] if more else [])]))
        files = tuple(self.files[path] for path in sorted(self.files))
        found = Selection(sources, files, tuple(sorted(self.folders)), self.limits.max_bytes)
        self._hold_against_limits(found)
        return found

    def _walk(self, within: _Within, folder: Path, inside: tuple[str, ...], above: tuple[Path, ...]) -> None:
        """Takes what a folder holds.

        Args:
            within: the item's folder, out of which nothing leads.
            folder: where this one really is.
            inside: the parts of its path from the item's folder on, with links as they are called.
            above: the folders on the way to it, itself the last.
        """
        shown = Path(within.item.path, *inside)
        try:
            names = sorted(path.name for path in folder.iterdir())
        except OSError as error:
            self._note(shown, f"{error.strerror}; exclude it, or make it readable")
            return
        if inside and not rules.ENVIRONMENT_MARKS.isdisjoint(names):
            return
        self._need(within.target(inside))
        for name in names:
            if len(self.files) + len(self.folders) > _LOOK_AT * self.limits.max_files:
                self.stopped = True
                return
            path = (*inside, name)
            try:
                real = self._real(within, folder / name, path)
            except OSError as error:
                self._note(shown / name, f"{error.strerror}; exclude it, or make it readable")
                continue
            if real is None or self._is_private(real):
                continue
            if not real.is_dir():
                self._take(shown / name, real, within.target(path), (within.root.name, *path))
            elif len(path) > _DEEPEST:
                self._note(shown / name, f"lies more than {_DEEPEST} folders deep; exclude it")
            elif real in above:
                self._note(shown / name, "is a link that leads round in a circle; exclude it")
            else:
                self._walk(within, real, path, (*above, real))

    def _real(self, within: _Within, path: Path, inside: tuple[str, ...]) -> Path | None:
        """Returns where something in a folder really is; None where it is left out or refused."""
        patterns = (*rules.LEFT_OUT, *within.item.exclude)
        if rules.is_left_out(inside, patterns, is_folder=path.is_dir()):
            return None
        shown = Path(within.item.path, *inside)
        if _UNUSABLE.search(inside[-1]):
            self._note(shown, "its name has control characters, or is no UTF-8; exclude or rename it")
            return None
        if not path.is_symlink():
            return path
        try:
            real = path.resolve(strict=True)
        except (OSError, RuntimeError):
            self._note(shown, "is a link that leads nowhere; exclude it")
            return None
        if not real.is_relative_to(within.root):
            cure = "exclude it, and bring that as an item of its own if the job needs it"
            self._note(shown, f"is a link that leads out of {within.item.path}, to {real}; {cure}")
            return None
        return real

    def _take(self, shown: str | Path, real: Path, target: str, parts: tuple[str, ...]) -> None:
        """Takes one file.

        Args:
            shown: where the person finds it.
            real: where it really is.
            target: where it goes.
            parts: of its path, from the name of the item on.
        """
        is_item = parts == (real.name,)
        try:
            facts = real.stat()
            if not stat.S_ISREG(facts.st_mode):
                raise _Fault("is neither file nor folder; exclude it")
            head = b""
            if len(self.files) <= self.limits.max_files:  # of more it is refused anyhow
                with real.open("rb") as file:
                    head = file.read(rules.HEAD_BYTES)
            why = rules.secret(parts, head) or rules.secret((real.name,), b"")
            if why and not is_item and real in self.named:
                return  # it is brought as that item
            if why and not is_item:
                raise _Fault(f"looks like a secret ({why}); exclude it, or name it as an item of its own if it must go")
            other = self.files.get(target)
            if other is not None and other.source != real:
                raise _Fault(f"and {other.source} would both be {target} in the working folder; give one another `to`")
        except _Fault as fault:
            self._note(shown, str(fault))
        except OSError as error:
            self._note(shown, f"{error.strerror}; exclude it, or make it readable")
        else:
            mode = stat.S_IMODE(facts.st_mode) & (0o700 if why else 0o755) | 0o600
            self.files[target] = BroughtFile(target, real, facts.st_size, mode, is_item)

    def _need(self, folder: str) -> None:
        """Notes a folder of the working folder, and those above it."""
        parts = [part for part in folder.split("/") if part not in {"", "."}]
        self.folders |= {"/".join(parts[: number + 1]) for number in range(len(parts))}

    def _is_private(self, real: Path) -> bool:
        return any(real.is_relative_to(path) for path in self.private)

    def _note(self, shown: str | Path, fault: str) -> None:
        text = str(shown)
        self.faults.append(f"bring: {ascii(text) if _UNUSABLE.search(text) else text}: {fault}")

    def _hold_against_limits(self, found: Selection) -> None:
        limits = self.limits
        count = len(found.files) + len(found.folders)
        if count > limits.max_files:
            most = Counter("/".join(file.path.split("/")[:-1][:2]) or "." for file in found.files).most_common(3)
            where = ", ".join(f"{folder} ({number})" for folder, number in most)
            raise RefusedError(
                f"bring: {'more than ' if self.stopped else ''}{count} files and folders are more than "
                f"bring_limits.max_files, {limits.max_files}; most files are in: {where}. Exclude what the job doesn't "
                "need, pack many small files into one, or raise bring_limits.max_files"
            )
        if found.total_bytes > limits.max_bytes:
            largest = ", ".join(f"{file.path} ({size_text(file.size)})" for file in found.largest())
            raise RefusedError(
                f"bring: {size_text(found.total_bytes)} are more than bring_limits.max_bytes, "
                f"{size_text(limits.max_bytes)}; the largest are: {largest}. Exclude what the job doesn't need, put "
                "data on the site once and name it there, or raise bring_limits.max_bytes"
            )


@dataclass(frozen=True, slots=True)
class _Within:
    """A folder that is an item.

    Attributes:
        root: where it really is.
        to: where it goes.
    """

    item: BringItem
    root: Path
    to: str

    def target(self, inside: tuple[str, ...]) -> str:
        """Returns where something in it goes."""
        return posixpath.normpath(posixpath.join(self.to, *inside))
