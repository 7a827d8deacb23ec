"""How the Ray clusters of running jobs are: what their dashboards tell, how long it is believed, where it is shown."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from exporter.config import Config
from exporter.errors import InputError
from exporter.metrics.render import Renderer
from exporter.practice.ray import Dashboard, Node
from exporter.store import clusters, submissions, tunnel_failures
from exporter.store.clusters import GAP_SECONDS, RayCluster
from exporter.store.db import Store
from exporter.tunnels import cluster as clusters_asked
from exporter.tunnels.cluster import STALE_SECONDS, Cluster, ask
from exporter.tunnels.prober import TunnelProber
from exporter.tunnels.secrets import keep_secret
from exporter.web.pages import Pages
from tests.prometheus_server import program
from tests.unit.answering import answering, http, pages
from tests.unit.conftest import Clock

SITE = "puhti2"
SECRET = "5ecret" * 10
TOKEN = "abcdefghjkmn"
GONE = 3 * 15 + 5 + 0.1
"""After so many seconds what a round has found is not known any more."""


def nodes(*states: str) -> dict[str, Any]:
    return {"data": {"result": {"result": [{"node_ip": "10.0.0.1", "state": state} for state in states]}}}


def status(_written: float = 1.0, /, **usage: list[float]) -> dict[str, Any]:
    return {"data": {"clusterStatus": {"time": _written, "loadMetricsReport": {"usage": usage}}}}


class FakeRay:
    """A dashboard whose answers a test changes."""

    def __init__(self) -> None:
        self.known: dict[str, bytes | None] = {
            "/api/authentication_mode": http(200, {"authentication_mode": "token"}),
            "/api/version": http(200, {"version": "4", "ray_version": "2.60.0", "session_name": "session_1"}),
        }
        self.tells(nodes("ALIVE", "ALIVE", "DEAD"), status(CPU=[1.0, 4.0], GPU=[0.0, 2.0], memory=[0.0, 8e9]))

    def tells(self, listed: object = None, told: object = None, health: int | None = None) -> None:
        """Changes what it tells of nodes, of use, and of its control store."""
        if listed is not None:
            self.known["/api/v0/nodes"] = http(200, listed)
        if told is not None:
            self.known["/api/cluster_status"] = http(200, told)
        self.known["/api/gcs_healthz"] = http(health or 200, b"success")

    def serving(self, port: int = 0) -> AbstractAsyncContextManager[int]:
        return answering(pages(self.known), port)


def launched(store: Store, port: int, *, expected: int = 3) -> None:
    def change(connection: sqlite3.Connection) -> None:
        submissions.intend(
            connection, token=TOKEN, site=SITE, campaign="nightly", name="train", run_dir="x", now=1.0,
            spec={"cluster": {"nodes": expected}}, tunnels={"dashboard": [port]},
        )  # fmt: skip
        submissions.submitted(connection, TOKEN, "77", now=2.0)
        connection.execute("UPDATE jobs SET state = 'running' WHERE job_id = '77'")

    store.write(change)


def live(config: Config, store: Store, clock: Clock, story: Callable[[FakeRay, Callable[..., Any]], Any]) -> None:
    """Runs a story of a Ray; it is given the Ray and what makes a round, some seconds after the one before."""

    async def tell() -> None:
        ray = FakeRay()
        keep_secret(config.state_dir, TOKEN, SECRET)
        prober = TunnelProber(config, store, clock=clock)

        async def look(after: float = 15) -> None:
            clock.now += after
            await prober.round(config.site(SITE))

        async with ray.serving() as port:
            launched(store, port)
            await story(ray, look)

    asyncio.run(tell())


def shown(config: Config, store: Store, clock: Clock) -> dict[str, float]:
    """What /metrics says of the job's Ray: by name and the label beside the job's."""
    text = Renderer(store, config, clock=clock).render("")[0].decode()
    found = {}
    for line in text.splitlines():
        name, brace, rest = line.partition("{")
        if brace and name.startswith("rayslurm_ray_"):
            labels, _, value = rest.rpartition("} ")
            own = dict(pair.split("=") for pair in labels.split(","))
            assert (own.pop("site"), own.pop("job_id")) == (f'"{SITE}"', '"77"')
            key = " ".join([name.removeprefix("rayslurm_ray_"), *(one.strip('"') for one in own.values())])
            found[key] = float(value)
    return found


# --- what the dashboard tells -----------------------------------------------------------------------------------------


def asked(ray: FakeRay) -> Cluster:
    async def question() -> Cluster:
        async with ray.serving() as port:
            return await ask(port, SECRET)

    return asyncio.run(question())


def test_nodes_by_their_states_and_resources_by_our_names() -> None:
    ray = FakeRay()
    ray.tells(
        nodes("ALIVE", "DEAD", "DEAD"),
        status(CPU=[3.0, 4.0], memory=[1e9, 8e9], objectStoreMemory=[5.0, 2e8], **{"node:10.0.0.1": [0.0, 1.0]}),
    )
    told = asked(ray)
    assert (told.nodes, told.gcs_up, told.is_idle) == ({"alive": 1, "dead": 2}, True, False)
    assert told.capacity == {"cpu": 4.0, "memory_bytes": 8e9, "object_store_memory_bytes": 2e8}
    assert told.used == {"cpu": 3.0, "memory_bytes": 1e9, "object_store_memory_bytes": 5.0}


@pytest.mark.parametrize(
    ("usage", "idle"),
    [
        ({"CPU": [0.0, 4.0]}, True),
        ({"CPU": [0.5, 4.0]}, False),
        ({"CPU": [0.0, 4.0], "GPU": [0.0, 1.0]}, True),
        ({"CPU": [0.0, 4.0], "GPU": [0.25, 1.0]}, False),
        ({"CPU": [0.0, 4.0], "memory": [5.0, 9.0]}, True),
        ({"memory": [0.0, 9.0]}, None),
        ({}, None),
    ],
)
def test_idle_is_without_cpu_and_gpu_in_use_and_unknown_without_an_account(
    usage: dict[str, list[float]], idle: bool | None
) -> None:
    ray = FakeRay()
    ray.tells(told=status(**usage))
    assert asked(ray).is_idle is idle


def test_a_ray_that_has_no_status_yet_still_has_nodes() -> None:
    ray = FakeRay()
    ray.tells(told={"data": {"clusterStatus": None}})
    told = asked(ray)
    assert (told.nodes["alive"], told.capacity, told.used, told.is_idle) == (2, {}, {}, None)


@pytest.mark.parametrize("health", [http(503, b"Health check failed"), None])
def test_where_the_control_store_does_not_answer_no_more_is_known(
    health: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clusters_asked, "GCS_SECONDS", 0.2)
    ray = FakeRay()
    ray.known["/api/gcs_healthz"] = health
    assert asked(ray) == Cluster({}, {}, {}, gcs_up=False)


@pytest.mark.parametrize("answer", [b"SSH-2.0-x\r\n", http(200, b"<html>"), http(200, {"data": None}), http(500)])
@pytest.mark.parametrize("path", ["/api/v0/nodes", "/api/cluster_status"])
def test_what_is_not_understood_is_an_error(path: str, answer: bytes) -> None:
    ray = FakeRay()
    ray.known[path] = answer
    with pytest.raises(InputError, match="Ray"):
        asked(ray)


def test_the_practice_sites_ray_tells_as_real_ones_do() -> None:
    dashboard = Dashboard(0, nodes=2, node=Node(4), session="session_1", token=SECRET)
    told = asyncio.run(ask(dashboard.port, SECRET))
    dashboard.used_cpus = 0
    assert (told.nodes, told.capacity["cpu"], told.used["cpu"], told.is_idle) == ({"alive": 2}, 8, 8, False)
    assert told.capacity.keys() == {"cpu", "memory_bytes", "object_store_memory_bytes"}
    assert asyncio.run(ask(dashboard.port, SECRET)).is_idle
    dashboard.stop()


# --- how long it is believed, and where it is shown -------------------------------------------------------------------


def test_what_is_shown_of_a_ray(config: Config, store: Store, clock: Clock) -> None:
    async def story(_: FakeRay, look: Callable[..., Awaitable[None]]) -> None:
        await look()
        found = shown(config, store, clock)
        assert found == {
            "nodes alive": 2,
            "nodes dead": 1,
            "nodes_expected": 3,
            "resource_capacity cpu": 4,
            "resource_capacity gpu": 2,
            "resource_capacity memory_bytes": 8e9,
            "resource_used cpu": 1,
            "resource_used gpu": 0,
            "resource_used memory_bytes": 0,
            "gcs_up": 1,
            "idle_seconds": 0,
        }

    live(config, store, clock, story)
    text = Renderer(store, config, clock=clock).render("")[0]
    checked = subprocess.run([program("promtool"), "check", "metrics"], input=text, capture_output=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


def test_no_node_alive_is_shown_as_none_alive(config: Config, store: Store, clock: Clock) -> None:
    async def story(ray: FakeRay, look: Callable[..., Awaitable[None]]) -> None:
        ray.tells(nodes("DEAD"))
        await look()
        assert (shown(config, store, clock)["nodes alive"], shown(config, store, clock)["nodes dead"]) == (0, 1)

    live(config, store, clock, story)


@pytest.mark.parametrize("dies", ["/api/version", "/api/authentication_mode"])
def test_a_dead_dashboard_leaves_no_old_values(config: Config, store: Store, clock: Clock, dies: str) -> None:
    async def story(ray: FakeRay, look: Callable[..., Awaitable[None]]) -> None:
        await look()
        assert "nodes alive" in shown(config, store, clock)
        ray.known[dies] = b""
        await look()
        assert shown(config, store, clock) == {"nodes_expected": 3}

    live(config, store, clock, story)


def test_what_is_past_its_time_is_absent(config: Config, store: Store, clock: Clock) -> None:
    async def story(ray: FakeRay, look: Callable[..., Awaitable[None]]) -> None:
        await look()
        ray.tells(told={"data": "of another kind"})
        await look()
        assert shown(config, store, clock)["nodes alive"] == 2, "a round or two may be missed"
        await look()
        await look()
        await look()
        assert shown(config, store, clock) == {"nodes_expected": 3}
        with store.snapshot() as connection:
            (failure,) = tunnel_failures.of_job(connection, SITE, "77")
        assert (failure.tunnel, failure.state, failure.times) == ("ray", "not_understood", 4)

    live(config, store, clock, story)


def test_a_control_store_that_is_gone_is_shown_and_nothing_of_before(
    config: Config, store: Store, clock: Clock
) -> None:
    async def story(ray: FakeRay, look: Callable[..., Awaitable[None]]) -> None:
        await look()
        ray.tells(health=503)
        await look()
        assert shown(config, store, clock) == {"nodes_expected": 3, "gcs_up": 0}

    live(config, store, clock, story)


def test_idle_grows_from_when_it_was_first_seen_and_ends_with_use(config: Config, store: Store, clock: Clock) -> None:
    async def story(ray: FakeRay, look: Callable[..., Awaitable[None]]) -> None:
        def idle() -> float:
            return shown(config, store, clock)["idle_seconds"]

        ray.tells(told=status(1.0, CPU=[0.0, 4.0]))
        await look()
        assert idle() == 0
        ray.tells(told=status(2.0, CPU=[0.0, 4.0]))
        await look()
        assert idle() == 15
        ray.tells(told=status(3.0, CPU=[1.0, 4.0]))
        await look()
        assert idle() == 0
        ray.tells(told=status(4.0, CPU=[0.0, 4.0]))
        await look()
        assert idle() == 0
        ray.tells(told=status(5.0, CPU=[0.0, 4.0]))
        await look()
        assert idle() == 15

    live(config, store, clock, story)


def idle_at(store: Store, at: float) -> float | None:
    """Keeps that a cluster was idle, and returns since when it is."""
    used = {"cpu": 0.0}
    told = RayCluster(SITE, "77", at, at + 50, {"alive": 1}, {"cpu": 4.0}, used, gcs_up=True, idle=True)
    store.write(lambda connection: clusters.keep(connection, [told]))
    with store.snapshot() as connection:
        return clusters.current(connection, now=at)[SITE, "77"].idle_since


def test_idle_is_kept_over_a_restart_and_a_dead_tunnel_but_not_over_a_long_gap(store: Store) -> None:
    launched(store, 8100)
    assert idle_at(store, 1000.0) == 1000.0
    with Store(store.path) as again:
        assert idle_at(again, 1060.0) == 1000.0
        again.write(lambda connection: clusters.doubt(connection, [(SITE, "77")]))
        with again.snapshot() as connection:
            assert clusters.current(connection, now=1060.0) == {}
        assert idle_at(again, 1060.0 + GAP_SECONDS) == 1000.0
        late = 1061.0 + 2 * GAP_SECONDS
        assert idle_at(again, late) == late, "what happened meanwhile is not known"


def test_a_status_that_nobody_writes_any_more_is_not_believed(config: Config, store: Store, clock: Clock) -> None:
    """Ray's monitor writes it every few seconds; when it is gone the last one stands for ever, and a Ray looks idle."""

    async def story(ray: FakeRay, look: Callable[..., Awaitable[None]]) -> None:
        ray.tells(told=status(5.0, CPU=[0.0, 4.0]))
        for _ in range(int(STALE_SECONDS / 15)):
            await look()
        assert shown(config, store, clock)["idle_seconds"] == STALE_SECONDS - 15
        await look()
        found = shown(config, store, clock)
        assert found == {"nodes alive": 2, "nodes dead": 1, "nodes_expected": 3, "gcs_up": 1}
        ray.tells(told=status(6.0, CPU=[0.0, 4.0]))
        await look()
        assert shown(config, store, clock)["idle_seconds"] == 0

    live(config, store, clock, story)


