"""A real OpenSSH server on a free port of the loopback, and a relay in front of it that breaks what passes through."""

from __future__ import annotations

import os
import pwd
import queue
import selectors
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.prometheus_server import free_port, program, wait_until

HOST = "127.0.0.1"
USER = pwd.getpwuid(os.getuid()).pw_name
"""Who the sessions belong to: whoever runs the tests, so that no account has to be made."""


@dataclass(frozen=True, slots=True)
class Sshd:
    """A running server.

    Attributes:
        home: what the sessions have for their home.
        key: the private key that it accepts.
        host_key: its public key as known_hosts has it, type and base64.
        log: what it wrote.
    """

    port: int
    home: Path
    key: Path
    host_key: str
    log: Path

    def known_hosts(self, path: Path, port: int | None = None) -> Path:
        """Writes a known_hosts file that pins the server's key under a port, its own if none is given."""
        path.write_text(f"[{HOST}]:{port or self.port} {self.host_key}\n")
        return path


def make_key(path: Path, *, passphrase: str = "") -> Path:
    """Makes an Ed25519 key, the public half beside it."""
    subprocess.run(
        [program("ssh-keygen"), "-q", "-t", "ed25519", "-N", passphrase, "-C", path.name, "-f", path], check=True
    )
    return path


def public_key(path: Path) -> str:
    """Returns the type and the base64 of the public half of a key."""
    return " ".join(path.with_name(path.name + ".pub").read_text().split()[:2])


@contextmanager
def sshd_server(folder: Path, *options: str) -> Iterator[Sshd]:
    """Runs OpenSSH's sshd.

    Args:
        folder: an empty folder for its keys, its configuration and the home of the sessions.
        options: lines for sshd_config; the first of a kind counts, so they go before the usual ones.

    Yields:
        The server, which accepts logins.

    Raises:
        RuntimeError: it ended by itself; with what it wrote.
    """
    sshd = program("/usr/sbin/sshd")  # which insists on being called by its whole path
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # as its service does at the start
    home = folder / "home"
    home.mkdir(parents=True)
    host_key, key = make_key(folder / "host"), make_key(folder / "id")
    config, log, port = folder / "sshd_config", folder / "sshd.log", free_port()
    usual = (
        f"Port {port}",
        f"ListenAddress {HOST}",
        f"HostKey {host_key}",
        f"AuthorizedKeysFile {key}.pub",
        "PidFile none",
        "StrictModes no",
        "UsePAM no",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "PermitRootLogin prohibit-password",
        "MaxStartups 100",
        "LogLevel VERBOSE",
        "Subsystem sftp /usr/lib/openssh/sftp-server",
        f"SetEnv HOME={home}",
    )
    config.write_text("\n".join((*options, *usual)) + "\n")
    server = Sshd(port=port, home=home, key=key, host_key=public_key(host_key), log=log)
    with (
        log.open("wb") as output,
        subprocess.Popen([sshd, "-D", "-e", "-f", config], stdin=subprocess.DEVNULL, stderr=output) as process,
    ):

        def listening() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"sshd ended with {process.returncode}:\n{log.read_text(errors='replace')}")
            return "Server listening" in log.read_text(errors="replace")

        try:
            wait_until(listening, "sshd listens")
            yield server
        finally:
            process.terminate()


@contextmanager
def ssh_agent(folder: Path, keys: Sequence[Path]) -> Iterator[Path]:
    """Runs OpenSSH's agent with these keys; yields its socket."""
    path = folder / "agent"
    command = [program("ssh-agent"), "-D", "-a", str(path)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        try:
            wait_until(path.exists, "the agent listens")
            environment = {**os.environ, "SSH_AUTH_SOCK": str(path)}
            subprocess.run([program("ssh-add"), "-q", *keys], env=environment, check=True)
            yield path
        finally:
            process.terminate()


class Relay:
    """A way to a port that lets through what it is told to.

    Attributes:
        port: where it listens.
        accepted: how many connections there were.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self.accepted = 0
        self._lines: list[_Line] = []
        self._first_limits: list[tuple[int | None, int | None]] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        for line in self._lines:
            line.end()

    def cut_next(self, *, sent: int | None = None, received: int | None = None) -> None:
        """Makes the next connection end when the client has sent, or received, so many bytes."""
        self._first_limits.append((sent, received))

    def cut(self, *, sent: int | None = None, received: int | None = None) -> None:
        """Makes the newest connection end after so many more bytes."""
        self._lines[-1].limit(sent, received)

    def hang_up(self) -> None:
        """Ends the newest connection."""
        self._lines[-1].end()

    def silence(self) -> None:
        """Lets nothing more through on the newest connection, and keeps it open."""
        self._lines[-1].silence()

    def slow(self, bytes_per_second: float) -> None:
        """Lets no more through on the newest connection than so many bytes a second in each direction."""
        self._lines[-1].bytes_per_second = bytes_per_second

    def far(self, seconds: float) -> None:
        """Holds back each answer on the newest connection for so long."""
        self._lines[-1].seconds_away = seconds

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            limits = self._first_limits.pop(0) if self._first_limits else (None, None)
            self._lines.append(_Line(client, socket.create_connection((HOST, self._target)), limits))
            self.accepted += 1


class _Line:
    """One connection through a relay."""

    def __init__(self, client: socket.socket, server: socket.socket, limits: tuple[int | None, int | None]) -> None:
        self._sockets = (client, server)
        self._lock = threading.Lock()
        self._left: dict[socket.socket, int | None] = {}
        self.limit(*limits)
        self.bytes_per_second: float | None = None
        self.seconds_away = 0.0
        self._late: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
        self._silent = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._pass_on, daemon=True)
        self._thread.start()
        threading.Thread(target=self._pass_late, daemon=True).start()

    def limit(self, sent: int | None, received: int | None) -> None:
        with self._lock:
            self._left = dict(zip(self._sockets, (sent, received), strict=True))

    def silence(self) -> None:
        self._silent.set()

    def end(self) -> None:
        self._ended.set()
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def _pass_on(self) -> None:
        client, server = self._sockets
        with client, server, selectors.DefaultSelector() as selector, suppress(OSError):
            selector.register(client, selectors.EVENT_READ, server)
            selector.register(server, selectors.EVENT_READ, client)
            while not self._ended.is_set():
                for ready, _ in selector.select():
                    source = client if ready.fileobj is client else server
                    data = source.recv(1 << 14)
                    if self.bytes_per_second:
                        time.sleep(len(data) / self.bytes_per_second)
                    if self._silent.is_set():
                        self._ended.wait()
                        return
                    if data and source is server and self.seconds_away:
                        self._late.put((time.monotonic() + self.seconds_away, data))
                        continue
                    if not data or not self._pass_one(source, ready.data, data):
                        return

    def _pass_late(self) -> None:
        with suppress(OSError):
            while True:
                due, data = self._late.get()
                self._ended.wait(max(due - time.monotonic(), 0))
                self._sockets[0].sendall(data)

    def _pass_one(self, source: socket.socket, target: socket.socket, data: bytes) -> bool:
        """Passes on what may pass; tells whether the connection goes on."""
        with self._lock:
            left = self._left[source]
            if left is None:
                target.sendall(data)
                return True
            target.sendall(data[:left])
            self._left[source] = left - len(data)
            return left > len(data)
