"""Logging in to OpenSSH's sshd: agents, silent addresses, refused and broken logins, pinned host keys."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import exporter.client.credentials as credentials_module
from exporter.errors import (
    AuthError,
    ConnectError,
    HostKeyError,
    NoKeyError,
)
from tests.integration.ssh.connecting import Connect
from tests.prometheus_server import program
from tests.sshd_server import HOST, USER, Relay, Sshd, make_key, public_key, ssh_agent, sshd_server

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
        key.chmod(0o600)
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


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602])
@pytest.mark.parametrize("passphrase", ["", "secret words"], ids=["bare", "locked"])
def test_a_key_that_others_can_read_is_not_offered(
    connect: Connect, sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passphrase: str, mode: int
) -> None:
    key = tmp_path / "key"
    key.write_bytes(sshd.key.read_bytes())
    key.chmod(0o600)
    key.with_name("key.pub").write_bytes(sshd.key.with_name("id.pub").read_bytes())
    subprocess.run([program("ssh-keygen"), "-q", "-p", "-N", passphrase, "-f", key], check=True, capture_output=True)
    with ssh_agent(tmp_path, [sshd.key]) as agent:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(agent))
        key.chmod(mode)
        before = sshd.log.read_text().count("publickey")
        with pytest.raises(
            NoKeyError, match=rf"^{key}: can be read by others \(mode 0{mode:o}\); run: chmod 600 {key}$"
        ):
            connect(key, agent=True).connect(5)
        assert sshd.log.read_text().count("publickey") == before
        key.chmod(0o600)
        key.with_name("key.pub").chmod(0o644)
        assert connect(key, agent=True).connect(5) is True


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
