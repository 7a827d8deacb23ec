"""The way to a site over SSH, with paramiko.

One session is kept. Every operation has a deadline that holds whatever paramiko waits for: a watchdog closes the
session, which wakes all its waiters. Nothing is trusted on first sight, and a login that failed is not repeated here.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import paramiko

from exporter.client.commands import Shell
from exporter.client.login import Credentials, Endpoint, channel_to, log_in
from exporter.client.sftp import (
    fetch_files,
    make_folder,
    make_folders,
    read_file,
    read_present,
    reason,
    with_file,
    write_files,
)
from exporter.client.transport import (
    Answer,
    RemoteContent,
    RemoteFile,
    RemoteFiles,
    RemoteFound,
    RemoteStream,
    RemoteTail,
)
from exporter.client.watchdog import Watchdog
from exporter.errors import (
    AnswerError,
    ConnectError,
    DeadlineError,
    SessionLostError,
    SiteError,
)

MAX_OUTPUT_BYTES = 32 * 1024 * 1024
"""More than this is no answer to anything that rayslurm asks."""

_CHANNEL_SECONDS = 10.0
"""How long a kept session may take to accept a command; a dead one accepts none."""

ResultT = TypeVar("ResultT")


class SshTransport(Shell):
    """A session with a login node.

    Args:
        endpoints: the hosts to go through, the login node last.
        known_hosts: the file with pinned host keys.
        key: a private key, used with the certificate beside it; None for the agent's keys.
        agent: whether the agent may be asked.
    """

    def __init__(self, endpoints: list[Endpoint], *, known_hosts: Path, key: Path | None, agent: bool) -> None:
        self._endpoints = endpoints
        self._credentials = Credentials(known_hosts, key, agent)
        self._sessions: list[paramiko.Transport] = []

    def connected(self) -> bool:
        """See `Transport.connected`."""
        return bool(self._sessions) and all(session.is_active() for session in self._sessions)

    def connect(self, deadline: float) -> bool:
        """See `Transport.connect`."""
        if self.connected():
            return False
        self.close()
        ends = time.monotonic() + deadline
        sock: socket.socket | paramiko.Channel | None = None
        timed_out = threading.Event()
        for number, endpoint in enumerate(self._endpoints):
            following = self._endpoints[number + 1] if number + 1 < len(self._endpoints) else None
            try:
                with self._watchdog(ends - time.monotonic(), timed_out):
                    session = log_in(endpoint, self._credentials, sock, ends=ends, begun=self._sessions.append)
                    sock = channel_to(following, session, ends) if following is not None else None
            except Exception as error:
                self.close()
                if timed_out.is_set() or isinstance(error, TimeoutError):  # the timer ended it, not the site
                    raise ConnectError(f"{endpoint}: no answer within {deadline:g} s") from None
                if isinstance(error, SiteError):
                    raise
                raise ConnectError(f"{endpoint}: {str(error) or type(error).__name__}") from None
        return True

    def run(self, command: str, deadline: float) -> Answer:
        """See `Transport.run`."""

        def execute(session: paramiko.Transport, _: Watchdog) -> Answer:
            channel = self._open_channel(session)
            started = time.monotonic()
            try:
                channel.exec_command(command)
                channel.shutdown_write()
                errors = _Drain(channel.recv_stderr)
                stdout = _drain(channel.recv)
                if len(stdout) >= MAX_OUTPUT_BYTES:
                    raise AnswerError(
                        f"more than {MAX_OUTPUT_BYTES} bytes came back from: {command[:80]}", "answer_too_large"
                    )
                stderr = errors.result()
                status = channel.recv_exit_status()
            finally:
                channel.close()
            # The exit status may come before the last of the output: only the end of the stream says that it is whole.
            if status < 0 or not channel.eof_received:
                raise SessionLostError(f"the session ended before the command did: {command[:80]}")
            return Answer(command, _text(stdout), _text(stderr), status, time.monotonic() - started)

        return self._guarded(execute, deadline, command[:80])

    def make_folder(self, path: str, deadline: float) -> str:
        """See `Transport.make_folder`."""
        return self._with_sftp(lambda sftp, _: make_folder(sftp, path), deadline, f"making {path}")

    def write(
        self,
        folder: str,
        files: Mapping[str, RemoteFile | RemoteStream],
        deadline: float,
        *,
        folders: Sequence[str] = (),
        written: Callable[[str], None] = lambda _: None,
    ) -> None:
        """See `Transport.write`."""
        what = f"writing to {folder}"

        def write(sftp: paramiko.SFTPClient, watchdog: Watchdog) -> None:
            make_folders(sftp, folder, folders, watchdog.feed)
            write_files(sftp, folder, files, written, watchdog.feed)

        try:
            self._with_sftp(write, deadline, what)
        except FileNotFoundError:
            raise SiteError(f"{self._endpoints[-1]}: {what}: there is no such folder") from None

    def rename(self, path: str, new_path: str, deadline: float) -> None:
        """See `Transport.rename`."""
        self._with_sftp(lambda sftp, _: sftp.posix_rename(path, new_path), deadline, f"renaming {path}")

    def read(self, path: str, max_bytes: int, deadline: float) -> RemoteContent:
        """See `Transport.read`."""
        return self._with_sftp(lambda sftp, _: read_file(sftp, path, max_bytes), deadline, f"reading {path}")

    def read_many(self, paths: Sequence[str], max_bytes: int, deadline: float) -> RemoteFiles:
        """See `Transport.read_many`."""

        def read(sftp: paramiko.SFTPClient, watchdog: Watchdog) -> RemoteFiles:
            found, failed = {}, {}
            for path in paths:
                try:
                    found[path] = read_present(sftp, path, max_bytes)
                except FileNotFoundError:
                    pass
                except OSError as error:  # one that its file system fails to give, such as with ESTALE
                    if not self.connected():
                        raise
                    failed[path] = reason(error)
                watchdog.feed()
            return RemoteFiles(found, failed)

        return self._with_sftp(read, deadline, f"reading {len(paths)} files")

    def fetch(
        self, folder: str, names: Sequence[str], receive: Callable[[str, RemoteFound], None], deadline: float
    ) -> dict[str, str]:
        """See `Transport.fetch`."""
        return self._with_sftp(
            lambda sftp, watchdog: fetch_files(sftp, folder, names, receive, watchdog.feed),
            deadline,
            f"fetching {folder}",
        )

    def tail(self, path: str, max_bytes: int, deadline: float) -> RemoteTail:
        """See `Transport.tail`."""

        def read(remote: paramiko.SFTPFile, facts: paramiko.SFTPAttributes) -> RemoteTail:
            size = facts.st_size or 0
            remote.seek(max(0, size - max_bytes))
            return RemoteTail(bytes(remote.read(max_bytes)), size)

        return self._with_sftp(lambda sftp, _: with_file(sftp, path, read), deadline, f"reading {path}")

    def close(self) -> None:
        """See `Transport.close`."""
        for session in reversed(self._sessions):
            session.close()
        self._sessions.clear()

    def _open_channel(self, session: paramiko.Transport) -> paramiko.Channel:
        """Opens a channel for one command; where that fails nothing was sent, and the session is given up."""
        try:
            return session.open_session(timeout=_CHANNEL_SECONDS)
        except (OSError, EOFError, paramiko.SSHException) as error:
            self.close()
            raise ConnectError(f"{self._endpoints[-1]}: the session takes no further command: {error}") from None

    def _with_sftp(
        self, work: Callable[[paramiko.SFTPClient, Watchdog], ResultT], deadline: float, what: str
    ) -> ResultT:
        def transfer(session: paramiko.Transport, watchdog: Watchdog) -> ResultT:
            channel = self._open_channel(session)
            try:
                channel.invoke_subsystem("sftp")
                with paramiko.SFTPClient(channel) as sftp:
                    return work(sftp, watchdog)
            finally:
                channel.close()

        return self._guarded(transfer, deadline, what)

    def _guarded(self, work: Callable[[paramiko.Transport, Watchdog], ResultT], deadline: float, what: str) -> ResultT:
        """Does something over the session within the deadline; a session that fails is closed."""
        here = self._endpoints[-1]
        if not self._sessions:
            raise ConnectError(f"{here}: not connected")
        session = self._sessions[-1]
        timed_out = threading.Event()
        try:
            with self._watchdog(deadline, timed_out) as watchdog:
                result = work(session, watchdog)
        except FileNotFoundError:
            raise
        except (OSError, EOFError, paramiko.SSHException, paramiko.SFTPError, SessionLostError) as error:
            if isinstance(error, paramiko.SFTPError):
                self.close()
                raise SiteError(
                    f"{here}: {what}: {error}; does your shell print something at its start, also without a terminal?"
                ) from None
            if not timed_out.is_set() and isinstance(error, OSError) and session.is_active():
                raise SiteError(f"{here}: {what}: {_reason(error)}") from None
            self.close()
            if not timed_out.is_set():
                raise SessionLostError(f"{here}: the session broke: {what}: {error}") from None
        if timed_out.is_set():
            self.close()
            raise DeadlineError(f"{here}: no answer within {deadline:g} s: {what}")
        return result

    @contextmanager
    def _watchdog(self, seconds: float, fired: threading.Event) -> Iterator[Watchdog]:
        def abort() -> None:
            fired.set()
            for session in list(self._sessions):
                session.close()

        watchdog = Watchdog(max(seconds, 0), abort)
        watchdog.start()
        try:
            yield watchdog
        finally:
            watchdog.cancel()


class _Drain:
    """Reads one stream to its end beside the other, so that neither can fill up and stop the command."""

    def __init__(self, receive: Callable[[int], bytes]) -> None:
        self._content = b""
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._read, args=(receive,), daemon=True)
        self._thread.start()

    def _read(self, receive: Callable[[int], bytes]) -> None:
        try:
            self._content = _drain(receive)
        except Exception as error:  # noqa: BLE001 - handed to the thread that waits
            self._error = error

    def result(self) -> bytes:
        """Returns the stream's content when it has ended."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._content


def _reason(error: OSError) -> str:
    if str(error) == "Failure":  # all that SFTP says
        return "the site could not do it; is the disk or your quota full?"
    return error.strerror or str(error) or type(error).__name__


def _drain(receive: Callable[[int], bytes]) -> bytes:
    content = bytearray()
    while len(content) < MAX_OUTPUT_BYTES and (chunk := receive(1 << 16)):
        content += chunk
    return bytes(content)


def _text(content: bytes) -> str:
    return content.decode("utf-8", errors="backslashreplace")
