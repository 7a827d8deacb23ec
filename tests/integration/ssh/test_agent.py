"""The agent's keys where no key file is named: ended certificates are passed over, a changed agent lifts a wait."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import exporter.client.credentials as credentials_module
from exporter.client.client import SiteClient, ssh_client
from exporter.client.credentials import credential_state
from exporter.config import load_config
from exporter.errors import AuthError, ConnectError, NoKeyError
from exporter.store.commands import CommandLedger
from exporter.store.db import Store
from tests.integration.ssh.connecting import Connect
from tests.prometheus_server import program
from tests.sshd_server import HOST, USER, Sshd, make_key, ssh_agent, sshd_server


def ask_agent(agent: Path, *words: str | Path) -> None:
    subprocess.run(
        [program("ssh-add"), "-q", *words], env={**os.environ, "SSH_AUTH_SOCK": str(agent)}, check=True,
        capture_output=True,
    )  # fmt: skip


def certify(key: Path, authority: Path, times: str) -> None:
    """Puts a certificate beside a key; its times as ssh-keygen takes them."""
    words: list[str | Path] = ["-q", "-s", authority, "-I", key.name, "-n", USER, "-V", times, f"{key}.pub"]
    subprocess.run([program("ssh-keygen"), *words], check=True, capture_output=True)


# --- certificates


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    return make_key(tmp_path / "authority")


@pytest.fixture
def certifying(tmp_path: Path, authority: Path) -> Iterator[Sshd]:
    """A server that takes the authority's certificates."""
    with sshd_server(tmp_path / "certifying", f"TrustedUserCAKeys {authority}.pub") as server:
        yield server


@pytest.fixture
def agent(tmp_path: Path, authority: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An agent that holds a certificate that has ended, and nothing else."""
    ended = make_key(tmp_path / "ended")
    certify(ended, authority, "20200101000000Z:20200102000000Z")
    with ssh_agent(tmp_path, [ended]) as path:
        ask_agent(path, "-d", f"{ended}.pub")  # the bare key; its certificate stays
        monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
        yield path


def test_an_ended_certificate_of_the_agent_is_not_even_offered(
    connect: Connect, certifying: Sshd, agent: Path, authority: Path, tmp_path: Path
) -> None:
    with pytest.raises(NoKeyError, match=r"that have ended, the last at 2020-01-02 00:00 UTC; fetch a new one and run"):
        connect(None, server=certifying, agent=True).connect(5)
    new = make_key(tmp_path / "new")
    certify(new, authority, "-1h:+1h")
    ask_agent(agent, new)
    ask_agent(agent, "-d", f"{new}.pub")
    assert connect(None, server=certifying, agent=True).connect(5) is True
    log = certifying.log.read_text()
    assert 'Accepted certificate ID "new"' in log
    assert "Failed publickey" not in log, "nothing else was offered"
    assert "Certificate invalid" not in log, "as sshd says of one that has ended"


def test_ended_certificates_take_no_key_its_turn(
    connect: Connect, sshd: Sshd, agent: Path, authority: Path, tmp_path: Path
) -> None:
    """sshd is offered five keys at most."""
    for number in range(5):
        another = make_key(tmp_path / f"ended{number}")
        certify(another, authority, "20200101000000Z:20200102000000Z")
        ask_agent(agent, another)
        ask_agent(agent, "-d", f"{another}.pub")
    ask_agent(agent, sshd.key)
    assert connect(None, agent=True).connect(5) is True


# --- the wait after a refused login


class Site:
    """A site that is logged in to with the agent's keys, and processes that would."""

    def __init__(self, server: Sshd, folder: Path, store: Store) -> None:
        access = {"host": HOST, "port": server.port, "user": USER, "known_hosts": str(folder / "known_hosts")}
        server.known_hosts(folder / "known_hosts")
        path = folder / "rayslurm.yaml"
        site = {"project": "project_2001234", "partition": "small", "timezone": "Europe/Helsinki", "ssh": access}
        path.write_text(yaml.safe_dump({"state_dir": str(folder / "state"), "sites": {"here": site}}))
        self._site = load_config(path).site("here")
        self._store = store

    def process(self) -> SiteClient:
        return ssh_client(self._site, CommandLedger.for_site(self._store, self._site))


@pytest.fixture
def site(sshd: Sshd, tmp_path: Path) -> Iterator[Site]:
    with Store(tmp_path / "store.sqlite") as store:
        yield Site(sshd, tmp_path, store)


def ask(client: SiteClient) -> str:
    """Has a command run at the site for a person, who need not wait where others do."""
    with client.for_person():
        return client.run("echo", "echo in").stdout


def refused_logins(sshd: Sshd) -> int:
    return sshd.log.read_text().count("Failed publickey")


def test_a_key_that_is_added_to_the_agent_lifts_the_wait(
    site: Site, sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ssh_agent(tmp_path, [make_key(tmp_path / "wrong")]) as agent:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(agent))
        serve = site.process()
        with pytest.raises(AuthError, match="did not accept the agent's key"):
            serve.run("echo", "echo in")
        refused = refused_logins(sshd)
        for client in (serve, site.process()):
            with pytest.raises(ConnectError, match="not tried again for"):
                ask(client)
        assert refused_logins(sshd) == refused
        ask_agent(agent, sshd.key)
        for client in (serve, site.process()):
            assert ask(client) == "in\n"
            client.close()


@pytest.mark.parametrize("gone", ["no socket", "none named", "hangs"])
def test_an_agent_that_cannot_be_asked_lifts_no_wait(
    site: Site, sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    monkeypatch.setattr(credentials_module, "_AGENT_SECONDS", 0.3)
    with ssh_agent(tmp_path, [make_key(tmp_path / "wrong")]) as agent, socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "silent"))
        silent.listen(5)
        monkeypatch.setenv("SSH_AUTH_SOCK", str(agent))
        client = site.process()
        with pytest.raises(AuthError):
            ask(client)
        refused = refused_logins(sshd)
        monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / ("silent" if gone == "hangs" else "missing")))
        if gone == "none named":
            monkeypatch.delenv("SSH_AUTH_SOCK")
        assert credential_state(None, agent=True, seconds=5) is None
        with pytest.raises(ConnectError, match=r"not tried again for .*did not accept the agent's key"):
            ask(client)
        monkeypatch.setenv("SSH_AUTH_SOCK", str(agent))
        with pytest.raises(ConnectError, match="not tried again for"):
            ask(client)
        assert refused_logins(sshd) == refused


def test_what_the_agent_holds_is_the_same_in_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = make_key(tmp_path / "one"), make_key(tmp_path / "other")
    states = []
    with ssh_agent(tmp_path, [one]) as agent:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(agent))
        for words in (["-l"], [other], ["-d", one], [one]):
            ask_agent(agent, *words)
            states.append(credential_state(None, agent=True, seconds=5))
    alone, both, another, again = states
    assert None not in states
    assert both == again
    assert len({alone, both, another}) == 3
