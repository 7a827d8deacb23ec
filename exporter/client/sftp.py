"""Files at a site over SFTP. Each function works within a session that its caller guards with a deadline."""

from __future__ import annotations

import posixpath
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import paramiko

from exporter.client.transport import PIECE_BYTES, RemoteContent, RemoteFile, RemoteFound, RemoteStream

_IN_FLIGHT = 64
"""Pieces of a file that may be on their way at a time, 2 MiB: else each waits for the answer to the one before."""

ResultT = TypeVar("ResultT")


def make_folder(sftp: paramiko.SFTPClient, path: str) -> str:
    """Makes a folder for the user alone, with those above it; returns its absolute path."""
    absolute = posixpath.join(sftp.normalize("."), path)
    parts = absolute.strip("/").split("/")
    for number in range(1, len(parts) + 1):
        folder = "/" + "/".join(parts[:number])
        try:
            sftp.stat(folder)
        except FileNotFoundError:
            sftp.mkdir(folder, 0o700)
    return absolute


def make_folders(sftp: paramiko.SFTPClient, folder: str, names: Sequence[str], alive: Callable[[], None]) -> None:
    """Makes folders in a folder for the user alone; `alive` is told when one is there, or was there before."""
    for name in names:
        path = posixpath.join(folder, name)
        try:
            sftp.mkdir(path, 0o700)
        except OSError:  # all that SFTP says of one that is there is that it failed
            if not _is_folder(sftp, path):
                raise
        alive()


def _is_folder(sftp: paramiko.SFTPClient, path: str) -> bool:
    try:
        return stat.S_ISDIR(sftp.stat(path).st_mode or 0)
    except FileNotFoundError:
        return False


def write_files(
    sftp: paramiko.SFTPClient,
    folder: str,
    files: Mapping[str, RemoteFile | RemoteStream],
    written: Callable[[str], None],
    alive: Callable[[], None],
) -> None:
    """Writes files into a folder; tells the name of each that was written, and `alive` whenever the site has more."""
    for name, file in files.items():
        _write_file(sftp, posixpath.join(folder, name), file, alive)
        written(name)
        alive()


def _write_file(
    sftp: paramiko.SFTPClient, path: str, file: RemoteFile | RemoteStream, alive: Callable[[], None]
) -> None:
    size = 0
    with sftp.open(path, "w") as remote:
        remote.chmod(file.mode)
        remote.set_pipelined()
        for piece in file.pieces():
            remote.write(piece)
            size += len(piece)
            _heed(sftp, remote, _IN_FLIGHT, alive)
        _heed(sftp, remote, 0, alive)
    found = sftp.stat(path).st_size  # paramiko says nothing of a close that failed
    if found != size:
        raise OSError(f"{path} has {found} bytes there instead of {size}; is the disk or your quota full?")


def _heed(sftp: Any, remote: Any, most: int, alive: Callable[[], None]) -> None:
    """Reads what became of writes until only so many are on their way; raises what went wrong with one.

    By itself paramiko never looks at that once writes are pipelined.
    """
    answers = remote._reqs  # noqa: SLF001 - see above
    while len(answers) > most or (answers and sftp.get_channel().recv_ready()):
        kind, _ = sftp._read_response(answers.popleft())  # noqa: SLF001
        if kind != paramiko.sftp.CMD_STATUS:
            raise paramiko.SFTPError("something else than a status came back")
        alive()


def read_file(sftp: paramiko.SFTPClient, path: str, max_bytes: int) -> RemoteContent:
    """Reads a file from its start.

    Raises:
        FileNotFoundError: there is no such file that we may read.
    """
    return with_file(sftp, path, _reading(max_bytes))


def read_present(sftp: paramiko.SFTPClient, path: str, max_bytes: int) -> RemoteContent:
    """Reads a file from its start, and tells one that isn't there from one that can't be read.

    Raises:
        FileNotFoundError: the site says that there is no such file.
        OSError: it may be there, and could not be read: its file system fails, or we may not.
    """
    return _with_present(sftp, path, _reading(max_bytes))


def with_file(
    sftp: paramiko.SFTPClient, path: str, work: Callable[[paramiko.SFTPFile, paramiko.SFTPAttributes], ResultT]
) -> ResultT:
    """Does something with a file and what is known of it.

    Raises:
        FileNotFoundError: there is no such file that we may read.
    """
    try:
        return _with_present(sftp, path, work)
    except PermissionError:
        raise FileNotFoundError(path) from None


def _with_present(
    sftp: paramiko.SFTPClient, path: str, work: Callable[[paramiko.SFTPFile, paramiko.SFTPAttributes], ResultT]
) -> ResultT:
    facts = sftp.stat(path)
    if not stat.S_ISREG(facts.st_mode or 0):
        raise FileNotFoundError(path)
    with sftp.open(path, "r") as remote:
        return work(remote, facts)


def _reading(max_bytes: int) -> Callable[[paramiko.SFTPFile, paramiko.SFTPAttributes], RemoteContent]:
    return lambda remote, facts: RemoteContent(bytes(remote.read(max_bytes)), facts.st_mtime)


def fetch_files(
    sftp: paramiko.SFTPClient,
    folder: str,
    names: Sequence[str],
    receive: Callable[[str, RemoteFound], None],
    alive: Callable[[], None],
) -> dict[str, str]:
    """Hands out the user's own plain files of a folder; `alive` is told whenever some of one has come.

    Returns:
        Why those that may be there could not be read, by name.
    """
    failed: dict[str, str] = {}
    try:
        top, owner = sftp.normalize(folder), sftp.stat(folder).st_uid
    except (FileNotFoundError, PermissionError):
        return failed
    for name in names:
        path = posixpath.join(folder, name)
        try:
            facts = sftp.lstat(path)
            if not stat.S_ISREG(facts.st_mode or 0) or facts.st_uid != owner:
                continue
            if not sftp.normalize(path).startswith(f"{top}/"):  # a link on the way leads out of the folder
                continue
            remote = sftp.open(path, "r")
        except OSError as error:  # one that its file system fails to give, such as with ESTALE, costs itself alone
            if not isinstance(error, FileNotFoundError):
                failed[name] = reason(error)
            alive()
            continue
        with remote:
            receive(name, RemoteFound(facts.st_size or 0, facts.st_mtime, _reader(remote, facts.st_size or 0, alive)))
        alive()
    return failed


def reason(error: OSError) -> str:
    """Returns in the site's words why a file could not be read."""
    return error.strerror or str(error) or type(error).__name__


def _reader(remote: paramiko.SFTPFile, size: int, alive: Callable[[], None]) -> Callable[[int, int], Iterator[bytes]]:
    def pieces(begin: int, length: int) -> Iterator[bytes]:
        ends = min(begin + length, size)
        for window in range(begin, ends, PIECE_BYTES * _IN_FLIGHT):
            until = min(window + PIECE_BYTES * _IN_FLIGHT, ends)
            asked = [(offset, min(PIECE_BYTES, until - offset)) for offset in range(window, until, PIECE_BYTES)]
            for piece in remote.readv(asked):
                alive()
                yield bytes(piece)

    return pieces
