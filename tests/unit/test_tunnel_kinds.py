"""What probes find behind the tunnels that lead to something else than the dashboard, and what is kept of failures."""

from __future__ import annotations

import asyncio
import sqlite3

import pytest

from exporter.config import Config
from exporter.practice.ray import Node, NodeMetrics
from exporter.store import submissions, tunnel_failures, tunnels
from exporter.store.db import Store
from exporter.tunnels.health import SAID_BYTES, Finding, probe
from exporter.tunnels.http import beginning
from exporter.tunnels.prober import TunnelProber
from tests.unit.answering import Answer, answering, http, pages, says, unused
from tests.unit.conftest import Clock

SITE = "puhti2"
SECRET = "5ecret" * 10
TEXT = b"# HELP ray_node_cpu_count Total CPUs\n# TYPE ray_node_cpu_count gauge\nray_node_cpu_count 4.0\n"
SETTINGS = bytes([0, 0, 18, 4, 0, 0, 0, 0, 0]) + bytes(18)


def found(tunnel: str, answer: Answer, *, secret: str | None = None, deadline: float = 5) -> Finding:
    async def ask() -> Finding:
        async with answering(answer) as port:
            return await probe(tunnel, port, secret, deadline=deadline)

    return asyncio.run(ask())


# --- a node's metrics -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [True, False])
def test_metrics_in_prometheus_text_are_up(length: bool) -> None:
    assert found("metrics-1", says(http(200, TEXT * 100, length=length))).state == "up"
    assert found("metrics-0", says(http(200, TEXT, length=length))).state == "up"


def test_of_metrics_only_the_beginning_is_read() -> None:
    async def ask() -> tuple[Finding, int]:
        taken = 0

        async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal taken
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.0 200 OK\r\nContent-Length: 900000000\r\n\r\n")
            try:
                while not writer.is_closing():
                    writer.write(TEXT)
                    await writer.drain()
                    taken += len(TEXT)
                    await asyncio.sleep(0.001)
            except ConnectionError:
                ended.set()

        ended = asyncio.Event()
        async with answering(endless) as port:
            finding = await probe("metrics-0", port, None)
            async with asyncio.timeout(10):
                await ended.wait()
        return finding, taken

    finding, taken = asyncio.run(ask())
    assert finding.state == "up"
    assert taken < 200_000


def test_what_is_read_is_bounded() -> None:
    async def ask() -> int:
        async with answering(says(http(200, b"x" * 60_000))) as port:
            return len((await beginning(port, "/metrics", enough=512)).body)

    assert 512 <= asyncio.run(ask()) <= 8192


@pytest.mark.parametrize(
    ("raw", "state"),
    [
        (http(200, b"<html>a page for all paths</html>"), "foreign"),
        (http(200, b""), "foreign"),
        (http(200, {"a": 1}), "foreign"),
        (http(404, TEXT), "foreign"),
        (http(401, b"log in"), "foreign"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "foreign"),
        (b"HTTP/1.0 200 OK\r\nX: " + b"x" * 70_000, "foreign"),
        (http(503, b"later"), "target_down"),
        (http(200, TEXT)[:-3], "target_down"),
        (b"HTTP/1.0 200", "target_down"),
        (b"", "target_down"),
    ],
)
def test_what_else_may_be_behind_a_metrics_tunnel(raw: bytes, state: str) -> None:
    finding = found("metrics-0", says(raw))
    assert finding.state == state
    assert finding.said


def test_the_practice_sites_nodes_answer_as_real_ones_do() -> None:
    metrics = NodeMetrics(0, node=Node(4), session="session_1")
    assert asyncio.run(probe("metrics-0", metrics.port, None)).state == "up"
    metrics.gone = True
    assert asyncio.run(probe("metrics-0", metrics.port, None)).state == "target_down"
    metrics.stop()
    assert asyncio.run(probe("metrics-0", metrics.port, None)).state == "refused"


# --- Ray's clients, and Serve -----------------------------------------------------------------------------------------


