"""What a job's key opens, by OpenSSH's own sshd: its reverse forwards, and nothing else."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from exporter.cli.tunnels_command import SSHD
from exporter.tunnels.authorized_keys import AuthorizedKeys, key_options, make_key
from exporter.tunnels.listeners import exposed, listeners
from tests.prometheus_server import free_port, program, wait_until
from tests.sshd_server import HOST, USER, Sshd, sshd_server
from tests.unit.jobs.harness import load_supervisor

GREETING = b"this is the job's Ray"
REFUSED = 255
"""ssh's own exit status, where it isn't that of a command."""


@contextmanager
def greeter() -> Iterator[int]:
    """Listens where the job's Ray would, and greets whoever comes."""
    with closing(socket.create_server((HOST, 0))) as listener:

        def greet() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(GREETING)

        thread = threading.Thread(target=greet)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@dataclass(frozen=True, slots=True)
class Vm:
    """An sshd as on the VM, and a job's key.

    Attributes:
        keys: the file that it takes keys from.
        private: the job's key.
        public: its public half.
        port: that it may listen on.
        known_hosts: pins the server.
    """

    sshd: Sshd
    keys: AuthorizedKeys
    private: Path
    public: str
    port: int
    known_hosts: Path

    def let_in(self, ports: Sequence[int] = (), *, seconds: float = 3600) -> None:
        self.keys.put("abc", self.public, ports or [self.port], expires=time.time() + seconds)

    def supervisors_ssh(self, port: int, target: str, bind: str = HOST) -> list[str]:
        """Returns the command by which jobs/ray_job.py opens a tunnel."""
        plan = SimpleNamespace(name="dashboard", bind=bind, vm_port=port)
        vm = SimpleNamespace(
            host=HOST, port=self.sshd.port, user=USER, identity_file=str(self.private),
            known_hosts=str(self.known_hosts),
        )  # fmt: skip
        argv: list[str] = load_supervisor().Tunnel(plan, vm, target, str(self.private.parent)).argv
        return argv

    def ssh(self, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Runs ssh with the supervisor's way in, and other words in place of its tunnel."""
        argv = self.supervisors_ssh(1, "x:1")
        argv = [word for word in argv[: argv.index("-R")] if word not in {"-N", "-T", "-n"}]
        return subprocess.run([*argv, *words], input=stdin, capture_output=True, timeout=60, check=False)


@contextmanager
def vm(folder: Path, *options: str) -> Iterator[Vm]:
    folder.mkdir()
    keys, key = AuthorizedKeys(folder / "authorized_keys", "i1"), make_key()
    private = folder / "tunnel_key"
    with os.fdopen(os.open(private, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
        file.write(key.private)
    with sshd_server(folder / "sshd", *options, f"AuthorizedKeysFile {keys.path}") as sshd:
        yield Vm(sshd, keys, private, key.public, free_port(), sshd.known_hosts(folder / "known_hosts"))


@pytest.fixture(scope="module")
def as_told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vm]:
    """A VM whose sshd has the settings that `rayslurm tunnels authorize` names, and a job that is let in."""
    settings = [f"{name} {value}" for name, value, _ in SSHD]
    with vm(tmp_path_factory.mktemp("vm") / "vm", *settings) as told:
        told.let_in()
        yield told


@contextmanager
def opened(argv: Sequence[str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Runs an ssh until its tunnel is open."""
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:

        def is_open() -> bool:
            if process.poll() is not None and process.stderr is not None:
                raise AssertionError(f"ssh ended with {process.returncode}: {process.stderr.read().decode()}")
            return port in listeners()

        try:
            wait_until(is_open, f"a listener on port {port}")
            yield process
        finally:
            process.terminate()
    wait_until(lambda: port not in listeners(), f"port {port} free again")


def greeting(port: int) -> bytes:
    with socket.create_connection((HOST, port), 10) as connection:
        return connection.recv(100)


def test_the_jobs_own_tunnel_opens_on_the_loopback(as_told: Vm) -> None:
    with greeter() as target, opened(as_told.supervisors_ssh(as_told.port, f"{HOST}:{target}"), as_told.port):
        assert not exposed(listeners()[as_told.port])
        assert greeting(as_told.port) == GREETING


def test_several_tunnels_of_one_job_open_with_one_key(as_told: Vm) -> None:
    ports = [free_port() for _ in range(2)]
    as_told.let_in(ports)
    try:
        with (
            greeter() as target,
            opened(as_told.supervisors_ssh(ports[0], f"{HOST}:{target}"), ports[0]),
            opened(as_told.supervisors_ssh(ports[1], f"{HOST}:{target}"), ports[1]),
        ):
            assert [greeting(port) for port in ports] == [GREETING] * 2
    finally:
        as_told.let_in()


@pytest.mark.parametrize(
    "words",
    [(HOST,), (HOST, "id"), ("-tt", HOST), ("-s", HOST, "sftp")],
    ids=["shell", "command", "terminal", "sftp"],
)
def test_no_shell_no_command_no_files(as_told: Vm, words: tuple[str, ...]) -> None:
    done = as_told.ssh(*words, stdin=b"echo in\n\x00\x00\x00\x05\x01\x00\x00\x00\x03")
    assert done.stdout == b"", "neither a word of a shell, nor an answer of an SFTP server"
    assert done.returncode in {1, REFUSED}, done.stderr


@pytest.mark.parametrize("bind", ["0.0.0.0", "*", "::", "::1", "localhost", ""])
def test_no_other_address(as_told: Vm, bind: str) -> None:
    with greeter() as target:
        address = f"[{bind}]" if ":" in bind else bind
        argv = as_told.supervisors_ssh(as_told.port, f"{HOST}:{target}", bind=address)
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    assert done.returncode == REFUSED
    assert b"remote port forwarding failed" in done.stderr
    assert as_told.port not in listeners()


def test_no_other_port(as_told: Vm) -> None:
    for other in (free_port(), 0, 22):
        argv = as_told.supervisors_ssh(other, f"{HOST}:1")
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
        assert done.returncode == REFUSED
        assert b"emote port forwarding failed" in done.stderr, other


def test_no_way_into_the_vm(as_told: Vm, tmp_path: Path) -> None:
    with greeter() as inside:
        done = as_told.ssh("-W", f"{HOST}:{inside}", HOST)
        assert (done.returncode, done.stdout) == (REFUSED, b"")
        assert b"administratively prohibited" in done.stderr

        local = free_port()
        argv = as_told.supervisors_ssh(1, "x:1")
        argv = [*argv[: argv.index("-R")], "-L", f"{HOST}:{local}:{HOST}:{inside}", HOST]
        with opened(argv, local):
            assert greeting(local) == b""


def test_no_way_to_the_vms_unix_sockets(as_told: Vm, tmp_path: Path) -> None:
    inside, local = tmp_path / "docker.sock", tmp_path / "local.sock"
    argv = as_told.supervisors_ssh(1, "x:1")
    argv = [*argv[: argv.index("-R")], "-L", f"{local}:{inside}", HOST]
    with closing(socket.socket(socket.AF_UNIX)) as listener, closing(socket.socket(socket.AF_UNIX)) as client:
        listener.bind(str(inside))
        listener.listen()
        listener.setblocking(False)
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL) as process:
            wait_until(local.exists, "a socket of ssh's")
            client.connect(str(local))
            client.settimeout(30)
            assert client.recv(100) == b"", "ssh was refused, and hangs up"
            process.terminate()
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_no_unix_socket_where_sshd_is_told(as_told: Vm, tmp_path: Path) -> None:
    def asked(path: Path, server: Vm) -> subprocess.Popen[bytes]:
        words = server.supervisors_ssh(1, "x:1")
        return subprocess.Popen(
            [*words[: words.index("-R")], "-R", f"{path}:{HOST}:1", HOST], stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )  # fmt: skip

    refused = tmp_path / "refused"
    with asked(refused, as_told) as process:
        assert process.wait(60) == REFUSED
    assert not refused.exists()

    made = tmp_path / "made"
    with vm(tmp_path / "other") as usual:
        usual.let_in()
        with asked(made, usual) as process:
            wait_until(made.exists, "a socket: this is why sshd is told, since no option of a key says it")
            process.terminate()


@pytest.mark.parametrize("zone", ["UTC", "Etc/GMT-14", "Etc/GMT+12"])
def test_a_key_is_taken_until_it_expires_whatever_the_zone(
    tmp_path: Path, zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", zone)
    with vm(tmp_path / "vm") as there, greeter() as target:
        argv = there.supervisors_ssh(there.port, f"{HOST}:{target}")
        there.let_in(seconds=120)
        with opened(argv, there.port):
            there.let_in(seconds=-5)
            assert greeting(there.port) == GREETING, "what is open stays open"
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
        assert done.returncode == REFUSED
        assert b"Permission denied" in done.stderr
        there.let_in(seconds=120)
        with opened(argv, there.port):
            pass


def test_a_key_that_was_removed_is_refused(tmp_path: Path) -> None:
    with vm(tmp_path / "vm") as there, greeter() as target:
        there.let_in()
        there.keys.remove({"abc"})
        argv = there.supervisors_ssh(there.port, f"{HOST}:{target}")
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
        assert done.returncode == REFUSED
        assert b"Permission denied" in done.stderr


def test_a_key_with_no_port_opens_nothing(tmp_path: Path) -> None:
    with vm(tmp_path / "vm") as there:
        there.keys.put("abc", there.public, [], expires=time.time() + 3600)
        argv = there.supervisors_ssh(there.port, f"{HOST}:1")
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
        assert done.returncode == REFUSED
        assert b"remote port forwarding failed" in done.stderr


def test_a_key_of_ones_own_with_all_ports_of_the_configuration(tmp_path: Path) -> None:
    ports = range(20_100, 20_401)
    with vm(tmp_path / "vm") as there, greeter() as target:
        there.keys.path.write_text(f"{key_options(ports)} {there.public} me\n")
        with opened(there.supervisors_ssh(ports[-1], f"{HOST}:{target}"), ports[-1]):
            assert greeting(ports[-1]) == GREETING
        done = subprocess.run(
            there.supervisors_ssh(20_401, f"{HOST}:{target}"), stdin=subprocess.DEVNULL, capture_output=True,
            timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == REFUSED


def test_an_sshd_that_binds_to_all_addresses_is_seen(tmp_path: Path) -> None:
    with vm(tmp_path / "vm", "GatewayPorts yes") as there, greeter() as target:
        there.let_in()
        with opened(there.supervisors_ssh(there.port, f"{HOST}:{target}"), there.port):
            assert exposed(listeners()[there.port]), "the key says 127.0.0.1, and sshd does otherwise"


def test_the_settings_may_stand_below_a_match(as_told: Vm, tmp_path: Path) -> None:
    config = tmp_path / "sshd_config"
    host_key = as_told.sshd.key.with_name("host")
    block = "".join(f"    {name} {value}\n" for name, value, _ in SSHD)
    config.write_text(f"HostKey {host_key}\nGatewayPorts yes\nMatch User tunnel\n{block}")
    command: Callable[[str], list[str]] = lambda user: [  # noqa: E731
        program("/usr/sbin/sshd"), "-T", "-f", str(config), "-C", f"user={user},host=x,addr=192.0.2.1",
    ]  # fmt: skip
    found = subprocess.run(command("tunnel"), capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    told = dict(line.split(" ", 1) for line in found.stdout.splitlines() if " " in line)
    assert {name: told[name.lower()] for name, _, _ in SSHD} == {name: value for name, value, _ in SSHD}
    assert "gatewayports yes" in subprocess.run(command("other"), capture_output=True, text=True, check=True).stdout
