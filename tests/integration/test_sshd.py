"""The way over SSH against OpenSSH's sshd on the loopback, with what passes between them broken on purpose."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import exporter.client.credentials as credentials_module
import exporter.client.ssh as ssh_module
from exporter.client.client import SiteClient
from exporter.client.login import Endpoint
from exporter.client.ssh import SshTransport
from exporter.client.transport import RemoteFile, RemoteFound
from exporter.errors import (
    AuthError,
    ConnectError,
    DeadlineError,
    HostKeyError,
    NoKeyError,
    SessionLostError,
    SiteError,
)
from tests.prometheus_server import program
from tests.sshd_server import HOST, USER, Relay, Sshd, make_key, public_key, ssh_agent, sshd_server

Connect = Callable[..., SshTransport]

SIZE = 60_000
"""Of an answer or a file that is cut off: more than one packet of SSH."""


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd_server(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture
def relay(sshd: Sshd) -> Iterator[Relay]:
    with Relay(sshd.port) as passing:
        yield passing


@pytest.fixture
def connect(sshd: Sshd, tmp_path: Path) -> Iterator[Connect]:
    """Makes transports to a server and closes them afterwards."""
    made: list[SshTransport] = []

    def make(
        key: Path | None = sshd.key,
        *,
        server: Sshd = sshd,
        port: int | None = None,
        known_hosts: Path | None = None,
        agent: bool = False,
    ) -> SshTransport:
        pinned = known_hosts or server.known_hosts(tmp_path / "known_hosts", port)
        login = Endpoint(HOST, port or server.port, USER)
        made.append(SshTransport([login], known_hosts=pinned, key=key, agent=agent))
        return made[-1]

    yield make
    for transport in made:
        transport.close()


@contextmanager
def small_disk(folder: Path, options: str) -> Iterator[Path]:
    """Mounts a file system in memory. Where that can't be done the test fails if CI is true, and is skipped if not."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        reason = f"no small disk can be mounted: {mounted.stderr.splitlines()[0]}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


# --- uploads


@pytest.mark.parametrize("size", [65_537, 70_000, 300_000], ids=["by-one-byte", "in-the-last-packet", "by-far"])
def test_an_upload_to_a_full_disk_fails_and_names_the_disk(connect: Connect, tmp_path: Path, size: int) -> None:
    with small_disk(tmp_path / "disk", "size=64k") as disk:
        transport = connect()
        transport.connect(5)
        content = os.urandom(size)
        with pytest.raises(SiteError, match=rf"writing to {disk}: .*is the disk or your quota full\?"):
            transport.write(str(disk), {"big": RemoteFile(content), "small": RemoteFile(b"x")}, 5)
        assert transport.connect(5) is False, "a full disk costs no session"
        (disk / "big").unlink()
        transport.write(str(disk), {"fits": RemoteFile(content[:60_000])}, 5)
        assert (disk / "fits").read_bytes() == content[:60_000]
        transport.close()


