"""The folder of state, the store in it, and who owns the sites."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from exporter.config import Config
from exporter.dates import minute
from exporter.doctor.finding import Finding, look, well, wrong
from exporter.doctor.http import said_over_http
from exporter.errors import StoreError
from exporter.owner.lock import is_held, read_holder
from exporter.store.checkup import check as look_through

MOUNTS = Path("/proc/self/mountinfo")

_REMOTE = re.compile(r"nfs\d?|cifs|smb\d?|lustre|gpfs|beegfs\w*|ceph|fuse\.\S+|9p|afs|glusterfs")
"""File systems over which SQLite's log and the owner's lock can't be relied on; see sqlite.org/wal.html."""


def check_folder(config: Config, mounts: Path = MOUNTS) -> Iterator[Finding]:
    """Yields whether the folder can be used, is its owner's alone, and lies on a disk of this machine."""
    folder = config.state_dir
    there = _nearest(folder)
    if not there.is_dir():
        yield wrong("state_dir", f"{there} is no folder, so {folder} can't be made", "write another state_dir")
        return
    if not os.access(there, os.W_OK | os.X_OK):
        cure = f"make it yours: chown {os.geteuid()} {there}; or write another state_dir"
        yield wrong("state_dir", f"{there} can't be written by you", cure)
        return
    kind = _file_system(there, mounts)
    if kind is not None and _REMOTE.fullmatch(kind):
        yield wrong(
            "state_dir",
            f"{folder} lies on {kind}, where the store may be damaged and two rayslurms may own the sites at once",
            "write a state_dir on a disk of this machine",
        )
    elif kind == "tmpfs":
        yield look(
            "state_dir",
            f"{folder} lies in memory (tmpfs), so all that is known of jobs is gone when this machine starts again",
            "write a state_dir on a disk",
        )
    elif folder.exists() and folder.stat().st_mode & 0o077:
        mode = folder.stat().st_mode & 0o777
        yield wrong("state_dir", f"{folder} is open to others (mode {mode:04o})", f"run: chmod 700 {folder}")
    else:
        yet = "" if folder.exists() else "; it isn't there yet, and is made when it is needed"
        yield well("state_dir", f"{folder} can be written, on {kind or 'an unknown file system'}{yet}")


def check_store(config: Config) -> Iterator[Finding]:
    """Yields whether the store is there, readable and whole, as `rayslurm store check` finds."""
    path = config.store_path
    if not path.exists():
        yield well("store", f"{path} isn't there yet, and is made when it is needed")
        return
    found = look_through(path)
    yield from (wrong("store", problem.cause, problem.cure) for problem in found.problems)
    if not found.problems:
        behind = found.schema != found.known_schema
        later = f"; it is brought to {found.known_schema} when it is opened next" if behind else ""
        yield well("store", f"{path} is whole, schema {found.schema}{later}")


def check_owner(config: Config) -> Iterator[Finding]:
    """Yields whether `serve` runs, and answers."""
    answer = said_over_http(*config.listen_address, "/-/healthy") if config.listen_address[1] else None
    try:
        held = is_held(config.state_dir)
    except StoreError as error:
        text, _, cure = str(error).partition("; ")
        yield wrong("serve", f"the owner's lock can't be read: {text}", cure)
        return
    if not held:
        if answer is not None:
            yield wrong(
                "serve",
                f"it doesn't run, but something else listens on {config.listen}, so that it could not start",
                "end that, or write another `listen`",
            )
            return
        left = read_holder(config.state_dir)
        died = f"; `rayslurm {left.role}` (process {left.pid}) died, which is put right by the next" if left else ""
        yield look("serve", f"it doesn't run, so no job is followed{died}", "run: rayslurm serve")
        return
    who = read_holder(config.state_dir)
    if who is None or who.role != "serve":
        yield look("serve", f"the sites are held by {who or 'another process'}, not by serve", "wait for it to end")
    elif answer is None or "rayslurm is healthy" not in answer:
        told = "nothing answers" if answer is None else "something else answers"
        yield wrong(
            "serve",
            f"process {who.pid} holds the sites, but {told} on {config.listen}",
            "look into its log; was `listen` changed since it started? Then start it again",
        )
    else:
        since = minute(who.since)
        yield well("serve", f"it runs (process {who.pid}, since {since}) and answers on {config.listen}")


def _nearest(path: Path) -> Path:
    """Returns the path, or the nearest one above it that is there."""
    return next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())


def _file_system(path: Path, mounts: Path) -> str | None:
    """Returns on which kind of file system a path lies, as the kernel calls it; see proc_pid_mountinfo(5)."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    real, best, kind = path.resolve(), -1, None
    for line in lines:
        before, _, after = line.partition(" - ")
        point = Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), before.split()[4]))
        if real.is_relative_to(point) and len(point.parts) >= best:  # of two on one point the later one is seen
            best, kind = len(point.parts), after.split()[0]
    return kind