def grpc(said: bytes, asked: list[bytes] | None = None) -> Answer:
    """Says something and stays, as a server of gRPC does."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readexactly(24 + 9)
        if asked is not None:
            asked.append(request)
        writer.write(said)
        await reader.read()

    return answer


def test_a_server_of_grpc_begins_with_its_settings() -> None:
    asked: list[bytes] = []
    assert found("client", grpc(SETTINGS, asked)).state == "up"
    assert found("client", grpc(SETTINGS[:2] + b"\0" + SETTINGS[3:9])).state == "up", "it may have none"
    assert asked == [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])]


@pytest.mark.parametrize(
    "said",
    [
        http(400, b"bad request"),
        b"SSH-2.0-OpenSSH_9.2\r\n",
        bytes([0, 0, 8, 7, 0, 0, 0, 0, 0]) + bytes(8),  # GOAWAY
        bytes([0, 0, 0, 4, 1, 0, 0, 0, 0]),  # an acknowledgement of ours, before its own
        bytes([0, 0, 7, 4, 0, 0, 0, 0, 0]) + bytes(7),  # no settings have that length
        bytes([0xFF, 0, 0, 4, 0, 0, 0, 0, 0]),
        b"\0\0\0\4\0\0\0\0\1",
    ],
)
def test_what_is_no_grpc_is_foreign_at_once(said: bytes) -> None:
    assert found("client", grpc(said), deadline=4).state == "foreign"


def test_a_client_server_that_is_gone_or_silent() -> None:
    assert found("client", says(b"")).state == "target_down"
    assert found("client", says(SETTINGS[:5])).state == "target_down"
    assert found("client", grpc(b""), deadline=0.2).state == "timeout"
    assert found("client", grpc(SETTINGS[:5]), deadline=0.2).state == "timeout"


@pytest.mark.parametrize("status", [200, 404, 500, 503])
def test_whatever_serve_answers_its_tunnel_is_up(status: int) -> None:
    asked: list[bytes] = []
    assert found("serve", pages({"/-/healthz": http(status, b"x" * 100_000)}, asked)).state == "up"
    assert asked[0].startswith(b"GET /-/healthz "), "no code of the application is run"


def test_what_is_no_serve() -> None:
    assert found("serve", says(b"220 mail.example.org ESMTP\r\n")).state == "foreign"
    assert found("serve", says(b"")).state == "target_down"
    assert found("serve", pages({"/-/healthz": None}), deadline=0.2).state == "timeout"
    with unused() as port:
        for tunnel in ("serve", "client", "metrics-0"):
            assert asyncio.run(probe(tunnel, port, None)).state == "refused"


def test_another_kind_of_tunnel_is_an_error() -> None:
    with pytest.raises(ValueError, match="telnet"):
        asyncio.run(probe("telnet", 1, None))


# --- all tunnels of a job, and their failures -------------------------------------------------------------------------


def launched(store: Store, ports: dict[str, int], *, job_id: str = "77", state: str = "running") -> None:
    """A submission of ours whose job is in a state."""

    def change(connection: sqlite3.Connection) -> None:
        submissions.intend(
            connection, token=f"token{job_id}", site=SITE, campaign="nightly", name="train", run_dir="x", now=1.0,
            spec={"cluster": {"nodes": 2}}, tunnels={name: [port] for name, port in ports.items()},
        )  # fmt: skip
        submissions.submitted(connection, f"token{job_id}", job_id, now=2.0)
        connection.execute("UPDATE jobs SET state = ? WHERE job_id = ?", (state, job_id))

    store.write(change)


def states(store: Store, clock: Clock) -> dict[str, str]:
    with store.snapshot() as connection:
        return {health.tunnel: health.state for health in tunnels.current(connection, now=clock.now)}


def failures(store: Store) -> list[tuple[str, str, int]]:
    with store.snapshot() as connection:
        kept = tunnel_failures.of_job(connection, SITE, "77")
    return [(one.tunnel, one.state, one.times) for one in kept]


def test_every_tunnel_of_a_running_job_is_probed_as_what_it_is(config: Config, store: Store, clock: Clock) -> None:
    async def look() -> None:
        async with (
            answering(says(http(200, TEXT))) as metrics,
            answering(grpc(SETTINGS)) as client,
            answering(says(http(404))) as serve,
        ):
            ports = {"client": client, "serve": serve, "metrics-0": metrics, "metrics-1": unused_port}
            launched(store, ports)
            await TunnelProber(config, store, clock=clock).round(config.site(SITE))

    with unused() as unused_port:
        asyncio.run(look())
    assert states(store, clock) == {"client": "up", "serve": "up", "metrics-0": "up", "metrics-1": "refused"}


def test_failures_are_kept_with_what_was_said_and_one_that_goes_on_is_one(
    config: Config, store: Store, clock: Clock
) -> None:
    async def look() -> None:
        prober = TunnelProber(config, store, clock=clock)

        async def again() -> None:
            clock.now += 15
            await prober.round(config.site(SITE))

        async with answering(says(http(503, b"later, " * 1000))) as port:
            launched(store, {"metrics-0": port})
            await again()
            await again()
        await again()
        async with answering(says(http(200, TEXT)), port):
            await again()
        await again()

    asyncio.run(look())
    assert failures(store) == [
        ("metrics-0", "refused", 1),
        ("metrics-0", "refused", 1),
        ("metrics-0", "target_down", 2),
    ]
    with store.snapshot() as connection:
        first = tunnel_failures.of_job(connection, SITE, "77")[-1]
    assert first.said.startswith("HTTP status 503: later, ")
    assert len(first.said.encode()) <= SAID_BYTES
    assert first.last_at - first.first_at == 15


def test_failures_are_bounded(store: Store) -> None:
    def change(connection: sqlite3.Connection) -> None:
        for number in range(50):
            one = tunnel_failures.Failed(SITE, "77", "client", "timeout", 100.0 + number, "", goes_on=False)
            tunnel_failures.keep(connection, [one])
        late = 200.0 + tunnel_failures.KEPT_SECONDS
        tunnel_failures.keep(
            connection, [tunnel_failures.Failed(SITE, "78", "client", "auth", late, "", goes_on=False)]
        )

    with store.snapshot() as connection:
        assert tunnel_failures.latest(connection, SITE, most=100) == []
    store.write(change)
    with store.snapshot() as connection:
        assert [one.job_id for one in tunnel_failures.latest(connection, SITE, most=100)] == ["78"], "old ones go"

    def many(connection: sqlite3.Connection) -> None:
        for number in range(50):
            one = tunnel_failures.Failed(SITE, "77", "client", "timeout", 1e6 + number, "", goes_on=False)
            tunnel_failures.keep(connection, [one])

    store.write(many)
    assert len(failures(store)) == tunnel_failures.KEPT


@pytest.mark.parametrize("cut", [0, 200])
def test_what_an_answer_repeats_of_our_token_is_not_kept(cut: int) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.read(65536)
        if b"authentication_mode" in request:
            writer.write(http(200, {"authentication_mode": "token"}))
        else:
            writer.write(http(403, b"y" * (SAID_BYTES - cut - 30) + request.partition(b"Bearer ")[2]))

    finding = found("dashboard", echo, secret=SECRET)
    assert finding.state == "auth"
    assert SECRET[:12] not in finding.said
    assert "(secret)" in finding.said or not cut
