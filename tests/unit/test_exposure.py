"""Whether others can reach the ports of tunnels: by real listeners, as the kernel has them."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from exporter.config import Config, load_config
from exporter.errors import ConfigError
from exporter.metrics.render import Renderer
from exporter.store import exposure, submissions
from exporter.store.db import Store
from exporter.tunnels import prober
from exporter.tunnels.prober import TunnelProber
from exporter.web.pages import Pages
from tests.unit.answering import unused
from tests.unit.conftest import Clock
from tests.unit.query_plans import plans_of

SITE = "puhti2"


@contextmanager
def listening(*addresses: str) -> Iterator[int]:
    """Listens on the same port of several addresses, and gives it."""
    opened: list[socket.socket] = []
    port = 0
    try:
        for address in addresses:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            server = socket.socket(family)
            opened.append(server)
            if family == socket.AF_INET6:
                server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            server.bind((address, port))
            server.listen()
            port = server.getsockname()[1]
        yield port
    finally:
        for server in opened:
            server.close()


def launched(store: Store, ports: dict[str, int], *, job_id: str = "77", state: str = "running") -> None:
    def change(connection: sqlite3.Connection) -> None:
        submissions.intend(
            connection, token=f"token{job_id}", site=SITE, campaign="", name="train", run_dir="x", now=1.0, spec={},
            tunnels={name: [port] for name, port in ports.items()},
        )  # fmt: skip
        submissions.submitted(connection, f"token{job_id}", job_id, now=2.0)
        connection.execute("UPDATE jobs SET state = ? WHERE job_id = ?", (state, job_id))

    store.write(change)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What listens here answers nothing."""
    monkeypatch.setattr(prober, "DEADLINE_SECONDS", 0.1)


def look(config: Config, store: Store, clock: Clock) -> dict[str, float]:
    """Makes a round, and returns what /metrics says of each tunnel."""
    asyncio.run(TunnelProber(config, store, clock=clock).round(config.site(SITE)))
    return shown(config, store, clock)


def shown(config: Config, store: Store, clock: Clock) -> dict[str, float]:
    text = Renderer(store, config, clock=clock).render("")[0].decode()
    lines = [line for line in text.splitlines() if line.startswith("rayslurm_tunnel_bind_exposed{")]
    return {line.partition('tunnel="')[2].partition('"')[0]: float(line.rpartition(" ")[2]) for line in lines}


@pytest.mark.parametrize(
    ("addresses", "value"),
    [(["127.0.0.1"], 0), (["127.0.0.1", "::1"], 0), (["0.0.0.0"], 1), (["127.0.0.1", "::"], 1)],
)
def test_a_port_that_others_reach_is_exposed(
    config: Config, store: Store, clock: Clock, addresses: list[str], value: float
) -> None:
    with listening(*addresses) as port, unused() as closed:
        launched(store, {"client": port, "serve": closed})
        assert look(config, store, clock) == {"client": value, "serve": 0}
    page = Pages(store, config, clock=clock).job(SITE, "77") or ""
    assert (f"Others can reach the tunnel client: it is listened on at {addresses[-1]}." in page) is bool(value)


def test_it_is_seen_in_the_next_round_and_gone_in_the_one_after(config: Config, store: Store, clock: Clock) -> None:
    with unused() as port:
        launched(store, {"dashboard": port})
        assert look(config, store, clock) == {"dashboard": 0}
    server = socket.create_server(("0.0.0.0", port))
    assert look(config, store, clock) == {"dashboard": 1}
    server.close()
    assert look(config, store, clock) == {"dashboard": 0}
    clock.now += 51
    assert shown(config, store, clock) == {}, "past its time it is not known"


def test_an_address_that_only_its_owner_reaches_may_be_configured(
    config_path: Path, store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = {ipaddress.ip_address("192.0.2.7")}
    with unused() as port:
        launched(store, {"dashboard": port})
        monkeypatch.setattr(prober, "listeners", lambda: {port: private})
        assert look(load_config(config_path), store, clock) == {"dashboard": 1}
        config_path.write_text(config_path.read_text() + "  private_addresses: [192.0.2.7, 'fd00::7']\n")
        assert look(load_config(config_path), store, clock) == {"dashboard": 0}
        private.add(ipaddress.ip_address("192.0.2.10"))
        assert look(load_config(config_path), store, clock) == {"dashboard": 1}


@pytest.mark.parametrize("address", ["0.0.0.0", "'::'", "vm.example.org", "10.0.0.0/8", "7"])
def test_what_is_no_private_address_is_refused(config_path: Path, address: str) -> None:
    config_path.write_text(config_path.read_text() + f"  private_addresses: [{address}]\n")
    with pytest.raises(ConfigError, match=r"private_addresses.*write an IP address that only you reach"):
        load_config(config_path)


def test_where_the_kernel_cannot_be_read_it_is_absent_and_said_once(
    config: Config, store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unreadable() -> None:
        raise PermissionError(13, "Permission denied", "/proc/net/tcp")

    async def rounds() -> None:
        probing = TunnelProber(config, store, clock=clock)
        await probing.round(config.site(SITE))
        await probing.round(config.site(SITE))

    with unused() as port:
        launched(store, {"dashboard": port})
        assert look(config, store, clock) == {"dashboard": 0}
        monkeypatch.setattr(prober, "listeners", unreadable)
        caplog.set_level(logging.WARNING)
        asyncio.run(rounds())
    assert shown(config, store, clock) == {}
    assert caplog.text.count("it can't be seen who listens on this machine") == 1


def test_the_tables_of_another_network_say_nothing(
    config: Config, store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a tunnel answers and the kernel knows of no listener, it isn't this kernel's network that has it."""
    monkeypatch.setattr(prober, "listeners", dict)
    with listening("127.0.0.1") as port:
        launched(store, {"client": port})
        assert look(config, store, clock) == {}


def test_a_tunnel_that_outlives_its_job_is_looked_at_and_a_waiting_jobs_port_is_not(
    config: Config, store: Store, clock: Clock
) -> None:
    with listening("0.0.0.0") as outlived, listening("0.0.0.0") as waiting, unused() as closed:
        launched(store, {"dashboard": outlived, "client": closed}, state="completed")
        launched(store, {"serve": waiting}, job_id="78", state="pending")
        assert look(config, store, clock) == {"dashboard": 1}
    assert look(config, store, clock) == {}


def test_looking_does_not_walk_through_all_jobs(store: Store) -> None:
    plans = plans_of(
        store,
        lambda connection: exposure.held(connection, SITE),
        lambda connection: exposure.current(connection, now=1.0),
    )
    assert not [plan for plan in plans if plan.startswith(("SCAN s", "SCAN j"))], plans
