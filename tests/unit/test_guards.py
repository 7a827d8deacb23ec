"""Budgets, floors and caps: no launch passes them, however launches come, and each refusal shows its sum."""

from __future__ import annotations

import itertools
import sqlite3
import tempfile
import threading
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter.budgets import Budget, period_start
from exporter.client.replay import Exchange
from exporter.config import Config, load_config
from exporter.errors import ConfigError, OverBudgetError
from exporter.launch.guards import Ceiling, hold
from exporter.launch.launcher import Launcher
from exporter.launch.spec import Spec, load_spec
from exporter.records import AllocationRecord, Bill
from exporter.store import balances, bills, holds, jobs, submissions
from exporter.store.db import Store
from tests.unit.conftest import Clock, MakeSite
from tests.unit.filled import SITE, as_puhti
from tests.unit.test_cli import run as rayslurm
from tests.unit.test_launch import journal

PROJECT = "project_2001234"
SPEC: dict[str, Any] = {
    "site": SITE,
    "name": "train",
    "cluster": {"cpus_per_node": 4, "memory_per_node": "10G", "time": "1h"},
    "entrypoint": "python train.py",
}
PRICE = 5  # an hour of 4 cores and 10 GiB on Puhti


@pytest.fixture
def puhti(config_path: Path) -> Config:
    return load_config(as_puhti(config_path))


def with_floors(config: Config, floors: dict[str, dict[str, float]]) -> Config:
    return config.model_copy(update={"floors": floors})


def make_spec(**more: Any) -> Spec:
    written = yaml.safe_dump(SPEC | more)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spec.yaml"
        path.write_text(written)
        return load_spec(path)


def left(store: Store, remaining: float, *, now: float, updated: float | None = None) -> None:
    record = AllocationRecord("csc", PROJECT, "cpu", "BU", 1000, 1000 + remaining, remaining, int(updated or now))
    store.write(lambda connection: balances.keep(connection, "csc", PROJECT, [record], now=now))


def ends(store: Store, submission: submissions.Submission, units: float | None, *, now: float) -> None:
    def change(connection: sqlite3.Connection) -> None:
        connection.execute(
            "UPDATE jobs SET state = 'completed', final = 1, end_time = ?, elapsed_seconds = 60, project = ?"
            " WHERE job_id = ?",
            (int(now), PROJECT, submission.job_id),
        )
        if units is not None:
            bill = Bill("seff", "cpu", "BU", units, PROJECT)
            bills.keep(connection, SITE, submission.job_id or "", bill, final=True, now=now)

    store.write(change)


class Bench:
    """A site that takes every job, and a way to launch there."""

    def __init__(self, config: Config, store: Store, clock: Clock, make_site: MakeSite) -> None:
        self.config, self.store, self.clock = config, store, clock
        self.context, self.transport = make_site([Exchange("submit", f"{number}\n") for number in range(100, 200)])

    def launch(self, spec: Spec | None = None, **about: Any) -> submissions.Submission:
        return Launcher(self.config, self.store, self.clock).launch(self.context.client, spec or make_spec(), **about)

    def nightly(self, budget: Budget, run: str = "1", **about: Any) -> submissions.Submission:
        ceiling = Ceiling("nightly", run, budget.limits, "Europe/Helsinki")
        return self.launch(campaign="nightly", ceiling=ceiling, **about)

    def submitted(self) -> int:
        return sum(verb == "submit" for verb, _ in self.transport.asked)


@pytest.fixture
def bench(puhti: Config, store: Store, clock: Clock, make_site: MakeSite) -> Bench:
    return Bench(puhti, store, clock, make_site)


def test_a_job_over_its_own_cap_is_refused_and_nothing_is_sent(bench: Bench) -> None:
    with pytest.raises(OverBudgetError) as refused:
        bench.launch(make_spec(max_units=4.99))
    assert "it may cost 5.00 cpu BU at its time limit, and its max_units is 4.99" in str(refused.value)
    assert "--over-budget" in str(refused.value)
    assert refused.value.exit_code == 4
    assert bench.transport.asked == []
    assert journal(bench.store) == []
    bench.launch(make_spec(max_units=5))
    assert bench.submitted() == 1


def test_force_passes_no_budget_and_over_budget_does_and_is_written_down(bench: Bench) -> None:
    spec = make_spec(max_units=1)
    with pytest.raises(OverBudgetError):
        bench.launch(spec, force=True)
    submission = bench.launch(spec, over_budget=True)
    with bench.store.snapshot() as connection:
        kept = holds.of_token(connection, submission.token)
    assert kept is not None
    assert (kept.units, kept.kind, kept.unit, kept.over) == (5, "cpu", "BU", True)


