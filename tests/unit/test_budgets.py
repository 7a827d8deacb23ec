"""How campaigns' budgets stand on /metrics, what is said beforehand, and jobs that cost more than their caps."""

from __future__ import annotations

import json
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from exporter.client.replay import Exchange
from exporter.config import load_config
from exporter.metrics.render import Renderer
from exporter.owner.budgets import Budgets
from exporter.records import AllocationRecord
from exporter.store import balances, campaign_budgets, consequences, estimates
from exporter.store.db import Store
from exporter.store.estimates import Estimate
from exporter.web.pages import Pages
from tests.unit.conftest import Clock, MakeSite
from tests.unit.filled import SITE, as_puhti
from tests.unit.test_campaigns import HOUR, SPEC, Bench, accepted
from tests.unit.test_cli import run as rayslurm

PUHTI: dict[str, Any] = {"profile": "puhti", "closed": False}
PROJECT = "project_2001234"
LABELS = f'campaign="nightly",kind="cpu",period="{{period}}",site="{SITE}",unit="BU"'
PRICE = 5.6  # an hour of 4 cores and 16 GiB


@pytest.fixture
def bench(config_path: Path, store: Store, clock: Clock, make_site: MakeSite) -> Bench:
    config = load_config(as_puhti(config_path))
    made = Bench(config, store, clock, make_site, accepted(*range(77, 99)))
    made.context, made.transport = make_site(accepted(*range(77, 99)), **PUHTI)
    return made


def reckoned(bench: Bench) -> str:
    Budgets(bench.config).run(bench.context)
    return Renderer(bench.store, bench.config, clock=bench.clock).render("")[0].decode()


def would(bench: Bench) -> tuple[bool, str] | None:
    with bench.store.snapshot() as connection:
        found = campaign_budgets.overdraws(connection)
    return (found[0].would, found[0].reason) if found else None


def test_a_budget_falls_by_what_runs_and_says_that_the_next_run_would_overdraw(bench: Bench) -> None:
    bench.write("budget: {run: 6, month: 10}\n")
    bench.look()
    page = reckoned(bench)
    for period, limit in (("run", 6.0), ("month", 10.0)):
        labels = LABELS.format(period=period)
        assert f"rayslurm_campaign_budget_limit_units{{{labels}}} {limit}" in page
        assert f"rayslurm_campaign_budget_remaining_units{{{labels}}} {limit}" in page
    assert f'rayslurm_campaign_next_run_would_overdraw{{campaign="nightly",site="{SITE}"}} 0.0' in page
    bench.passes(HOUR)
    assert bench.states() == ["running"]
    page = reckoned(bench)
    assert f"rayslurm_campaign_budget_remaining_units{{{LABELS.format(period='month')}}} 4.4" in page
    assert f'rayslurm_campaign_next_run_would_overdraw{{campaign="nightly",site="{SITE}"}} 1.0' in page
    found = would(bench)
    assert found is not None
    assert "its budget.month is 10 cpu BU" in found[1]


def test_what_was_said_beforehand_is_what_comes(bench: Bench) -> None:
    bench.write("budget: {month: 10}\n")
    bench.look()
    bench.passes(HOUR)
    bench.ends("77")
    bench.look()
    reckoned(bench)
    assert (would(bench) or (None,))[0] is True
    bench.passes(HOUR)
    assert bench.states() == ["succeeded", "refused"]
    assert bench.counted("campaign_refusals_total", reason="budget") == 1
    assert "its budget.month is 10 cpu BU; 0.00 are paid, 1 job without a bill yet may cost 5.60" in str(
        bench.runs()[-1].reason
    )
    assert bench.submitted() == 1


def test_check_says_that_a_run_would_be_refused_and_a_launch_by_hand_is_with_exit_4(
    bench: Bench, config_path: Path
) -> None:
    bench.write("budget: {month: 5}\n")
    bench.look()
    checked = rayslurm("campaigns", "check", "--json", config=config_path)
    (told,) = json.loads(checked.stdout)["campaigns"]
    assert "its budget.month is 5 cpu BU" in told["refused"]
    done = rayslurm("launch", "nightly", config=config_path)
    assert done.returncode == 4, done.stderr
    assert "its budget.month is 5 cpu BU" in done.stderr


def test_all_jobs_of_a_matrix_are_asked_for_beforehand(bench: Bench) -> None:
    bench.write("budget: {run: 11}\nmatrix: {SEED: [1, 2, 3]}\nat_once: 3\n")
    bench.look()
    reckoned(bench)
    found = would(bench)
    assert found is not None
    assert found[0] is True
    assert "this launch 16.80 at its time limit" in found[1]
    bench.passes(HOUR)
    assert [point.state for point in bench.points(bench.runs()[0])] == ["launched", "refused", "refused"]


def test_a_floor_counts_too_and_where_nothing_is_set_nothing_is_said(bench: Bench) -> None:
    bench.write()
    bench.look()
    assert "campaign_budget" not in reckoned(bench)
    assert would(bench) is None
    bench.config = bench.config.model_copy(update={"floors": {PROJECT: {"cpu": 100}}})
    record = AllocationRecord("csc", PROJECT, "cpu", "BU", 0, 103, 103)
    bench.store.write(lambda connection: balances.keep(connection, "csc", PROJECT, [record], now=bench.clock.now))
    reckoned(bench)
    assert (would(bench) or (None,))[0] is True


