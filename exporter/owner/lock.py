"""The owner's lock: one process at a time acts on the sites of a store."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from exporter.errors import OwnerError, StoreError


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds the lock.

    Attributes:
        role: `serve`, or the command that acts for itself.
        since: when it took it, epoch seconds.
    """

    role: str
    pid: int
    host: str
    since: float

    def __str__(self) -> str:
        age = max(0, int(time.time() - self.since))
        return f"`rayslurm {self.role}` (process {self.pid} on {self.host}, since {age} s)"


class OwnerLock:
    """A lock on a folder of state; the kernel takes it back when the process ends, however it ends.

    Args:
        state_dir: the folder.
        role: who takes it.

    Raises:
        OwnerError: somebody else holds it; `holder` of the error's message says who.
        StoreError: it can't be opened.
    """

    def __init__(self, state_dir: Path, role: str) -> None:
        path = state_dir / "owner.lock"
        try:
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _cannot_open(path, error) from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._fd)
            holder = read_holder(state_dir)
            raise OwnerError(f"the sites are held by {holder or 'another process'}") from None
        me = json.dumps(asdict(Holder(role, os.getpid(), socket.gethostname(), time.time())))
        os.ftruncate(self._fd, 0)
        with suppress(OSError):  # a full disk: the lock holds all the same, only who has it cannot be told
            os.pwrite(self._fd, me.encode(), 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Gives the lock back."""
        os.ftruncate(self._fd, 0)
        os.close(self._fd)


def read_holder(state_dir: Path) -> Holder | None:
    """Returns who wrote the lock last; None where nobody did. Whether it is still held, only taking it tells."""
    try:
        return Holder(**json.loads((state_dir / "owner.lock").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def is_held(state_dir: Path) -> bool:
    """Tells whether somebody holds the lock now; for that moment it is held in common with others who ask.

    Raises:
        StoreError: the lock can't be opened.
    """
    path = state_dir / "owner.lock"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _cannot_open(path, error) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _cannot_open(path: Path, error: OSError) -> StoreError:
    return StoreError(f"{path}: {error.strerror}; is the folder yours, and is there room?")