def test_a_campaigns_budget_counts_what_is_paid_and_what_waits_or_runs(bench: Bench) -> None:
    budget = Budget(month=13)
    first = bench.nightly(budget)
    bench.nightly(budget, run="2")
    with pytest.raises(OverBudgetError) as refused:
        bench.nightly(budget, run="3")
    assert (
        "campaign nightly: its budget.month is 13 cpu BU; 0.00 are paid, 2 jobs without a bill yet may cost 10.00, and "
        "this launch 5.00 at its time limit: 15.00 together"
    ) in str(refused.value)
    # The first ends early: its bill takes the place of its price.
    ends(bench.store, first, 2.5, now=bench.clock.now)
    bench.nightly(budget, run="3")
    with pytest.raises(OverBudgetError) as refused:
        bench.nightly(budget, run="4")
    assert "2.50 are paid, 2 jobs without a bill yet may cost 10.00, and this launch 5.00" in str(refused.value)


def test_a_job_that_ended_and_was_never_billed_still_counts_at_its_price(bench: Bench) -> None:
    first = bench.nightly(Budget(month=9))
    ends(bench.store, first, None, now=bench.clock.now)
    with pytest.raises(OverBudgetError):
        bench.nightly(Budget(month=9), run="2")


def test_a_submission_that_came_to_nothing_gives_its_price_back(bench: Bench) -> None:
    first = bench.nightly(Budget(month=9))
    bench.store.write(
        lambda connection: submissions.unsettle(connection, first.token, "absent", "no", now=bench.clock.now)
    )
    bench.store.write(lambda connection: connection.execute("DELETE FROM jobs"))
    assert bench.nightly(Budget(month=9), run="2").state == "submitted"


def test_a_run_and_a_week_have_budgets_of_their_own(bench: Bench) -> None:
    budget = Budget(run=5, week=10)
    bench.nightly(budget, run="1")
    with pytest.raises(OverBudgetError, match=r"budget\.run is 5"):
        bench.nightly(budget, run="1")
    bench.nightly(budget, run="2")
    with pytest.raises(OverBudgetError, match=r"budget\.week is 10"):
        bench.nightly(budget, run="3")
    bench.clock.now += 7 * 86400
    bench.nightly(budget, run="3")


def test_another_campaigns_jobs_and_those_of_people_do_not_count_to_a_budget(bench: Bench) -> None:
    bench.launch()
    bench.launch(campaign="other", ceiling=Ceiling("other", "1", {"month": 5.0}))
    bench.nightly(Budget(month=5))


def test_a_launch_that_is_asked_again_with_its_key_is_the_one_of_before(bench: Bench) -> None:
    first = bench.nightly(Budget(month=5), key="k")
    assert bench.nightly(Budget(month=5), key="k").token == first.token
    assert bench.submitted() == 1


def test_where_the_price_is_not_known_nothing_that_is_set_can_be_held(bench: Bench) -> None:
    unknown = make_spec(directives=["--mem-per-cpu=2G"])
    bench.launch(unknown)
    with pytest.raises(OverBudgetError, match=r"what it costs isn't known \(its directive .*max_units"):
        bench.launch(make_spec(directives=["--mem-per-cpu=2G"], max_units=100))
    with pytest.raises(OverBudgetError, match="the budget of campaign nightly can't be held"):
        bench.launch(unknown, campaign="nightly", ceiling=Ceiling("nightly", "1", {"month": 100.0}))


def test_a_floor_is_kept_with_all_that_waits_or_runs(bench: Bench) -> None:
    bench.config = with_floors(bench.config, {PROJECT: {"cpu": 100}})
    with pytest.raises(OverBudgetError, match=r"what is left isn't known \(it was never read\), so it can't be held"):
        bench.launch()
    left(bench.store, 111, now=bench.clock.now)
    bench.launch()
    bench.launch()
    with pytest.raises(OverBudgetError) as refused:
        bench.launch()
    assert (
        f"{PROJECT}: floors keeps 100 cpu BU; 111.00 are left by its provider (0 min ago), 2 jobs that wait or run may "
        "cost 10.00, this launch may cost 5.00 at its time limit: 96.00 would be left"
    ) in str(refused.value)


def test_what_ended_after_the_balance_was_reckoned_is_taken_off(bench: Bench) -> None:
    bench.config = with_floors(bench.config, {PROJECT: {"cpu": 100}})
    left(bench.store, 111, now=bench.clock.now)
    first = bench.launch()
    ends(bench.store, first, 4, now=bench.clock.now + 60)
    bench.clock.now += 120
    bench.launch()
    with pytest.raises(OverBudgetError, match=r"1 job ended lately and cost 4\.00"):
        bench.launch()
    # Hours later the balance has it.
    bench.clock.now += 6 * 3600
    left(bench.store, 111, now=bench.clock.now)
    bench.launch()


