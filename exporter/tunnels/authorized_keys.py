"""The keys that jobs come in by: one a job, which opens that job's tunnels and nothing else.

The file belongs to a person: only lines with our mark are touched, all others stay byte by byte. It is replaced as a
whole under a lock, so that sshd and other programs see it either before or after.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from exporter.errors import StoreError

_MARK = re.compile(r"rayslurm-([0-9a-z]+)-([0-9a-z]+)$")
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A key of its own for one job.

    Attributes:
        private: in OpenSSH's format, for the job alone.
        public: type and base64, as it stands in `authorized_keys`.
    """

    private: bytes
    public: str


def make_key() -> KeyPair:
    """Returns a new ed25519 key; it has no passphrase, since nobody is there to type it."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return KeyPair(private, public.decode("ascii"))


def key_options(ports: Sequence[int]) -> str:
    """Returns the options of a key that opens reverse forwards to these ports of the loopback only.

    `restrict` and `permitlisten` leave the forwards, `permitopen` takes local forwards away, `command` takes commands
    away; see sshd(8), AUTHORIZED_KEYS FILE FORMAT.

    Args:
        ports: where it may listen; with none it opens nothing, since without any `permitlisten` it might listen
            everywhere.
    """
    if not ports:
        return 'restrict,command="/bin/false"'
    listen = ",".join(f'permitlisten="127.0.0.1:{port}"' for port in ports)
    return f'restrict,port-forwarding,{listen},permitopen="127.0.0.1:1",command="/bin/false"'


def key_line(public: str, ports: Sequence[int], *, expires: float, mark: str) -> str:
    """Returns a line of `authorized_keys` for a job's key.

    Args:
        public: type and base64.
        ports: where it may listen; none where nothing is left to listen on.
        expires: from when on it opens nothing, epoch seconds.
        mark: its comment.
    """
    until = f"{datetime.fromtimestamp(expires, UTC):%Y%m%d%H%M%S}Z"
    options = f'{key_options(ports)},expiry-time="{until}"'
    return f"{options} {public} {mark}"


@dataclass(frozen=True, slots=True)
class AuthorizedKeys:
    """The file that an account on this machine takes keys from, and our lines in it.

    Attributes:
        path: the file.
        instance: which rayslurm's lines are ours; another one may use the same account.
    """

    path: Path
    instance: str

    def put(self, token: str, public: str, ports: Sequence[int], *, expires: float) -> None:
        """Lets a job's key in, in place of an earlier line of the same job.

        Raises:
            StoreError: the file can't be read or written.
        """
        line = key_line(public, ports, expires=expires, mark=f"rayslurm-{self.instance}-{token}")

        def change(lines: list[str]) -> list[str]:
            return [*(one for one in lines if self._token(one) != token), line]

        self._edit(change)

    def remove(self, tokens: Collection[str]) -> list[str]:
        """Removes our lines of these jobs.

        Returns:
            The tokens of the lines that went.

        Raises:
            StoreError: the file can't be read or written.
        """
        gone = [token for token in self.tokens() if token in tokens]
        if gone:
            self._edit(lambda lines: [line for line in lines if self._token(line) not in gone])
        return gone

    def tokens(self) -> list[str]:
        """Returns the tokens of our lines.

        Raises:
            StoreError: the file can't be read.
        """
        return [token for line in self._lines() if (token := self._token(line)) is not None]

    def _token(self, line: str) -> str | None:
        found = _MARK.search(line.rstrip())
        return found[2] if found and found[1] == self.instance else None

    def _lines(self) -> list[str]:
        try:
            return _split(self.path.read_bytes())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be read: {error.strerror}") from None

    def _edit(self, change: Callable[[list[str]], list[str]]) -> None:
        path = Path(os.path.realpath(self.path))
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _locked(path):
                for _ in range(_ATTEMPTS):
                    if _replaced(path, change):
                        return
        except OSError as error:
            raise StoreError(
                f"{self.path}: cannot be written: {error.strerror}; rayslurm must be allowed to, or the keys must "
                "be managed by you (vm.identity_file)"
            ) from None
        raise StoreError(f"{self.path}: something else goes on changing it; try again")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keeps other rayslurms out meanwhile."""
    descriptor = os.open(path.with_name(f".{path.name}.rayslurm-lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replaced(path: Path, change: Callable[[list[str]], list[str]]) -> bool:
    """Replaces a file by what is made of it; False where somebody else changed it meanwhile."""
    before = _facts(path)
    content = path.read_bytes() if before is not None else b""
    new = path.with_name(f".{path.name}.rayslurm-new")
    mode = before.st_mode & 0o777 if before is not None else 0o600
    with suppress(FileNotFoundError):
        new.unlink()
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        owner = before or path.parent.stat()
        if (owner.st_uid, owner.st_gid) != (os.geteuid(), os.getegid()):
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        file.write("".join(f"{line}\n" for line in change(_split(content))).encode("utf-8", "surrogateescape"))
        file.flush()
        os.fsync(descriptor)
    now = _facts(path)
    if _same(before, now):
        new.replace(path)
        return True
    new.unlink()
    return False


def _facts(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _same(before: os.stat_result | None, now: os.stat_result | None) -> bool:
    if before is None or now is None:
        return before is now
    return (before.st_ino, before.st_size, before.st_mtime_ns) == (now.st_ino, now.st_size, now.st_mtime_ns)


def _split(content: bytes) -> list[str]:
    """Returns the lines; whatever bytes are in them come back out of `encode` with surrogateescape."""
    text = content.decode("utf-8", "surrogateescape")
    return text.removesuffix("\n").split("\n") if text else []