def test_a_folder_that_no_longer_fits_names_the_disk(connect: Connect, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=64k,nr_inodes=3") as disk:
        transport = connect()
        transport.connect(5)
        with pytest.raises(SiteError, match=r"making .*/four: .*is the disk or your quota full\?"):
            transport.make_folder(f"{disk}/two/three/four", 5)
        transport.close()


def test_an_upload_that_is_cut_off_never_passes_for_done(connect: Connect, relay: Relay, tmp_path: Path) -> None:
    transport = connect(port=relay.port)
    content = os.urandom(SIZE)
    told = []
    for number, cut in enumerate(range(0, 64_000, 6_000)):
        transport.connect(5)
        relay.cut(sent=cut)
        try:
            transport.write(str(tmp_path), {f"file{number}": RemoteFile(content)}, 5)
        except (ConnectError, SessionLostError) as error:
            told.append(type(error))
        else:
            assert (tmp_path / f"file{number}").read_bytes() == content
        transport.close()
    assert told.count(SessionLostError) >= 8


# --- answers


@pytest.mark.parametrize(
    "command",
    [f"head -c {SIZE} /dev/zero", f"(sleep 0.02; head -c {SIZE} /dev/zero) & exit 0"],
    ids=["", "status-before-the-output"],
)
def test_an_answer_that_is_cut_off_never_passes_for_a_whole_one(connect: Connect, relay: Relay, command: str) -> None:
    transport = connect(port=relay.port)
    lost = 0
    for cut in (*range(0, 57_001, 3_800), *range(60_000, 60_600, 150)):
        transport.connect(5)
        relay.cut(received=cut)
        try:
            answer = transport.run(command, 5)
        except SessionLostError:
            lost += 1
        except ConnectError:
            assert cut == 0, "something was sent"
        else:
            assert (answer.exit_status, len(answer.stdout)) == (0, SIZE), f"cut after {cut} bytes"
        transport.close()
    assert lost >= 15


def test_complaints_that_are_cut_off_never_pass_for_whole_ones(connect: Connect, relay: Relay) -> None:
    transport = connect(port=relay.port)
    for cut in range(1_000, 60_000, 8_000):
        transport.connect(5)
        relay.cut(received=cut)
        with pytest.raises(SessionLostError):
            transport.run(f"head -c {SIZE} /dev/zero >&2", 5)


def test_a_file_that_is_cut_off_never_passes_for_a_whole_one(connect: Connect, relay: Relay, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * SIZE)
    transport = connect(port=relay.port)
    for cut in range(500, 60_000, 6_000):
        transport.connect(5)
        relay.cut(received=cut)
        with pytest.raises(SessionLostError):
            transport.read(str(path), 1 << 20, 5)


def test_one_file_that_cannot_be_read_costs_itself_alone(connect: Connect, relay: Relay, tmp_path: Path) -> None:
    (tmp_path / "one").write_text("1")
    (tmp_path / "two").write_text("2")
    (tmp_path / "circle").symlink_to("circle")
    paths = [
        str(tmp_path / "one"),
        "/proc/self/mem",
        str(tmp_path / "circle"),
        str(tmp_path / "none"),
        str(tmp_path / "two"),
    ]
    transport = connect(port=relay.port)
    transport.connect(5)
    found = transport.read_many(paths, 100, 5)
    assert {path: content.content for path, content in found.items()} == {paths[0]: b"1", paths[-1]: b"2"}
    assert transport.connect(5) is False, "it costs no session either"
    relay.hang_up()
    with pytest.raises((ConnectError, SessionLostError)):
        transport.read_many(paths, 100, 5)


def test_files_that_are_fetched_are_the_users_own_and_lie_in_the_folder(connect: Connect, tmp_path: Path) -> None:
    folder, outside = tmp_path / "run", tmp_path / "outside"
    (folder / "out").mkdir(parents=True)
    outside.mkdir()
    large = os.urandom(5_000_001)
    (folder / "large").write_bytes(large)
    (folder / "out/small").write_text("small")
    (outside / "secret").write_text("secret")
    (folder / "link").symlink_to(outside / "secret")
    (folder / "way").symlink_to(outside)
    os.mkfifo(folder / "pipe")
    transport = connect()
    transport.connect(5)
    came: dict[str, bytes] = {}

    def receive(name: str, found: RemoteFound) -> None:
        assert found.size == (folder / name).stat().st_size
        came[name] = b"".join(found.pieces(0, 3)) + b"|" + b"".join(found.pieces(3, found.size))

    names = ["missing", "large", "link", "way/secret", "pipe", "out", "../outside/secret", "out/small"]
    transport.fetch(str(folder), names, receive, 5)
    assert came == {"large": large[:3] + b"|" + large[3:], "out/small": b"sma|ll"}
    transport.fetch(str(tmp_path / "gone"), names, receive, 5)
    assert len(came) == 2


def test_many_files_may_take_longer_than_one(connect: Connect, relay: Relay, tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{number}") for number in range(8)]
    for path in paths:
        Path(path).write_text(path)
    transport = connect(port=relay.port)
    transport.connect(5)
    relay.far(0.05)
    started = time.monotonic()
    assert list(transport.read_many(paths, 100, 1)) == paths
    assert time.monotonic() - started > 1.2
    transport.close()


def test_a_background_process_that_keeps_the_output_open_ends_at_the_deadline(connect: Connect, tmp_path: Path) -> None:
    transport = connect()
    transport.connect(5)
    wanted = tmp_path / "wanted"
    wanted.touch()
    started = time.monotonic()
    try:
        with pytest.raises(DeadlineError, match=r"no answer within 0\.5 s"):
            transport.run(f"sh -c 'echo head; (while test -e {wanted}; do sleep 0.1; done; echo tail) & exit 0'", 0.5)
    finally:
        wanted.unlink()
    assert time.monotonic() - started < 2.5
    assert transport.connect(5) is True, "the session is not used again"


# --- agents


@contextmanager
def hung_socket(path: Path) -> Iterator[Path]:
    """A socket that accepts, and says nothing."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(5)
        yield path


@pytest.mark.parametrize("named", [False, True], ids=["agent-alone", "key-file"])
def test_an_agent_that_hangs_is_given_up_and_named(
    connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sshd: Sshd, *, named: bool
) -> None:
    monkeypatch.setattr(credentials_module, "_AGENT_SECONDS", 0.3)
    with hung_socket(tmp_path / "agent") as path:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
        started = time.monotonic()
        with pytest.raises(NoKeyError, match="the SSH agent doesn't answer"):
            connect(sshd.key if named else None, agent=True).connect(5)
        assert time.monotonic() - started < 2


def test_an_agent_that_hangs_does_not_outlast_the_deadline(
    connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hung_socket(tmp_path / "agent") as path:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
        started = time.monotonic()
        with pytest.raises(NoKeyError, match="the SSH agent doesn't answer"):
            connect(None, agent=True).connect(1)
        assert time.monotonic() - started < 1.5


def test_an_agent_that_lists_its_keys_and_never_signs_is_no_refused_login(
    connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sshd: Sshd
) -> None:
    monkeypatch.setattr(credentials_module, "_AGENT_SECONDS", 0.5)
    with ExitStack() as stack:
        real = stack.enter_context(ssh_agent(tmp_path, [sshd.key]))
        front = stack.enter_context(socket.socket(socket.AF_UNIX))
        front.bind(str(tmp_path / "front"))
        front.listen(1)

        def list_only() -> None:
            client, _ = front.accept()
            with client, socket.socket(socket.AF_UNIX) as agent:
                agent.connect(str(real))
                agent.sendall(client.recv(1 << 12))
                client.sendall(agent.recv(1 << 14))
                while client.recv(1 << 12):
                    pass

        answering = threading.Thread(target=list_only)
        answering.start()
        monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "front"))
        started = time.monotonic()
        with pytest.raises(ConnectError, match="agent") as caught:
            connect(None, agent=True).connect(3)
        assert not isinstance(caught.value, AuthError)
        assert time.monotonic() - started < 3.5
        answering.join(5)


# --- the way to the site


@contextmanager
def silent_address() -> Iterator[tuple[str, int]]:
    """An address that answers no attempt to connect: its listener's queue is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((HOST, 0), backlog=0))
        address: tuple[str, int] = listener.getsockname()
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        yield address


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[str, int]) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)


