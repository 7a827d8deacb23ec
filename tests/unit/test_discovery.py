"""/sd/ray: which of Rays' own metrics Prometheus is told to scrape, and until when."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import Any

import httpx
import pytest

from exporter.config import Config
from exporter.metrics.render import Renderer
from exporter.store import runs, submissions, tunnels
from exporter.store.db import Store
from exporter.store.runs import Run
from exporter.store.tunnels import Health
from exporter.web.app import make_app
from exporter.web.discovery import Discovery
from exporter.web.pages import Pages

SITE = "puhti2"


def answer(store: Store, config: Config, path: str = "/sd/ray") -> httpx.Response:
    async def ask() -> httpx.Response:
        app = make_app(Renderer(store, config), Pages(store, config), Discovery(store, config), lambda: True)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            return await client.get(path)

    return asyncio.run(ask())


def listed(store: Store, config: Config) -> list[dict[str, Any]]:
    found = answer(store, config)
    assert (found.status_code, found.headers["content-type"]) == (200, "application/json")
    told: list[dict[str, Any]] = found.json()
    return told


def launched(store: Store, job_id: str, ports: dict[str, int], *, site: str = SITE, campaign: str = "") -> None:
    def change(connection: sqlite3.Connection) -> None:
        submissions.intend(
            connection, token=f"token{job_id}", site=site, campaign=campaign, name="train", run_dir="x", now=1.0,
            spec={}, tunnels={name: [port] for name, port in ports.items()},
        )  # fmt: skip
        submissions.submitted(connection, f"token{job_id}", job_id, now=2.0)
        connection.execute("UPDATE jobs SET state = 'running' WHERE job_id = ?", (job_id,))

    store.write(change)


def ready(store: Store, job_id: str, site: str = SITE) -> None:
    store.write(lambda connection: runs.keep(connection, Run(site, job_id, ready_time=100.0), now=100.0))


def test_no_job_is_an_empty_list(store: Store, config: Config) -> None:
    assert listed(store, config) == []


def test_each_node_of_a_ready_ray_is_a_target_with_our_labels(store: Store, config: Config) -> None:
    launched(store, "77", {"dashboard": 8100, "metrics-0": 8201, "metrics-1": 8202}, campaign="nightly")
    assert listed(store, config) == [], "before Ray is ready nothing can be scraped"
    ready(store, "77")
    labels = {"site": SITE, "job_id": "77", "campaign": "nightly"}
    assert listed(store, config) == [
        {"targets": ["127.0.0.1:8201"], "labels": {**labels, "node": "0"}},
        {"targets": ["127.0.0.1:8202"], "labels": {**labels, "node": "1"}},
    ]


def test_what_has_answered_is_a_target_though_nothing_was_heard_of_its_job(store: Store, config: Config) -> None:
    launched(store, "77", {"metrics-0": 8201, "metrics-1": 8202})

    def found(state: str) -> None:
        health = Health(SITE, "77", "metrics-1", state, 100.0, 0.1, 150.0)
        store.write(lambda connection: tunnels.keep(connection, [health]))

    found("refused")
    assert listed(store, config) == []
    found("up")
    assert [group["targets"] for group in listed(store, config)] == [["127.0.0.1:8202"]]
    found("refused")
    assert [group["targets"] for group in listed(store, config)] == [["127.0.0.1:8202"]], "its loss is to be seen"


@pytest.mark.parametrize("state", ["completed", "pending", "unknown"])
def test_a_job_that_does_not_run_is_left_out_at_the_next_answer(store: Store, config: Config, state: str) -> None:
    for job_id, port in (("77", 8201), ("78", 8202)):
        launched(store, job_id, {"metrics-0": port})
        ready(store, job_id)
    assert len(listed(store, config)) == 2
    store.write(lambda connection: connection.execute("UPDATE jobs SET state = ? WHERE job_id = '77'", (state,)))
    assert [group["labels"]["job_id"] for group in listed(store, config)] == ["78"]


def test_a_site_that_is_not_configured_any_more_is_left_out(store: Store, config: Config) -> None:
    launched(store, "77", {"metrics-0": 8201}, site="elsewhere")
    ready(store, "77", "elsewhere")
    assert listed(store, config) == []


def test_a_store_that_cannot_be_read_is_an_error_so_that_prometheus_keeps_what_it_has(
    store: Store, config: Config
) -> None:
    store.write(lambda connection: connection.execute("ALTER TABLE leases RENAME TO lost"))
    assert answer(store, config).status_code == 503


def test_finding_the_targets_does_not_walk_through_all_jobs(store: Store) -> None:
    statements: list[str] = []
    with store.snapshot() as connection:
        connection.set_trace_callback(statements.append)
        tunnels.metrics_targets(connection)
        connection.set_trace_callback(None)
        plans = [
            row["detail"] for sql in statements for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}").fetchall()
        ]
    assert plans
    assert not [plan for plan in plans if plan.startswith(("SCAN s", "SCAN j", "SCAN l"))], plans


def test_a_node_is_named_where_its_name_is_known(store: Store, config: Config) -> None:
    launched(store, "77", {f"metrics-{number}": 8201 + number for number in range(12)})
    names = [f"r{number:02}c1" for number in range(11)]
    said = Run(SITE, "77", ready_time=100.0, node_names=names)
    store.write(lambda connection: runs.keep(connection, said, now=100.0))
    assert [group["labels"]["node"] for group in listed(store, config)] == [*names, "11"]
