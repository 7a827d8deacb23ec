"""Balances as people and Prometheus see them: each case told truly, with its pace and what is forecast."""

from __future__ import annotations

import json
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from exporter.config import Config, load_config
from exporter.funds.projects import Fund, funds
from exporter.metrics.render import Renderer
from exporter.records import AllocationRecord, Bill
from exporter.store import balances, bills, jobs
from exporter.store.db import Store
from exporter.web.pages import Pages
from tests.unit.conftest import Clock
from tests.unit.filled import SITE, as_puhti
from tests.unit.test_cli import run as rayslurm
from tests.unit.test_page import Tables

DAY, HOUR = 86400.0, 3600.0
PROJECT = "project_2001234"


@pytest.fixture
def puhti(config_path: Path) -> Config:
    return load_config(as_puhti(config_path))


def keep(
    store: Store, now: float, used: float, granted: float | None = 1000, *, kind: str = "cpu", **about: Any
) -> None:
    left = None if granted is None else granted - used
    record = AllocationRecord("csc", PROJECT, kind, "BU", used, granted, left)
    store.write(lambda connection: balances.keep(connection, "csc", PROJECT, [record], now=now, **about))


def found(store: Store, config: Config, now: float) -> Fund:
    with store.snapshot() as connection:
        (fund,) = funds(connection, config, now=now)
    return fund


def test_use_is_known_from_what_was_read_before_and_a_grant_changes_none_of_it(
    store: Store, puhti: Config, clock: Clock
) -> None:
    for hour in range(24 * 3 + 1):
        keep(store, clock.now + hour * HOUR, 5.0 * hour, 1000 if hour < 30 else 9000)
    fund = found(store, puhti, clock.now + 3 * DAY)
    assert fund.forecast.per_day_1d == pytest.approx(120)
    assert fund.forecast.per_day_7d == pytest.approx(120)
    assert fund.forecast.exhausted_at == pytest.approx(clock.now + 3 * DAY + (9000 - 360) / 120 * DAY)


def test_what_our_own_jobs_cost_is_told_apart(store: Store, puhti: Config, clock: Clock) -> None:
    for hour in range(25):
        keep(store, clock.now + hour * HOUR, 10.0 * hour)

    def pay(connection: sqlite3.Connection) -> None:
        for job_id, end_time in (("5", clock.now + HOUR), ("4", clock.now - 8 * DAY)):
            jobs.track(connection, SITE, job_id, now=clock.now)
            about = {"job_name": "t", "project": PROJECT, "partition": "small", "campaign": ""}
            jobs.expect(connection, SITE, job_id, **about, new=True, now=clock.now)
            connection.execute("UPDATE jobs SET end_time = ? WHERE job_id = ?", (int(end_time), job_id))
            bill = Bill("seff", "cpu", "BU", 420, PROJECT)
            bills.keep(connection, SITE, job_id, bill, final=True, now=clock.now + HOUR)

    store.write(pay)
    fund = found(store, puhti, clock.now + DAY)
    assert fund.forecast.ours_7d == 60, "what ended before the week, and was taken in today, is not of it"
    assert fund.forecast.our_share == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("used", "granted", "about", "remark"),
    [
        (1100, 1000, {}, "overspent"),
        (5, None, {}, "nothing granted"),
        (5, 1000, {"end_time": 1_700_000_000}, "project ended"),
        (5, 1000, {"status": "closed"}, "project closed"),
        (999, 1000, {}, "nearly used up"),
        (5, 1000, {"status": "open"}, ""),
    ],
)
def test_each_case_has_its_own_word_on_the_page_and_in_status(
    store: Store, puhti: Config, config_path: Path, clock: Clock, used: float, granted: float | None,
    about: dict[str, Any], remark: str,
) -> None:  # fmt: skip
    keep(store, clock.now, used, granted, **about)
    row = Tables(Pages(store, puhti, clock=clock).front()).row("What projects may use", Project=PROJECT)
    assert row["Remark"] == remark
    shown = rayslurm("status", config=config_path).stdout
    assert remark in shown
    (told,) = json.loads(rayslurm("status", "--json", config=config_path).stdout)["balances"]
    assert (told["remark"], told["granted"], told["used"]) == (remark or None, granted, used)


def test_of_a_project_that_is_lost_nothing_is_told_but_that(
    store: Store, puhti: Config, config_path: Path, clock: Clock
) -> None:
    for hour in range(49):
        keep(store, clock.now + hour * HOUR, 5.0 * hour, status="open")
    clock.now += 2 * DAY
    store.write(lambda connection: balances.lost(connection, "csc", PROJECT, now=clock.now))
    fund = found(store, puhti, clock.now)
    assert (fund.balance, fund.standing.word, fund.forecast.per_day_7d) == (None, "no access", None)
    assert fund.project.status == "open", "what was known of it stays"
    text = Renderer(store, puhti, clock=clock).render("")[0].decode()
    assert "rayslurm_allocation_" not in text
    assert f'rayslurm_project_accessible{{project="{PROJECT}",provider="csc"}} 0.0' in text
    assert "no access" in rayslurm("status", config=config_path).stdout


def test_at_csc_no_storage_units_left_is_said_wherever_balances_are(
    store: Store, puhti: Config, config_path: Path, clock: Clock
) -> None:
    keep(store, clock.now, 300, 300, kind="storage")
    fund = found(store, puhti, clock.now)
    assert fund.blocks
    assert fund.is_bad
    assert "used up; no job is taken before there are some" in rayslurm("status", config=config_path).stdout


def test_use_since_the_grant_is_a_metric_where_it_is_known(store: Store, puhti: Config, clock: Clock) -> None:
    grant = int(clock.now - 10 * DAY)
    for day in range(12):
        keep(store, clock.now + (day - 11) * DAY, 100.0 + day, last_grant_time=grant)
    fund = found(store, puhti, clock.now)
    assert fund.used_since_grant == pytest.approx(11, abs=2)
    assert fund.forecast.cutter is not None
    assert "less than 40%: part of" in fund.remark
    keep(store, clock.now, 111.0, last_grant_time=int(clock.now - 50 * DAY))
    assert found(store, puhti, clock.now).used_since_grant is None


def test_use_since_the_grant_stands_on_metrics(store: Store, puhti: Config, clock: Clock) -> None:
    keep(store, clock.now - DAY, 100.0, last_grant_time=int(clock.now - DAY))
    keep(store, clock.now, 130.0, last_grant_time=int(clock.now - DAY))
    text = Renderer(store, puhti, clock=clock).render("")[0].decode()
    labels = f'{{kind="cpu",project="{PROJECT}",provider="csc",unit="BU"}}'
    assert f"rayslurm_allocation_used_since_grant{labels} 30.0" in text


def test_readings_are_thinned_and_end_after_a_year(store: Store, clock: Clock) -> None:
    start = time.time()
    for hour in range(0, 24 * 20, 2):
        keep(store, start + hour * HOUR, float(hour))
    with store.snapshot() as connection:
        count = connection.execute("SELECT count(*) FROM balance_readings").fetchone()[0]
    assert count < 9 * 12 + 15, "of older days one each"
    keep(store, start + 500 * DAY, 1.0)
    with store.snapshot() as connection:
        assert connection.execute("SELECT count(*) FROM balance_readings").fetchone()[0] == 1