def test_several_silent_addresses_share_one_deadline(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    with silent_address() as silent:
        resolve_to(monkeypatch, silent, silent, silent, silent)
        started = time.monotonic()
        with pytest.raises(ConnectError, match="no answer within 1 s") as caught:
            connect().connect(1)
        assert time.monotonic() - started < 1.8
        assert not isinstance(caught.value, AuthError)


def test_a_silent_address_leaves_time_for_the_next(
    connect: Connect, sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    with silent_address() as silent:
        resolve_to(monkeypatch, silent, (HOST, sshd.port))
        transport = connect()
        assert transport.connect(3) is True
        assert transport.run("echo on", 5).stdout == "on\n"


def test_a_listener_that_never_answers_is_left_at_the_deadline(connect: Connect) -> None:
    with socket.create_server((HOST, 0)) as listener:
        started = time.monotonic()
        with pytest.raises(ConnectError, match="no answer within 1 s") as caught:
            connect(port=listener.getsockname()[1]).connect(1)
        assert time.monotonic() - started < 1.8
        assert not isinstance(caught.value, AuthError)


# --- logins


def test_too_many_wrong_keys_are_a_refused_login(
    connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = [make_key(tmp_path / f"wrong{number}") for number in range(4)]
    with sshd_server(tmp_path / "strict", "MaxAuthTries 2") as server, ssh_agent(tmp_path, wrong) as agent:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(agent))
        with pytest.raises(AuthError, match=r"did not accept the agent's key SHA256:"):
            connect(None, server=server, agent=True).connect(5)


def test_a_wrong_key_is_a_refused_login_also_where_sshd_hangs_up_at_once(connect: Connect, tmp_path: Path) -> None:
    wrong = make_key(tmp_path / "wrong")
    with sshd_server(tmp_path / "strict", "MaxAuthTries 1") as server, pytest.raises(AuthError, match=str(wrong)):
        connect(wrong, server=server).connect(5)


def test_a_connection_that_drops_during_the_login_is_no_refused_one(connect: Connect, relay: Relay) -> None:
    dropped = []
    for sent in range(0, 2_400, 100):
        relay.cut_next(sent=sent)
        transport = connect(port=relay.port)
        try:
            transport.connect(5)
        except ConnectError as error:
            assert not isinstance(error, (AuthError, HostKeyError, NoKeyError)), f"after {sent} bytes: {error}"  # noqa: PT017
            dropped.append(str(error))
            assert transport.connect(5) is True
        transport.close()
    assert any("during the login" in message for message in dropped), dropped
    assert len(dropped) >= 8


@pytest.mark.parametrize("kind", ["garbage", "empty", "public half", "folder", "Ed448", "locked with an empty .pub"])
def test_a_key_that_cannot_be_used_makes_no_session(
    connect: Connect, sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    key = tmp_path / "key"
    if kind == "folder":
        key.mkdir()
    elif kind.startswith("locked"):
        make_key(key, passphrase="secret words").with_name("key.pub").write_text("")
    else:
        ed448 = Ed448PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        public = sshd.key.with_name("id.pub").read_bytes()
        key.write_bytes({"garbage": b"hello", "empty": b"", "public half": public, "Ed448": ed448}[kind])
    before = sshd.log.read_text().count("Accepted publickey")
    with ssh_agent(tmp_path, [sshd.key]) as agent:  # holds another key, which nobody named
        monkeypatch.setenv("SSH_AUTH_SOCK", str(agent))
        transport = connect(key, agent=True)
        for _ in range(2):
            with pytest.raises(NoKeyError, match=f"{key}: "):
                transport.connect(5)
            with pytest.raises(ConnectError, match="not connected"):
                transport.run("true", 5)
    assert sshd.log.read_text().count("Accepted publickey") == before


# --- host keys


KNOWN_HOSTS = {
    # Lines, with the host's name, its right key and a wrong one: whether the host is trusted
    "its-name": ("{name} {right}", True),
    "other-port": ("[127.0.0.1]:1 {right}", False),
    "tabs": ("{name}\t{right}", True),
    "comment-behind": ("{name} {right} key of the login node", True),
    "several-names": ("login.example,{name},10.0.0.1 {right}", True),
    "star": ("* {right}", True),
    "star-within": ("[127.0.*]:{port} {right}", True),
    "question-mark": ("[127.0.0.?]:{port} {right}", True),
    "question-mark-too-few": ("[127.0.0.??]:{port} {right}", False),
    "brackets-are-no-set": ("[1-9]27.0.0.1 {right}", False),
    "negated": ("!{name},!127.0.0.1,* {right}", False),
    "negated-behind": ("*,!{name},!127.0.0.1 {right}", False),
    "negated-by-pattern": ("*,!*127.?.0.1* {right}", False),
    "another-negated": ("*,![127.0.0.2]:{port} {right}", True),
    "negated-in-another-line": ("*,!{name} {right}\n{name} {right}", True),
    "second-of-one-type": ("{name} {wrong}\n{name} {right}", True),
    "first-of-one-type": ("{name} {right}\n{name} {wrong}", True),
    "wrong": ("{name} {wrong}", False),
    "revoked": ("@revoked * {right}\n{name} {right}", False),
    "revoked-behind": ("{name} {right}\n@revoked {name} {right}", False),
    "revoked-for-another": ("{name} {right}\n@revoked other.example {right}", True),
    "another-key-revoked": ("@revoked * {wrong}\n{name} {right}", True),
    "authority-of-users": ("@cert-authority * {wrong}\n{name} {right}", True),
    "host-key-as-authority": ("@cert-authority * {right}", False),
    "damaged-lines": ("{name}\n{name} ssh-ed25519 !!!\n# {name} {wrong}\n\n{name} {right}", True),
}


HASHED = ["its-name", "other-port", "several-names", "second-of-one-type", "wrong"]


def openssh_trusts(server: Sshd, known_hosts: Path) -> bool:
    """Asks OpenSSH's own client what it makes of a known_hosts file."""
    settings = {
        "UserKnownHostsFile": known_hosts,
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "BatchMode": "yes",
        "IdentitiesOnly": "yes",
        "LogLevel": "ERROR",
    }
    options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
    command = [program("ssh"), "-F", "none", *options, "-i", str(server.key), "-p", str(server.port), f"{USER}@{HOST}"]
    done = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or "Host key verification failed" in done.stderr, done.stderr
    return done.returncode == 0


@pytest.mark.parametrize(
    ("case", "hashed"), [*((case, False) for case in KNOWN_HOSTS), *((case, True) for case in HASHED)]
)
def test_known_hosts_means_what_it_means_to_openssh(
    connect: Connect, sshd: Sshd, tmp_path: Path, case: str, *, hashed: bool
) -> None:
    lines, trusted = KNOWN_HOSTS[case]
    path = tmp_path / "pinned"
    name, wrong = f"[{HOST}]:{sshd.port}", public_key(make_key(tmp_path / "wrong"))
    path.write_text(lines.format(name=name, port=sshd.port, right=sshd.host_key, wrong=wrong) + "\n")
    if hashed:
        subprocess.run([program("ssh-keygen"), "-q", "-H", "-f", path], check=True, capture_output=True)
        assert HOST not in path.read_text()
    assert openssh_trusts(sshd, path) is trusted
    transport = connect(known_hosts=path)
    if trusted:
        assert transport.connect(5) is True
        return
    before = sshd.log.read_text().count("Accepted publickey")
    with pytest.raises(HostKeyError, match=str(path)):
        transport.connect(5)
    assert sshd.log.read_text().count("Accepted publickey") == before, "no key was shown"


def test_a_host_that_has_no_key_of_the_pinned_type_is_not_trusted(connect: Connect, sshd: Sshd, tmp_path: Path) -> None:
    subprocess.run([program("ssh-keygen"), "-q", "-t", "ecdsa", "-N", "", "-f", tmp_path / "old"], check=True)
    path = tmp_path / "pinned"
    path.write_text(f"[{HOST}]:{sshd.port} {public_key(tmp_path / 'old')}\n")
    with pytest.raises(HostKeyError, match=r"ecdsa-sha2-nistp256.*the site has new keys"):
        connect(known_hosts=path).connect(5)


# --- commands that are sent again


class Ledger:
    """Notes what is booked."""

    def __init__(self) -> None:
        self.bookings: list[str] = []
        self.logins: list[str] = []

    def take(self, command: str, *, person: bool = False, urgent: bool = False) -> int:
        self.bookings.append("taken")
        return len(self.bookings) - 1

    def finish(self, booking: int, command: str, outcome: str) -> None:
        self.bookings[booking] = f"{command} {outcome}"

    def give_back(self, booking: int) -> None:
        self.bookings[booking] = "given back"

    def connected(self, outcome: str) -> None:
        self.logins.append(outcome)

    def refused(self, seconds: float, credentials: str, reason: str) -> None:
        self.logins.append(f"refused: {reason}")

    def refusal(self, credentials: str) -> tuple[float, str] | None:
        return None


@pytest.fixture
def batch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Sshd, Path]]:
    """A server whose sbatch notes the script of each run in a file; with that file."""
    folder = tmp_path_factory.mktemp("batch")
    programs, runs = folder / "programs", folder / "runs"
    programs.mkdir()
    runs.touch()
    (programs / "sbatch").write_text(f"#!/bin/sh\necho $2 >>{runs}\necho 4711\n")
    (programs / "sbatch").chmod(0o755)
    with sshd_server(folder / "sshd", f"SetEnv PATH={programs}:/usr/bin:/bin HOME={folder}") as server:
        yield server, runs


def client_of(transport: SshTransport) -> tuple[SiteClient, Ledger]:
    ledger = Ledger()
    return SiteClient("site", transport, ledger, connect_deadline=5, command_deadline=5), ledger


def ran(runs: Path) -> list[str]:
    return runs.read_text().split()


def test_a_session_that_ended_between_two_commands_is_made_anew(
    connect: Connect, batch: tuple[Sshd, Path], tmp_path: Path
) -> None:
    server, runs = batch
    with Relay(server.port) as relay:
        transport = connect(server.key, server=server, port=relay.port)
        client, ledger = client_of(transport)
        client.run("first", "true")
        relay.hang_up()
        assert client.submit(str(tmp_path), "job.sbatch").stdout == "4711\n"
        transport.close()
        assert (ran(runs), relay.accepted) == (["job.sbatch"], 2)
    assert ledger.bookings == ["first ok", "sbatch ok"]
    assert ledger.logins == ["ok", "ok"]


def test_a_kept_session_that_went_dumb_is_replaced_and_sbatch_runs_once(
    connect: Connect, batch: tuple[Sshd, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh_module, "_CHANNEL_SECONDS", 0.4)
    server, runs = batch
    with Relay(server.port) as relay:
        transport = connect(server.key, server=server, port=relay.port)
        client, ledger = client_of(transport)
        client.run("first", "true")
        relay.silence()
        assert client.submit(str(tmp_path), "job.sbatch").stdout == "4711\n"
        transport.close()
        assert (ran(runs), relay.accepted) == (["job.sbatch"], 2)
    assert ledger.bookings == ["first ok", "sbatch ok"], "it counts as one command"


def test_sbatch_never_runs_twice_wherever_the_session_breaks(
    connect: Connect, batch: tuple[Sshd, Path], tmp_path: Path
) -> None:
    server, runs = batch
    seen = set()
    with Relay(server.port) as relay:
        transport = connect(server.key, server=server, port=relay.port)
        client, ledger = client_of(transport)
        cuts = [{"sent": sent} for sent in range(0, 700, 100)] + [{"received": got} for got in range(0, 300, 50)]
        for number, cut in enumerate(cuts):
            script = f"job{number}.sbatch"
            client.run("before", "true")
            connections = relay.accepted
            relay.cut(**cut)
            try:
                answer = client.submit(str(tmp_path), script)
            except SessionLostError:
                assert ledger.bookings[-1] == "sbatch lost"
                assert relay.accepted == connections, "what may have been carried out is not sent again"
                seen.add("lost")
            else:
                assert (answer.exit_status, answer.stdout) == (0, "4711\n")
                assert script in ran(runs)
                assert relay.accepted <= connections + 1
                seen.add("sent again" if relay.accepted > connections else "whole")
            client.close()
    assert seen == {"lost", "sent again", "whole"}
    assert len(ran(runs)) == len(set(ran(runs)))


def test_a_site_that_takes_no_session_is_asked_twice_and_the_booking_comes_back(
    connect: Connect, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    with sshd_server(tmp_path / "full", "MaxSessions 0") as server:
        transport = connect(server.key, server=server)
        client, ledger = client_of(transport)
        with pytest.raises(ConnectError, match="the session takes no further command"):
            client.run("count", f"echo run >>{runs}")
        transport.close()
        assert server.log.read_text().count("Accepted publickey") == 2
    assert not runs.exists()
    assert (ledger.bookings, ledger.logins) == (["given back"], ["ok", "ok"])


# --- what the user's shell says


@pytest.mark.parametrize("greeting", ["Welcome to the machine, dear user", "hi", "\n\n" + "module loaded\n" * 3000])
def test_a_shell_that_greets_breaks_uploads_and_the_cure_is_named(
    connect: Connect, tmp_path: Path, greeting: str
) -> None:
    shell = pwd.getpwuid(os.getuid()).pw_shell
    if Path(shell).name != "bash":
        pytest.skip(f"{shell} reads no .bashrc for a command")
    with sshd_server(tmp_path / "sshd") as server:
        (server.home / "greeting").write_text(greeting + "\n")
        (server.home / ".bashrc").write_text(f"cat {server.home}/greeting\n")
        transport = connect(server.key, server=server)
        transport.connect(5)
        with pytest.raises(SiteError, match="does your shell print something at its start, also without a terminal"):
            transport.write(str(tmp_path), {"file": RemoteFile(b"x")}, 5)
        assert not (tmp_path / "file").exists()
        (server.home / ".bashrc").unlink()
        assert transport.connect(5) is True
        transport.write(str(tmp_path), {"file": RemoteFile(b"x")}, 5)
        assert (tmp_path / "file").read_bytes() == b"x"
        transport.close()