def test_what_is_kept_of_a_cluster_goes_with_its_job(config: Config, store: Store, clock: Clock) -> None:
    async def story(_: FakeRay, look: Callable[..., Awaitable[None]]) -> None:
        await look()
        store.write(lambda connection: connection.execute("UPDATE jobs SET state = 'completed', final = 1"))
        assert shown(config, store, clock) == {}

    live(config, store, clock, story)
    store.write(lambda connection: clusters.keep(connection, []))
    with store.snapshot() as connection:
        assert connection.execute("SELECT count(*) FROM ray_clusters").fetchone()[0] == 0


def test_reading_clusters_does_not_walk_through_all_jobs(store: Store) -> None:
    statements: list[str] = []
    with store.snapshot() as connection:
        connection.set_trace_callback(statements.append)
        clusters.current(connection, now=1.0)
        clusters.expected(connection)
        connection.set_trace_callback(None)
        plans = [
            row["detail"] for sql in statements for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}").fetchall()
        ]
    assert plans
    assert not [plan for plan in plans if re.match(r"SCAN (?!c|t USING INDEX tracked_open)", plan)], plans


def test_a_lost_node_stands_in_status_and_on_the_jobs_page(config: Config, config_path: Path, store: Store) -> None:
    clock = Clock(time.time())

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "exporter.cli.entry", *arguments, "--config", str(config_path)]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout

    async def story(ray: FakeRay, look: Callable[..., Awaitable[None]]) -> None:
        await look()
        (told,) = json.loads(run("status", "--json"))["jobs"]
        assert told["ray"]["nodes"] == {"alive": 2, "dead": 1}
        assert (told["ray"]["nodes_expected"], told["ray"]["gcs_up"]) == (3, True)
        assert told["ray"]["used"]["cpu"] == 1
        assert told["ray"]["idle_since"] is None
        assert "2/3 alive" in run("status")
        page = Pages(store, config, clock=clock).job(SITE, "77") or ""
        assert "2 of 3 alive" in page
        assert "1 dead" in page
        assert "1 of 4 CPUs" in page
        ray.tells(nodes("ALIVE", "ALIVE", "ALIVE"), status(2.0, CPU=[0.0, 4.0]))
        await look()
        assert "alive" not in run("status")
        ray.known["/api/version"] = b""
        await look()
        (told,) = json.loads(run("status", "--json"))["jobs"]
        assert told["ray"] is None
        assert "of 4 CPUs" not in (Pages(store, config, clock=clock).job(SITE, "77") or "")

    live(config, store, clock, story)