def test_what_ended_and_will_never_be_billed_is_taken_off_at_its_price(bench: Bench) -> None:
    bench.config = with_floors(bench.config, {PROJECT: {"cpu": 50}})
    left(bench.store, 55, now=bench.clock.now)
    first = bench.launch()
    ends(bench.store, first, None, now=bench.clock.now)
    with pytest.raises(OverBudgetError, match=r"1 job ended lately and cost 5\.00"):
        bench.launch()


def test_of_a_project_that_is_lost_nothing_is_left_that_is_known(bench: Bench) -> None:
    bench.config = with_floors(bench.config, {PROJECT: {"cpu": 0}})
    left(bench.store, 1e6, now=bench.clock.now)
    bench.launch()
    bench.store.write(lambda connection: balances.lost(connection, "csc", PROJECT, now=bench.clock.now))
    with pytest.raises(OverBudgetError, match="nothing is granted, or the provider doesn't tell"):
        bench.launch()


def test_a_floor_of_another_kind_holds_nothing(bench: Bench) -> None:
    bench.config = with_floors(bench.config, {PROJECT: {"gpu": 100}, "project_other": {"cpu": 1e9}})
    bench.launch()


def test_of_two_that_race_for_the_last_units_one_is_refused(
    bench: Bench, config_path: Path, make_site: MakeSite
) -> None:
    outcomes: list[str] = []
    barrier = threading.Barrier(2)
    contexts = [make_site([Exchange("submit", f"{number}\n")])[0] for number in (500, 501)]

    def race(number: int) -> None:
        # Each with a store of its own, as two processes have.
        with Store(bench.store.path) as store:
            launcher = Launcher(bench.config, store, bench.clock)
            barrier.wait()
            try:
                limit = Ceiling("nightly", "1", {"month": 9.0})
                launcher.launch(contexts[number].client, make_spec(), campaign="nightly", ceiling=limit)
                outcomes.append("launched")
            except OverBudgetError:
                outcomes.append("refused")

    threads = [threading.Thread(target=race, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["launched", "refused"]
    assert len(journal(bench.store)) == 1


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("launch"), st.sampled_from([1, 2, 5, 20]), st.integers(1, 3)),
        st.tuples(st.just("race"), st.sampled_from([1, 5]), st.integers(1, 3)),
        st.tuples(st.just("end"), st.floats(0, 1), st.integers(0, 20)),
        st.tuples(st.just("unbilled"), st.just(0), st.integers(0, 20)),
        st.tuples(st.just("absent"), st.just(0), st.integers(0, 20)),
        st.tuples(st.just("time"), st.floats(0, 9e5), st.just(0)),
    ),
    max_size=25,
)


def spent(store: Store, since: float, until: float, run: str | None) -> Decimal:
    """What the campaign has cost or may cost, counted apart from what is tested."""
    total = Decimal(0)
    with store.snapshot() as connection:
        rows = connection.execute(
            "SELECT s.token, s.job_id, s.created, r.units, r.run FROM submissions s JOIN holds r"
            " ON r.token = s.token WHERE s.state != 'absent'"
        ).fetchall()
        for row in rows:
            if since <= row["created"] < until and run in {None, row["run"]}:
                bill = bills.of_job(connection, SITE, row["job_id"]) if row["job_id"] else None
                total += Decimal(str(row["units"] if bill is None else bill.units))
    return total


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("guards")
    (folder / "id").write_text("no key\n")
    (folder / "id").chmod(0o600)
    (folder / "rayslurm.yaml").write_text(
        f"state_dir: {folder}\nsites:\n  {SITE}:\n    profile: puhti\n    closed: false\n    project: {PROJECT}\n"
        f"    partition: small\n    ssh: {{host: login.example.org, user: maija, key: {folder}/id}}\n"
    )
    return load_config(folder / "rayslurm.yaml")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS, st.floats(1, 60), st.none() | st.floats(1, 40), st.none() | st.floats(1, 30), st.floats(0, 300))
