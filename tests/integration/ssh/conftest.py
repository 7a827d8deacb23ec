"""OpenSSH's sshd on the loopback, what passes between it and us, and transports to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.client.login import Endpoint
from exporter.client.ssh import SshTransport
from tests.integration.ssh.connecting import Connect
from tests.sshd_server import HOST, USER, Relay, Sshd, sshd_server


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
