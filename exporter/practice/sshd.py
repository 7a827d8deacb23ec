"""An SSH server on loopback for one user and one key: commands by /bin/sh, files by SFTP. No root, no account."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import paramiko

ResultT = TypeVar("ResultT")

_COMMAND_SECONDS = 60


@dataclass(frozen=True)
class Host:
    """What is behind the server.

    Attributes:
        user: who may log in.
        key: with what.
        home: where a session starts.
        environment: what commands see.
        elsewhere: paths that lie somewhere else on this machine, by how they begin.
    """

    user: str
    key: paramiko.PKey
    home: Path
    environment: Mapping[str, str]
    elsewhere: Mapping[str, Path]

    def real(self, path: str) -> str:
        """Returns where a path of the site lies on this machine."""
        for begins, folder in self.elsewhere.items():
            if path.startswith(begins):
                return f"{folder}{path.removeprefix(begins)}"
        return path


class SshServer:
    """Listens on a free port of loopback from `start` until `stop`, and on the same again when it is started again.

    Args:
        host: what is behind it.
    """

    def __init__(self, host: Host) -> None:
        self.host_key = paramiko.ECDSAKey.generate()
        self._host = host
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._transports: list[paramiko.Transport] = []
        self._thread: threading.Thread | None = None

    @property
    def known_hosts_line(self) -> str:
        """The line that pins its key."""
        return f"[127.0.0.1]:{self.port} {self.host_key.get_name()} {self.host_key.get_base64()}"

    def start(self) -> None:
        """Begins to listen.

        Raises:
            OSError: something else has taken its port meanwhile.
        """
        if self._listener.fileno() < 0:
            self._listener = socket.create_server(("127.0.0.1", self.port))
        self._thread = threading.Thread(
            target=self._accept, args=(self._listener,), name=f"practice-sshd-{self.port}", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Ends all sessions, and listens no more."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        if self._thread is not None:
            self._thread.join(5)
        for transport in self._transports:
            transport.close()
        self._transports.clear()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # stopped
                return
            transport = paramiko.Transport(connection)
            transport.add_server_key(self.host_key)
            transport.set_subsystem_handler("sftp", paramiko.SFTPServer, _Files, self._host)
            self._transports.append(transport)
            with suppress(paramiko.SSHException, EOFError):
                transport.start_server(server=_Session(self._host), event=threading.Event())


class _Session(paramiko.ServerInterface):
    def __init__(self, host: Host) -> None:
        self._host = host

    def get_allowed_auths(self, username: str) -> str:
        del username
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        if username == self._host.user and key == self._host.key:
            return int(paramiko.common.AUTH_SUCCESSFUL)
        return int(paramiko.common.AUTH_FAILED)

    def check_channel_request(self, kind: str, chanid: int) -> int:
        del chanid
        if kind == "session":
            return int(paramiko.common.OPEN_SUCCEEDED)
        return int(paramiko.common.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED)

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        threading.Thread(target=self._run, args=(channel, command.decode()), daemon=True).start()
        return True

    def _run(self, channel: paramiko.Channel, command: str) -> None:
        with suppress(OSError, EOFError):
            try:
                done = subprocess.run(
                    ["/bin/sh", "-c", command],
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    cwd=self._host.home,
                    env=dict(self._host.environment),
                    timeout=_COMMAND_SECONDS,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                channel.close()
                return
            channel.sendall(done.stdout)
            channel.sendall_stderr(done.stderr)
            channel.send_exit_status(done.returncode)
            channel.close()


class _Files(paramiko.SFTPServerInterface):
    """The files of this machine that the user of the practice site may see anyhow."""

    def __init__(self, server: paramiko.ServerInterface, host: Host) -> None:
        super().__init__(server)
        self._host = host

    def canonicalize(self, path: str) -> str:
        """Returns a path from the root; what is relative starts at the home."""
        return os.path.normpath(self._host.home / path)

    def stat(self, path: str) -> paramiko.SFTPAttributes | int:
        """Returns what is known of a file."""
        return _try(lambda: paramiko.SFTPAttributes.from_stat(Path(self._host.real(path)).stat()))

    def lstat(self, path: str) -> paramiko.SFTPAttributes | int:
        """The same of a link itself."""
        return _try(lambda: paramiko.SFTPAttributes.from_stat(Path(self._host.real(path)).lstat()))

    def mkdir(self, path: str, attr: paramiko.SFTPAttributes) -> int:
        """Makes a folder."""
        mode = 0o777 if attr.st_mode is None else attr.st_mode
        return _done(lambda: Path(self._host.real(path)).mkdir(mode))

    def posix_rename(self, oldpath: str, newpath: str) -> int:
        """Gives a file another name."""
        return _done(lambda: Path(self._host.real(oldpath)).rename(self._host.real(newpath)))

    def chattr(self, path: str, attr: paramiko.SFTPAttributes) -> int:
        """Changes a file's mode."""
        return _done(lambda: paramiko.SFTPServer.set_file_attr(self._host.real(path), attr))

    def open(self, path: str, flags: int, attr: paramiko.SFTPAttributes) -> paramiko.SFTPHandle | int:
        """Opens a file."""
        mode = 0o666 if attr.st_mode is None else attr.st_mode

        def handle() -> paramiko.SFTPHandle:
            descriptor = os.open(self._host.real(path), flags, mode)
            file = os.fdopen(descriptor, "wb" if flags & (os.O_WRONLY | os.O_RDWR) else "rb")
            return _File(flags, file, self._host.real(path))

        return _try(handle)


class _File(paramiko.SFTPHandle):
    def __init__(self, flags: int, file: object, path: str) -> None:
        super().__init__(flags)
        self.readfile = self.writefile = file
        self._path = path

    def stat(self) -> paramiko.SFTPAttributes | int:
        return _try(lambda: paramiko.SFTPAttributes.from_stat(Path(self._path).stat()))

    def chattr(self, attr: paramiko.SFTPAttributes) -> int:
        return _done(lambda: paramiko.SFTPServer.set_file_attr(self._path, attr))


def _try(work: Callable[[], ResultT]) -> ResultT | int:
    try:
        return work()
    except OSError as error:
        return int(paramiko.SFTPServer.convert_errno(error.errno or errno.EIO))


def _done(work: Callable[[], object]) -> int:
    result = _try(work)
    return result if isinstance(result, int) and result else int(paramiko.sftp.SFTP_OK)