def test_no_sequence_of_launches_passes_a_budget_or_a_floor(
    shared: Config,
    steps: list[tuple[str, Any, int]],
    month: float,
    week: float | None,
    run: float | None,
    remaining: float,
) -> None:
    """As `Launcher` does it: held and written down in one transaction; two at once are two transactions."""
    budget = Budget(month=month, week=week, run=run)
    zone = ZoneInfo("Europe/Helsinki")
    config = with_floors(shared, {PROJECT: {"cpu": 50}})
    clock, numbers, launched = Clock(1_795_000_000.0), itertools.count(1000), list[submissions.Submission]()
    with (
        tempfile.TemporaryDirectory() as folder,
        Store(Path(folder) / "store.sqlite3") as store,
        Store(store.path) as other,
    ):
        left(store, remaining, now=clock.now)
        read = clock.now

        def try_one(into: Store, hours: int, which: int) -> submissions.Submission | None:
            number = next(numbers)
            token = f"t{number}"
            spec = make_spec(cluster={**SPEC["cluster"], "time": f"{hours}h"})

            def intend(connection: sqlite3.Connection) -> submissions.Submission:
                ceiling = Ceiling("nightly", str(which), budget.limits, "Europe/Helsinki")
                kept, _ = hold(connection, spec, config, ceiling=ceiling, now=clock.now)
                found = submissions.intend(
                    connection, token=token, site=SITE, campaign="nightly", name="train", tunnels={}, now=clock.now,
                    spec=spec.model_dump(mode="json") | {"project": PROJECT, "partition": "small"}, run_dir="x",
                )  # fmt: skip
                assert kept is not None
                holds.keep(connection, token, kept)
                return found

            try:
                into.write(intend)
            except OverBudgetError:
                return None
            return into.write(lambda connection: submissions.submitted(connection, token, str(number), now=clock.now))

        def race(hours: int, which: int) -> list[submissions.Submission]:
            found: list[submissions.Submission | None] = []
            racing = [
                threading.Thread(target=lambda into=into: found.append(try_one(into, hours, which)))
                for into in (store, other)
            ]
            for thread in racing:
                thread.start()
            for thread in racing:
                thread.join()
            return [one for one in found if one]

        def vanish(one: submissions.Submission) -> None:
            store.write(lambda connection: submissions.unsettle(connection, one.token, "absent", "", now=0))
            store.write(lambda connection: connection.execute("DELETE FROM jobs WHERE job_id = ?", (one.job_id,)))

        for what, amount, which in steps:
            if what == "launch":
                launched += [one for one in [try_one(store, amount, which)] if one]
            elif what == "race":
                launched += race(amount, which)
            elif what == "time":
                clock.now += amount
            elif launched and which < len(launched):
                one = launched.pop(which)
                with store.snapshot() as connection:
                    kept = holds.of_token(connection, one.token)
                assert kept is not None
                if what == "end":
                    ends(store, one, kept.units * amount, now=clock.now)
                elif what == "unbilled":
                    ends(store, one, None, now=clock.now)
                    launched.append(one)
                else:
                    vanish(one)
            tolerance = Decimal("1e-6")
            for period in ("week", "month"):
                limit = budget.limits.get(period)
                if limit is not None:
                    begin = period_start(period, clock.now, zone)
                    assert spent(store, begin, float("inf"), None) <= Decimal(str(limit)) + tolerance
            for name in ("1", "2", "3"):
                if run is not None:
                    assert spent(store, 0, float("inf"), name) <= Decimal(str(run)) + tolerance
            # Each job at its price, or its bill, leaves the floor; the balance was read once, before all of it.
            assert not launched or Decimal(str(remaining)) - spent(store, read, float("inf"), None) >= 50 - tolerance


def test_weeks_begin_on_monday_and_months_on_the_first_by_the_campaigns_clock() -> None:
    zone = ZoneInfo("Europe/Helsinki")
    moment = datetime(2026, 11, 1, 0, 30, tzinfo=zone).timestamp()  # still October in UTC; a Sunday
    assert datetime.fromtimestamp(period_start("month", moment, zone), zone) == datetime(2026, 11, 1, tzinfo=zone)
    assert datetime.fromtimestamp(period_start("month", moment, UTC), UTC) == datetime(2026, 10, 1, tzinfo=UTC)
    assert datetime.fromtimestamp(period_start("week", moment, zone), zone) == datetime(2026, 10, 26, tzinfo=zone)


def test_a_budget_says_something_and_a_floor_is_of_a_known_kind(config_path: Path) -> None:
    with pytest.raises(ValueError, match="write run, week or month"):
        Budget()
    config_path.write_text(config_path.read_text() + "floors:\n  project_1: {storage: 5}\n")
    with pytest.raises(ConfigError, match=r"floors\.project_1"):
        load_config(config_path)


def test_the_command_line_refuses_with_exit_4_before_anything_is_copied(
    config_path: Path, store: Store, tmp_path: Path
) -> None:
    as_puhti(config_path)
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(SPEC | {"max_units": 3}))
    for arguments in ((), ("--force",), ("--dry-run",)):
        done = rayslurm("launch", str(path), *arguments, config=config_path)
        assert done.returncode == 4, done.stderr
        assert "it may cost 5.00 cpu BU at its time limit, and its max_units is 3" in done.stderr
    done = rayslurm("launch", str(path), "--dry-run", "--over-budget", config=config_path)
    assert done.returncode == 0, done.stderr
    assert "warning: launched all the same, though it may cost 5.00" in done.stderr
    with store.snapshot() as connection:
        assert jobs.find(connection, "1") == []
