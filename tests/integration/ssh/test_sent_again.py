"""Commands that are sent again to OpenSSH's sshd where a session broke, and those that never are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import exporter.client.ssh as ssh_module
from exporter.client.client import SiteClient
from exporter.client.ssh import SshTransport
from exporter.errors import (
    ConnectError,
    SessionLostError,
)
from tests.integration.ssh.connecting import Connect
from tests.sshd_server import Relay, Sshd, sshd_server

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

    def refused(self, seconds: float, credentials: str | None, reason: str) -> None:
        self.logins.append(f"refused: {reason}")

    def refusal(self, credentials: str | None) -> tuple[float, str] | None:
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
