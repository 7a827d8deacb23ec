"""The way to a site over SSH, with paramiko.

One session is kept. Every operation has a deadline that holds whatever paramiko waits for: a watchdog closes the
session, which wakes all its waiters. Nothing is trusted on first sight, and a login that failed is not repeated here.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import paramiko

from exporter.client.commands import Shell
from exporter.client.credentials import AgentError, candidate_keys, silent_agent
from exporter.client.hostkeys import known_name, pinned_keys
from exporter.client.sftp import fetch_files, make_folder, make_folders, read_file, with_file, write_files
from exporter.client.transport import Answer, RemoteContent, RemoteFile, RemoteFound, RemoteStream, RemoteTail
from exporter.client.watchdog import Watchdog
from exporter.errors import (
    AnswerError,
    AuthError,
    ConnectError,
    DeadlineError,
    HostKeyError,
    SessionLostError,
    SiteError,
)

MAX_OUTPUT_BYTES = 32 * 1024 * 1024
"""More than this is no answer to anything that rayslurm asks."""

_KEEPALIVE_SECONDS = 60

_CHANNEL_SECONDS = 10.0
"""How long a kept session may take to accept a command; a dead one accepts none."""

ResultT = TypeVar("ResultT")

# paramiko logs what it raises as well, with tracebacks; what matters is in our errors.
logging.getLogger("paramiko").setLevel(logging.CRITICAL)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A host to log in to.

    Attributes:
        host_key_alias: the name to look up in known_hosts; None for the host itself.
    """

    host: str
    port: int
    user: str
    host_key_alias: str | None = None

    def __str__(self) -> str:
        return f"{self.user}@{known_name(self.host, self.port)}"


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
        self._known_hosts = known_hosts
        self._key = key
        self._agent = agent
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
                    sock = self._login(endpoint, sock, ends, following)
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

    def read_many(self, paths: Sequence[str], max_bytes: int, deadline: float) -> dict[str, RemoteContent]:
        """See `Transport.read_many`."""

        def read(sftp: paramiko.SFTPClient, watchdog: Watchdog) -> dict[str, RemoteContent]:
            found = {}
            for path in paths:
                try:
                    found[path] = read_file(sftp, path, max_bytes)
                except OSError:  # one that its file system fails to give, such as with ESTALE, costs itself alone
                    if not self.connected():
                        raise
                watchdog.feed()
            return found

        return self._with_sftp(read, deadline, f"reading {len(paths)} files")

    def fetch(
        self, folder: str, names: Sequence[str], receive: Callable[[str, RemoteFound], None], deadline: float
    ) -> None:
        """See `Transport.fetch`."""
        self._with_sftp(
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

    def _login(
        self, endpoint: Endpoint, sock: socket.socket | paramiko.Channel | None, ends: float, following: Endpoint | None
    ) -> paramiko.Channel | None:
        """Logs in to one host; returns a channel to the following one where there is one."""
        name = endpoint.host_key_alias or known_name(endpoint.host, endpoint.port)
        pinned = pinned_keys(self._known_hosts, name)
        if not pinned.accepted:
            raise HostKeyError(
                f"{name} is not in {self._known_hosts}; put its key there after comparing it with the published one"
            )
        session = _Session(sock or _dial(endpoint, ends))
        self._sessions.append(session)
        timeout = max(ends - time.monotonic(), 0.1)
        session.banner_timeout = session.auth_timeout = session.channel_timeout = timeout
        options = session.get_security_options()
        wanted = {algorithm for kind in pinned.types for algorithm in _algorithms(kind)}
        options.key_types = [kind for kind in options.key_types if kind in wanted] or options.key_types
        try:
            session.start_client(timeout=timeout)
        except paramiko.ssh_exception.IncompatiblePeer as error:
            if "host key" not in str(error):
                raise
            raise HostKeyError(
                f"{name}: has no key of a type in {self._known_hosts} ({', '.join(sorted(pinned.types))}); somebody "
                "may be between you, or the site has new keys: compare with the published ones before you change "
                "anything"
            ) from None
        offered = session.get_remote_server_key()
        if offered in pinned.revoked:
            raise HostKeyError(f"{name}: its key {offered.fingerprint} is marked @revoked in {self._known_hosts}")
        if offered not in pinned.accepted:
            raise HostKeyError(
                f"{name}: its key {offered.fingerprint} is not the one in {self._known_hosts}; somebody may be between "
                "you, or the site has new keys: compare with the published ones before you change anything"
            )
        self._authenticate(session, endpoint, ends)
        session.set_keepalive(_KEEPALIVE_SECONDS)
        if following is None:
            return None
        return session.open_channel("direct-tcpip", (following.host, following.port), ("127.0.0.1", 0), timeout=timeout)

    def _authenticate(self, session: _Session, endpoint: Endpoint, ends: float) -> None:
        refused: list[str] = []
        patience = max((ends - time.monotonic()) / 2, 0.1)
        with closing(candidate_keys(self._key, agent=self._agent, seconds=patience)) as candidates:
            for label, key in candidates:
                try:
                    still_wanted = session.auth_publickey(endpoint.user, key)
                except paramiko.BadAuthenticationType as error:
                    raise AuthError(f"{endpoint}: takes no keys, only {', '.join(error.allowed_types)}") from None
                except AgentError as error:
                    raise silent_agent(error) from None
                except paramiko.SSHException as error:
                    if session.is_active():
                        refused.append(label)
                        continue
                    if "authentication failures" in session.farewell:  # sshd hangs up after too many keys
                        refused.append(label)
                    if refused:
                        break
                    raise ConnectError(f"{endpoint}: the connection ended during the login: {error}") from None
                if still_wanted:
                    raise AuthError(f"{endpoint}: wants {', '.join(still_wanted)} after the key, which needs a person")
                return
        raise AuthError(f"{endpoint}: did not accept {', '.join(refused)}")

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


class _Session(paramiko.Transport):
    """A session that keeps what the server said when it hung up."""

    farewell = ""

    def _parse_disconnect(self, message: paramiko.Message) -> None:
        message.get_int()
        self.farewell = message.get_text()


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


def _dial(endpoint: Endpoint, ends: float) -> socket.socket:
    """Connects to the first of a host's addresses that answers before the time is up."""
    failure: OSError | None = None
    found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    for number, (family, kind, protocol, _, address) in enumerate(found):
        remaining = ends - time.monotonic()
        if remaining <= 0:
            break
        sock = socket.socket(family, kind, protocol)
        sock.settimeout(remaining / (len(found) - number))  # a silent one leaves time for the others
        try:
            sock.connect(address)
        except OSError as error:
            sock.close()
            failure = error
            continue
        # What we send is waited for: else the last bytes of each message wait for an acknowledgement of the first.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock
    raise failure or TimeoutError(f"no address of {endpoint.host} answered")


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


def _algorithms(key_type: str) -> tuple[str, ...]:
    """Returns the signature algorithms that prove a host key of that type."""
    return ("rsa-sha2-512", "rsa-sha2-256") if key_type == "ssh-rsa" else (key_type,)
