"""The way over SSH against a real sshd: who is trusted, who gets in, and what happens when an answer doesn't come."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from exporter.client.login import Endpoint
from exporter.client.ssh import SshTransport
from exporter.client.transport import RemoteFile
from exporter.errors import (
    AuthError,
    ConnectError,
    DeadlineError,
    HostKeyError,
    NoKeyError,
    SessionLostError,
    SiteError,
)
from exporter.parsers.squeue import parse as parse_squeue
from tests.lab.lab import Lab

Connect = Callable[..., SshTransport]


@pytest.fixture
def connect(lab: Lab) -> Iterator[Connect]:
    """Makes transports to the login node and closes them afterwards."""
    made: list[SshTransport] = []

    def make(
        key: Path | None = lab.client_key,
        *,
        known_hosts: Path = lab.known_hosts,
        jump: Endpoint | None = None,
        agent: bool = False,
        user: str = "researcher",
    ) -> SshTransport:
        login = Endpoint(lab.address("login"), 22, user)
        transport = SshTransport([jump, login] if jump else [login], known_hosts=known_hosts, key=key, agent=agent)
        made.append(transport)
        return transport

    yield make
    for transport in made:
        transport.close()


def sessions(lab: Lab) -> int:
    return lab.sshd_log().count("Accepted publickey")


def test_one_session_serves_many_commands(lab: Lab, connect: Connect) -> None:
    before = sessions(lab)
    transport = connect()
    assert transport.connect(5) is True
    for number in range(20):
        assert transport.connect(5) is False
        assert transport.run(f"echo {number}; echo e >&2; exit {number}", 5).exit_status == number
    answer = transport.run("printf 'a\\377b'; echo oops >&2", 5)
    assert (answer.stdout, answer.stderr) == ("a\\xffb", "oops\n")
    assert sessions(lab) == before + 1


def test_a_certificate_opens_where_the_bare_key_does_not(lab: Lab, connect: Connect, tmp_path: Path) -> None:
    transport = connect(lab.certified_key)
    transport.connect(5)
    assert transport.run("id -un", 5).stdout == "researcher\n"
    bare = tmp_path / "bare"
    bare.write_bytes(lab.certified_key.read_bytes())
    bare.chmod(0o600)
    with pytest.raises(AuthError, match=f"did not accept {bare}$"):
        connect(bare).connect(5)


def test_an_expired_certificate_is_not_even_offered(lab: Lab, connect: Connect, tmp_path: Path) -> None:
    key, authority = tmp_path / "id", tmp_path / "ca"
    for path in (key, authority):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    subprocess.run(
        ["ssh-keygen", "-q", "-s", authority, "-I", "x", "-n", "researcher", "-V", "20200101:20200102", f"{key}.pub"],
        check=True,
    )
    before = lab.sshd_log()
    with pytest.raises(NoKeyError, match=r"the certificate ended at 2020-01-0.*; fetch a new one"):
        connect(key).connect(5)
    assert "publickey" not in lab.sshd_log()[len(before) :]


def test_a_key_with_a_passphrase_is_taken_from_the_agent(lab: Lab, connect: Connect, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.write_bytes(lab.client_key.read_bytes())
    locked.chmod(0o600)
    public = lab.client_key.with_name(lab.client_key.name + ".pub")
    (tmp_path / "locked.pub").write_bytes(public.read_bytes())
    subprocess.run(["ssh-keygen", "-q", "-p", "-N", "secret words", "-f", locked], check=True)
    with pytest.raises(NoKeyError, match=f"has a passphrase, and the agent doesn't hold it .*; run: ssh-add {locked}"):
        connect(locked, agent=True).connect(5)

    agent = subprocess.run(["ssh-agent", "-s"], capture_output=True, text=True, check=True).stdout
    facts = dict(part.split("=", 1) for part in agent.replace("\n", "").split(";") if "=" in part)
    previous = os.environ.get("SSH_AUTH_SOCK")
    os.environ["SSH_AUTH_SOCK"] = facts["SSH_AUTH_SOCK"]
    try:
        subprocess.run(["ssh-add", "-q", lab.client_key], check=True)
        for key in (locked, None):
            transport = connect(key, agent=True)
            transport.connect(5)
            assert transport.run("id -un", 5).stdout == "researcher\n"
    finally:
        os.kill(int(facts["SSH_AGENT_PID"]), signal.SIGTERM)
        if previous is None:
            del os.environ["SSH_AUTH_SOCK"]
        else:
            os.environ["SSH_AUTH_SOCK"] = previous


def test_the_way_leads_through_a_jump_host(lab: Lab, connect: Connect) -> None:
    transport = connect(jump=Endpoint(lab.address("cloud"), 22, lab.fact("USER_CLOUD")))
    transport.connect(5)
    assert transport.run("hostname", 5).stdout == "login\n"
    assert f"from {lab.address('cloud')}" in lab.sshd_log()


def test_a_host_is_never_trusted_on_first_sight(lab: Lab, connect: Connect, tmp_path: Path) -> None:
    before = sessions(lab)
    pinned = lab.known_hosts.read_text().splitlines()
    login = next(line for line in pinned if line.startswith("login"))
    cloud = next(line for line in pinned if line.startswith("cloud"))
    unknown, wrong, revoked = tmp_path / "unknown", tmp_path / "wrong", tmp_path / "revoked"
    unknown.write_text(cloud + "\n")
    wrong.write_text(f"{lab.address('login')} {' '.join(cloud.split()[1:3])}\n")
    revoked.write_text(f"{login}\n@revoked * {' '.join(login.split()[1:3])}\n")
    for path, message in (
        (unknown, f"{lab.address('login')} is not in {unknown}"),
        (wrong, "is not the one in"),
        (revoked, "marked @revoked"),
        (tmp_path / "missing", "No such file or directory: no host key is pinned"),
    ):
        with pytest.raises(HostKeyError, match=message):
            connect(known_hosts=path).connect(5)
    assert sessions(lab) == before, "no key was shown to a host that isn't trusted"


def test_lines_that_paramiko_cannot_read_do_not_spoil_the_others(lab: Lab, connect: Connect, tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    path.write_text(
        "# a comment\n\n@cert-authority *.csc.fi ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJZNGFhgheDorqC4Q5nRUro5\n"
        "x.example sk-ssh-ed25519@openssh.com AAAA\nbroken line\nx.example ssh-rsa !!!notbase64\n"
        + lab.known_hosts.read_text()
    )
    transport = connect(known_hosts=path)
    transport.connect(5)
    assert transport.run("true", 5).exit_status == 0


def test_a_command_that_does_not_end_is_left_at_its_deadline(lab: Lab, connect: Connect) -> None:
    transport = connect()
    transport.connect(5)
    started = time.monotonic()
    with pytest.raises(DeadlineError, match=r"no answer within 1 s: sleep 60"):
        transport.run("sleep 60", 1)
    assert time.monotonic() - started < 3
    assert transport.connect(5) is True, "the session is not used again"
    assert transport.run("echo on", 5).stdout == "on\n"


def test_both_streams_are_drained(connect: Connect) -> None:
    transport = connect()
    transport.connect(5)
    size = 6 * 1024 * 1024
    answer = transport.run(f"head -c {size} /dev/zero | tr '\\0' e >&2; head -c {size} /dev/zero | tr '\\0' o", 30)
    assert (len(answer.stdout), len(answer.stderr)) == (size, size)


def test_an_endless_answer_is_cut_off(connect: Connect) -> None:
    transport = connect()
    transport.connect(5)
    with pytest.raises(SiteError, match="bytes came back from: yes"):
        transport.run("yes", 30)


def test_a_session_that_breaks_is_told_apart_from_a_command_that_fails(lab: Lab, connect: Connect) -> None:
    transport = connect()
    transport.connect(5)

    def kill_session() -> None:
        lab.wait(lambda: "sleep 31.7" in lab.on("login", "ps", "-eo", "args").stdout, 10, "the command runs")
        lab.on("login", "pkill", "-KILL", "-f", "sshd: researcher")

    killer = threading.Thread(target=kill_session)
    killer.start()
    with pytest.raises(SessionLostError):
        transport.run("sleep 31.7", 20)
    killer.join()
    assert transport.connect(5) is True


def test_an_sshd_that_says_nothing_is_left_at_the_deadline(lab: Lab, connect: Connect) -> None:
    with lab.silent_sshd():
        started = time.monotonic()
        with pytest.raises(ConnectError, match="no answer within 1 s") as caught:
            connect().connect(1)
        assert not isinstance(caught.value, AuthError), "a silent site is no refused login"
        assert time.monotonic() - started < 3


def test_a_closed_port_says_so(lab: Lab) -> None:
    transport = SshTransport(
        [Endpoint("127.0.0.1", 1, "nobody")], known_hosts=lab.known_hosts, key=lab.client_key, agent=False
    )
    with pytest.raises(HostKeyError):
        transport.connect(2)
    closed = SshTransport(
        [Endpoint("127.0.0.1", 1, "nobody", host_key_alias="login")],
        known_hosts=lab.known_hosts, key=lab.client_key, agent=False,
    )  # fmt: skip
    with pytest.raises(ConnectError, match="refused"):
        closed.connect(2)


def test_what_the_users_shell_sets_for_slurm_has_no_say(lab: Lab, connect: Connect) -> None:
    bashrc = lab.researcher_home / ".bashrc"
    usual = bashrc.read_text()
    settings = ("SBATCH_JOB_NAME=theirs", "SBATCH_TIMELIMIT=59", "SQUEUE_STATES=COMPLETED", "SACCT_FORMAT=user")
    bashrc.write_text("".join(f"export {setting}\n" for setting in settings) + usual)
    try:
        transport = connect()
        transport.connect(5)
        assert "SBATCH_JOB_NAME=theirs" in transport.run("env", 5).stdout, "the shell does set them"
        folder = transport.make_folder("settings", 5)
        script = b"#!/bin/bash\n#SBATCH --job-name=ours --time=5 --mem=100 --hold\ntrue\n"
        transport.write(folder, {"job.sbatch": RemoteFile(script)}, 5)
        job_id = transport.submit(folder, "job.sbatch", 10).stdout.strip()
        (record,) = (one for one in parse_squeue(transport.queue([], 10).stdout).records if one.job_id == job_id)
        assert (record.job_name, record.time_limit_seconds) == ("ours", 300)
        fields = ["JobID", "JobName"]
        lab.wait(lambda: "ours" in transport.accounting([job_id], fields, 10).stdout, 20, "the job in accounting")
    finally:
        bashrc.write_text(usual)
        lab.sh("scancel --me")


def test_files_go_there_and_come_back(lab: Lab, connect: Connect) -> None:
    transport = connect()
    transport.connect(5)
    folder = transport.make_folder("deep/er/folder", 5)
    assert folder == "/home/researcher/deep/er/folder"
    assert transport.make_folder("deep/er/folder", 5) == folder
    content = os.urandom(300_000)
    transport.write(folder, {"secret": RemoteFile(content, 0o600), "open": RemoteFile(b"x")}, 10)
    transport.write(folder, {"secret": RemoteFile(content[:5], 0o600)}, 10)
    assert transport.read(f"{folder}/secret", 100, 5).content == content[:5]
    transport.write(folder, {"secret": RemoteFile(content, 0o600)}, 10)
    assert transport.read(f"{folder}/secret", 1 << 20, 5).content == content
    assert transport.read(f"{folder}/secret", 1000, 5).content == content[:1000]
    listing = lab.sh(f"stat -c '%a %n' {folder} {folder}/*", check=True).stdout.split()
    assert listing[::2] == ["700", "644", "600"]
    with pytest.raises(FileNotFoundError):
        transport.read(f"{folder}/missing", 10, 5)
    with pytest.raises(SiteError, match=r"permission denied|Permission denied"):
        transport.write("/etc", {"x": RemoteFile(b"x")}, 5)
    with pytest.raises(SiteError, match=r"writing to .*/nowhere"):
        transport.write(f"{folder}/nowhere", {"x": RemoteFile(b"x")}, 5)
    assert transport.connect(5) is False, "none of that costs the session"
