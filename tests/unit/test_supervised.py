"""What supervisors say of their tunnels, nodes and listeners: where it is shown, and to whom it is a warning."""

from __future__ import annotations

import asyncio
import socket
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.config import Config
from exporter.errors import InputError
from exporter.metrics.render import Renderer
from exporter.store import runs, supervised
from exporter.store.db import Store
from exporter.store.runs import Run
from exporter.store.supervised import OpenListener, TunnelRestarts
from exporter.tunnels import prober
from exporter.tunnels.prober import TunnelProber
from exporter.web.pages import Pages
from tests.unit.conftest import Clock
from tests.unit.test_cli import run
from tests.unit.test_connect import SITE, launched, told

PIPE = "ssh ended with exit status 255: client_loop: <Broken> pipe"
TUNNELS = [TunnelRestarts("dashboard", 3, PIPE), TunnelRestarts("metrics-0", 0, "")]
NOTEBOOK = OpenListener("c1", "jupyter-lab", "0.0.0.0", (8888, 8889))
SENTENCE = "others at the site reach jupyter-lab on c1, port 8888, 8889 of all addresses: it asks for no token of Ray"


def says(store: Store, **what: Any) -> None:
    said = Run(SITE, "77", phase="ready", ready_time=5.0, **what)
    store.write(lambda connection: runs.keep(connection, said, now=6.0))


def shown(store: Store, config: Config) -> list[str]:
    text = Renderer(store, config).render("")[0].decode()
    return [line for line in text.splitlines() if line.startswith("rayslurm_tunnel_restarts_total{")]


def test_restarts_are_a_counter_of_each_tunnel_also_of_a_job_that_has_ended(store: Store, config: Config) -> None:
    launched(store, {"dashboard": 8100})
    assert shown(store, config) == []
    says(store, tunnels=TUNNELS)
    lines = [
        f'rayslurm_tunnel_restarts_total{{job_id="77",site="{SITE}",tunnel="dashboard"}} 3.0',
        f'rayslurm_tunnel_restarts_total{{job_id="77",site="{SITE}",tunnel="metrics-0"}} 0.0',
    ]
    assert shown(store, config) == lines
    ended = "UPDATE jobs SET state = 'completed', final = 1, end_time = unixepoch() WHERE job_id = '77'"
    store.write(lambda connection: connection.execute(ended))
    assert shown(store, config) == lines


def test_restarts_and_their_reason_are_listed_and_on_the_jobs_page(
    store: Store, config: Config, config_path: Path
) -> None:
    launched(store, {"dashboard": 8100, "client": 8151})
    says(store, tunnels=TUNNELS)
    found = {one["tunnel"]: one for one in told("tunnels", "list", config=config_path)}
    assert (found["dashboard"]["restarts"], found["dashboard"]["restart_reason"]) == (3, PIPE)
    assert (found["client"]["restarts"], found["client"]["restart_reason"]) == (None, None)
    lines = {line.split()[1]: line.split() for line in run("tunnels", "list", config=config_path).stdout.splitlines()}
    assert lines["TUNNEL"][4:6] == ["STATE", "RESTARTS"]
    assert (lines["dashboard"][4], lines["client"][4]) == ("3", "?"), "its state isn't known"
    page = Pages(store, config).job(SITE, "77") or ""
    assert "3 times; the last time because ssh ended with exit status 255: client_loop: &lt;Broken&gt; pipe" in page
    assert "Tunnel metrics-0 started again" not in page


def test_an_open_listener_is_a_warning_wherever_its_job_is_shown(
    store: Store, config: Config, config_path: Path
) -> None:
    launched(store, {"dashboard": 8100})
    says(store, open_listeners=[])
    assert "others at the site" not in run("status", config=config_path).stderr
    says(store, open_listeners=[NOTEBOOK])
    assert f"{SITE}/77: {SENTENCE}" in run("status", config=config_path).stderr
    assert SENTENCE in run("connect", "77", config=config_path).stderr
    row = {"node": "c1", "program": "jupyter-lab", "address": "0.0.0.0", "ports": [8888, 8889]}
    assert told("connect", "77", config=config_path)["open_listeners"] == [row]
    assert told("status", config=config_path)["jobs"][0]["run"]["open_listeners"] == [row]
    assert SENTENCE in (Pages(store, config).job(SITE, "77") or "")
    says(store)
    assert SENTENCE in run("status", config=config_path).stderr, "what was not told anew stays as it was"


def test_ssh_that_comes_again_on_the_same_port_is_noticed(
    store: Store, config: Config, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prober, "DEADLINE_SECONDS", 0.1)  # what listens here answers nothing

    def look() -> float | None:
        asyncio.run(TunnelProber(config, store, clock=clock).round(config.site(SITE)))
        clock.now += 15
        with store.snapshot() as connection:
            (job,) = runs.unread(connection, SITE, now=clock.now, since=0)
            return job.mended

    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
        launched(store, {"metrics-0": port})
        assert look() is None
        assert look() is None, "it is the same"
    with closing(socket.socket()) as holder:
        holder.bind(("127.0.0.1", port))
        assert look() is None, "while nobody listens it isn't mended"
        holder.listen()
        at = clock.now
        assert look() == at
    with closing(socket.create_server(("127.0.0.1", port))):
        assert look() == at + 15


scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
keys = st.sampled_from(["name", "restarts", "reason", "node", "program", "address", "ports"])
rows = scalars | st.dictionaries(keys, scalars | st.lists(scalars, max_size=2), max_size=4)
values = scalars | st.lists(rows, max_size=2)


@given(values)
def test_whatever_stands_there_is_read_or_refused(value: Any) -> None:
    for name in ("tunnels", "open_listeners", "node_names"):
        try:
            found = getattr(supervised, name)({name: value})
        except InputError:
            assert value is not None
        else:
            assert found is None or len(found) == len(value)


@pytest.mark.parametrize("count", [1, 2000])
def test_what_is_kept_of_a_reason_and_of_a_list_is_bounded(count: int) -> None:
    found = supervised.tunnels({"tunnels": [{"name": "x", "restarts": 1, "reason": "y" * 2000}] * count})
    assert found is not None
    assert len(found) == min(count, 500)
    assert len(found[0].reason) == 500