def test_a_paused_campaign_has_no_next_run_to_overdraw(bench: Bench) -> None:
    bench.write("budget: {month: 1}\npaused: true\n")
    bench.look()
    page = reckoned(bench)
    assert "campaign_budget_remaining_units" in page
    assert would(bench) is None


def run_over(bench: Bench, more: str, units: float) -> None:
    """A job that runs and has cost so much."""
    bench.write(more)
    bench.look()
    bench.passes(HOUR)

    def change(connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE jobs SET state = 'running' WHERE job_id = '77'")
        estimates.keep(
            connection,
            Estimate(SITE, "77", "cpu", "BU", "formula", "r", 5.6, 60.0, 1, units, 0, 0.0, 0, bench.clock.now),
        )

    bench.store.write(change)


def state_of(bench: Bench) -> Any:
    with bench.store.snapshot() as connection:
        found = consequences.of_job(connection, SITE, "77")
    return (found[0].state, found[0].reason) if found else None


def test_a_job_over_its_cap_is_reported_and_not_cancelled(bench: Bench, config_path: Path) -> None:
    run_over(bench, "max_units: 6\n", 6.5)
    for _ in range(2):
        Budgets(bench.config).run(bench.context)
    assert state_of(bench) == ("reported", "it has cost 6.50 cpu BU so far, and its max_units is 6")
    assert "cancel" not in [verb for verb, _ in bench.transport.asked]
    done = rayslurm("explain", "77", config=config_path)
    assert "reported" in done.stdout, done.stderr
    assert "it has cost 6.50 cpu BU so far, and its max_units is 6" in done.stdout
    shown = json.loads(rayslurm("explain", "77", "--json", config=config_path).stdout)
    (followed,) = shown["consequences"]
    assert (followed["condition"], followed["state"]) == ("over_cap", "reported")
    assert shown["reserved"]["units"] == PRICE
    assert "it has cost 6.50 cpu BU so far, and its max_units is 6" in rayslurm("status", config=config_path).stdout


def test_it_is_cancelled_once_where_the_spec_says_so(bench: Bench, make_site: MakeSite, config_path: Path) -> None:
    run_over(bench, "max_units: 6\non_max_units: cancel\n", 6.5)
    bench.context, bench.transport = make_site([Exchange("cancel", "")], **PUHTI)
    looking = Budgets(bench.config)
    for _ in range(3):
        looking.run(bench.context)
    assert [verb for verb, _ in bench.transport.asked] == ["cancel"]
    assert state_of(bench) == ("cancelled", "it has cost 6.50 cpu BU so far, and its max_units is 6")
    bench.ends("77", "cancelled")
    page = Pages(bench.store, load_config(config_path), clock=bench.clock).job(SITE, "77") or ""
    assert "Cancelled by rayslurm: it has cost 6.50 cpu BU so far, and its max_units is 6" in page


@pytest.mark.parametrize("units", [5.9, 6.0])
def test_a_job_within_its_cap_is_left_alone(bench: Bench, units: float) -> None:
    run_over(bench, "max_units: 6\non_max_units: cancel\n", units)
    Budgets(bench.config).run(bench.context)
    assert state_of(bench) is None


def test_an_old_estimate_cancels_nothing(bench: Bench) -> None:
    run_over(bench, "max_units: 6\non_max_units: cancel\n", 6.5)
    bench.clock.now += 3 * HOUR
    Budgets(bench.config).run(bench.context)
    assert state_of(bench) is None


def no_storage(store: Store, now: float, used: float = 300) -> None:
    record = AllocationRecord("csc", PROJECT, "storage", "BU", used, 300, 300 - used)
    store.write(lambda connection: balances.keep(connection, "csc", PROJECT, [record], now=now))


def test_at_csc_a_project_without_storage_units_launches_nothing_unless_forced(
    config_path: Path, store: Store, tmp_path: Path
) -> None:
    as_puhti(config_path)
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC.replace("schedule: {every: 1h}\n", ""))
    no_storage(store, time.time() - 1800)
    done = rayslurm("launch", str(path), "--dry-run", config=config_path)
    assert done.returncode == 4
    assert f"{PROJECT} has no Storage BU left (300 of 300, read 0.5 h ago), and CSC takes no job" in done.stderr
    done = rayslurm("launch", str(path), "--dry-run", "--force", config=config_path)
    assert done.returncode == 0, done.stderr
    assert "forced, though" in done.stderr
    # What was read long ago is said and refuses nothing.
    store.write(lambda connection: connection.execute("UPDATE projects SET read = read - 86400"))
    done = rayslurm("launch", str(path), "--dry-run", config=config_path)
    assert done.returncode == 0, done.stderr
    assert "no Storage BU left" in done.stderr


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"end_time": 1_700_000_000}, "project ended"),
        ({"status": "closed"}, "project closed"),
        ({}, "cpu BU overspent"),
    ],
)
def test_what_else_is_known_of_the_project_is_said_before_a_launch(
    config_path: Path, store: Store, tmp_path: Path, about: dict[str, Any], said: str
) -> None:
    as_puhti(config_path)
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC.replace("schedule: {every: 1h}\n", ""))
    record = AllocationRecord("csc", PROJECT, "cpu", "BU", 110, 100, -10)
    store.write(lambda connection: balances.keep(connection, "csc", PROJECT, [record], now=time.time(), **about))
    done = rayslurm("launch", str(path), "--dry-run", config=config_path)
    assert done.returncode == 0, done.stderr
    assert f"warning: {SITE}: {PROJECT}: {said} (read 0.0 h ago)" in done.stderr
