"""What jobs cost while they were of no use: never more than was seen, nor than they cost, and counted once."""

from __future__ import annotations

import itertools
import sqlite3
from contextlib import closing
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.client.replay import Exchange
from exporter.config import Config
from exporter.parsers.squeue import parse
from exporter.records import Bill
from exporter.store import awaited, bills, conditions, counters, following, jobs, waste
from exporter.store.conditions import CONDITIONS, Condition, Spell
from exporter.store.db import Store
from exporter.store.waste import Waste, added_up
from exporter.web.pages import Pages
from tests.slurm_texts import squeue
from tests.unit.conftest import Clock, MakeSite
from tests.unit.test_consequences import (
    MINUTE,
    SITE,
    Bench,
    Told,
    busy,
    down,
    fine,
    idle_from,
    never_ready,
    ready,
    spec_of,
)

BILL = Bill("formula", "cpu", "BU", 10.0, "project_2001234")
TABLES = (Path(conditions.__file__).parent / "migrations/0011_consequences.sql").read_text()
ENTRYPOINT = "entrypoint: python train.py\n"


@pytest.fixture
def bench(store: Store, clock: Clock, make_site: MakeSite) -> Bench:
    return Bench(store, clock, make_site([Exchange("submit", "77\n")]))


def ends(bench: Bench, *, bill: Bill | None = BILL, settled: bool = True, **job: Any) -> None:
    """The job ends: in accounting, on its bill, and in its folder."""
    now = bench.clock.now
    bench.write("UPDATE jobs SET state = 'timeout', final = 1, end_time = ?", int(now))
    bench.write("UPDATE jobs SET elapsed_seconds = end_time - start_time")
    for name, value in job.items():
        bench.write(f"UPDATE jobs SET {name} = ?", value)
    bench.write("UPDATE tracked SET done = 1")
    if bill is not None:
        bench.store.write(lambda connection: bills.keep(connection, SITE, "77", bill, final=True, now=now))
    if settled:
        bench.folder(outcome="limit", settled=True)


def counted(bench: Bench) -> dict[str, float]:
    with bench.store.snapshot() as connection:
        found = [one for one in counters.read(connection) if one.name == "wasted_billing_units_total"]
    assert {tuple(sorted(one.labels)) for one in found} <= {("campaign", "kind", "project", "reason", "site", "unit")}
    return {one.labels["reason"]: one.value for one in found}


def wasted(bench: Bench) -> list[Waste]:
    with bench.store.snapshot() as connection:
        (job,) = jobs.find(connection, "77")
        return waste.of_job(connection, job)


def test_each_reason_costs_its_share_of_the_bill(bench: Bench, config: Config, tmp_path: Path) -> None:
    bench.launch(config, spec_of(tmp_path, ""))
    ready(bench)
    bench.passes(10 * MINUTE, busy)
    bench.passes(20 * MINUTE, idle_from(bench.clock.now))
    bench.passes(10 * MINUTE, down)
    assert [(one.reason, one.seconds, one.units) for one in wasted(bench)] == [
        ("tunnel_down", 9.5 * MINUTE, None),
        ("idle", 19.5 * MINUTE, None),
    ]
    ends(bench)
    for _ in range(3):
        bench.restart()
        bench.acting.run(bench.context)
    assert counted(bench) == pytest.approx({"never_ready": 0, "tunnel_down": 10 * 9.5 / 40, "idle": 10 * 19.5 / 40})
    assert wasted(bench) == [
        Waste("never_ready", 0.0, 0.0),
        Waste("tunnel_down", 570.0, 2.375),
        Waste("idle", 1170.0, 4.875),
    ]
    page = Pages(bench.store, config, clock=bench.clock).job(SITE, "77") or ""
    assert "19 min of it were of no use: its Ray used no CPU and no GPU; they cost 4.88 cpu BU." in page
    with bench.store.snapshot() as connection:
        assert conditions.spells(connection, SITE, "77") == []


def test_a_tunnel_that_goes_down_with_its_job_is_no_waste(bench: Bench, config: Config, tmp_path: Path) -> None:
    bench.launch(config, spec_of(tmp_path, ""))
    ready(bench)
    bench.passes(10 * MINUTE, idle_from(bench.clock.now))
    ending = bench.clock.now
    bench.passes(2 * MINUTE, down)
    ends(bench, settled=False)
    phases = [{"phase": "ready", "time": 5.0}, {"phase": "ending", "time": ending}, {"phase": "ended", "time": ending}]
    bench.folder(outcome="terminated", summary={"phases": phases}, settled=True)
    bench.acting.run(bench.context)
    assert wasted(bench) == [
        Waste("never_ready", 0.0, 0.0),
        Waste("tunnel_down", 0.0, 0.0),
        Waste("idle", 570.0, 10 * (570.0 / 720)),
    ]


def test_what_is_seen_after_a_jobs_end_is_none_of_its_time(bench: Bench, config: Config, tmp_path: Path) -> None:
    bench.launch(config, spec_of(tmp_path, ""))
    ready(bench)
    bench.passes(10 * MINUTE, fine)
    ended = int(bench.clock.now)
    bench.passes(5 * MINUTE, down)
    assert [one.reason for one in wasted(bench)] == ["tunnel_down"], "nobody knows yet that it has ended"
    ends(bench, settled=False, end_time=ended)
    assert [one for one in wasted(bench) if one.seconds] == []


def test_a_job_whose_ray_never_was_ready_is_all_waste(bench: Bench, config: Config, tmp_path: Path) -> None:
    bench.launch(config, spec_of(tmp_path, ENTRYPOINT))
    bench.passes(5 * MINUTE, never_ready)
    assert wasted(bench) == [], "it may still be ready"
    ends(bench)
    bench.acting.run(bench.context)
    assert counted(bench) == {"never_ready": 10, "tunnel_down": 0, "idle": 0}


def test_what_its_folder_never_told_is_not_called_never_ready(bench: Bench, config: Config, tmp_path: Path) -> None:
    bench.launch(config, spec_of(tmp_path, ""))
    bench.passes(5 * MINUTE, fine)
    ends(bench, settled=False)
    bench.folder(settled=True)
    bench.acting.run(bench.context)
    assert counted(bench) == {"never_ready": 0, "tunnel_down": 0, "idle": 0}
    assert wasted(bench) == []


def test_an_entrypoint_works_on_without_a_tunnel(bench: Bench, config: Config, tmp_path: Path) -> None:
    bench.launch(config, spec_of(tmp_path, ENTRYPOINT))
    ready(bench)
    bench.passes(20 * MINUTE, down)
    bench.passes(10 * MINUTE, idle_from(bench.clock.now))
    ends(bench)
    bench.acting.run(bench.context)
    assert counted(bench) == pytest.approx({"never_ready": 0, "tunnel_down": 0, "idle": 10 * 9.5 / 30})


def test_what_came_after_the_end_does_not_count(bench: Bench, config: Config, tmp_path: Path) -> None:
    """The queue is asked every few minutes, so that a job's end is known late."""
    bench.launch(config, spec_of(tmp_path, ""))
    ready(bench)
    bench.passes(10 * MINUTE, busy)
    end = int(bench.clock.now)
    bench.passes(10 * MINUTE, down)
    ends(bench, end_time=end, elapsed_seconds=600)
    bench.acting.run(bench.context)
    assert counted(bench) == {"never_ready": 0, "tunnel_down": 0, "idle": 0}


def nothing(bench: Bench) -> None:
    """Nobody tells anything."""


def test_a_gap_in_what_is_known_is_no_waste(bench: Bench, config: Config, tmp_path: Path) -> None:
    bench.launch(config, spec_of(tmp_path, ""))
    ready(bench)
    bench.passes(10 * MINUTE, down)
    bench.passes(30 * MINUTE, nothing)
    bench.passes(10 * MINUTE, down)
    bench.clock.now += 3600  # nobody looks
    bench.steady.now += 3600
    bench.passes(10 * MINUTE, down)
    (found,) = wasted(bench)
    assert found.seconds == pytest.approx(29 * MINUTE, abs=MINUTE)


@pytest.mark.parametrize("told", [down, idle_from(0.0)])
def test_without_a_bill_there_are_no_units(bench: Bench, config: Config, tmp_path: Path, told: Told) -> None:
    bench.launch(config, spec_of(tmp_path, ""))
    ready(bench)
    bench.passes(10 * MINUTE, told)
    ends(bench, bill=None)
    bench.acting.run(bench.context)
    assert counted(bench) == {}
    assert [(one.seconds, one.units) for one in wasted(bench) if one.seconds] == [(9.5 * MINUTE, None)]


def test_it_waits_for_the_bill_and_for_the_folder(bench: Bench, config: Config, tmp_path: Path) -> None:
    bench.launch(config, spec_of(tmp_path, ""))
    ready(bench)
    bench.passes(10 * MINUTE, down)
    ends(bench, settled=False)
    bench.store.write(lambda connection: awaited.add(connection, SITE, "77"))
    bench.acting.run(bench.context)
    assert counted(bench) == {}
    bench.folder(settled=True)
    bench.acting.run(bench.context)
    assert counted(bench) == {}
    bench.store.write(lambda connection: awaited.done(connection, SITE, "77"))
    bench.acting.run(bench.context)
    assert counted(bench)["tunnel_down"] == pytest.approx(9.5)


def test_of_a_job_that_ran_again_it_is_not_known(bench: Bench, config: Config, tmp_path: Path) -> None:
    """Its bill is that of all attempts, its time that of the last one."""
    bench.launch(config, spec_of(tmp_path, ""))
    ready(bench)
    bench.passes(10 * MINUTE, down)
    ends(bench, restarts=1)
    bench.acting.run(bench.context)
    assert counted(bench) == {"never_ready": 0, "tunnel_down": 0, "idle": 0}
    assert wasted(bench) == []


def test_a_job_that_never_ran_wasted_nothing(bench: Bench, config: Config, tmp_path: Path) -> None:
    bench.launch(config, spec_of(tmp_path, ""))
    ends(bench, bill=Bill("formula", "cpu", "BU", 0.0, "project_2001234"), settled=False)
    bench.acting.run(bench.context)
    assert counted(bench) == {"never_ready": 0, "tunnel_down": 0, "idle": 0}


TIMES = st.floats(0, 1000, allow_nan=False)
SPELLS = st.lists(
    st.builds(
        lambda condition, begin, length: Spell(condition, begin, begin + length),
        st.sampled_from(CONDITIONS),
        TIMES,
        TIMES,
    ),
    max_size=12,
)


@given(SPELLS, TIMES, TIMES, st.floats(0, 2000))
def test_spells_never_add_up_to_more_than_there_was(
    seen: list[Spell], begin: float, length: float, most: float
) -> None:
    found = added_up(seen, begin=begin, end=begin + length, most=most)
    assert all(seconds >= 0 for seconds in found.values())
    assert sum(found.values()) <= min(length, most) + 1e-6
    for condition in CONDITIONS:
        alone = sum(spell.seconds for spell in seen if spell.condition == condition)
        assert found.get(condition, 0.0) <= alone + 1e-6


@given(SPELLS)
def test_each_moment_counts_once_and_for_the_first_reason(seen: list[Spell]) -> None:
    """Held against a count of small steps."""
    whole = [Spell(spell.condition, round(spell.begin), round(spell.until)) for spell in seen]
    expected = dict.fromkeys(CONDITIONS, 0)
    for second in range(2001):
        held = {spell.condition for spell in whole if spell.begin <= second < spell.until}
        first = next((condition for condition in CONDITIONS if condition in held), None)
        if first is not None:
            expected[first] += 1
    assert {condition: seconds for condition, seconds in added_up(whole).items() if seconds} == {
        condition: seconds for condition, seconds in expected.items() if seconds
    }


LOOKS = st.lists(st.tuples(st.floats(0, 400), st.sampled_from([*CONDITIONS, None, "jump"])), min_size=1, max_size=30)


@given(LOOKS)
def test_no_more_is_counted_than_could_be_seen(looks: list[tuple[float, Any]]) -> None:
    """Whatever is seen, at whatever distance and by a clock that jumps: what counts lies between looks that agree."""
    gap, now = 120.0, 1000.0
    seen_at = []
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.row_factory = sqlite3.Row
        connection.executescript(TABLES)
        for step, what in looks:
            if what == "jump":
                now -= step
                continue
            now += step
            seen_at.append((now, what))
            conditions.observe(connection, SITE, {"77": [what] if what else []}, now=now, gap=gap)
        spells = conditions.spells(connection, SITE, "77")
    most: dict[Condition, float] = dict.fromkeys(CONDITIONS, 0.0)
    for (before, what), (after, again) in itertools.pairwise(seen_at):
        if what is not None and what == again and 0 <= after - before <= gap:
            most[what] += after - before
    found = added_up(spells)
    for condition in CONDITIONS:
        assert 0 <= found.get(condition, 0.0) <= most[condition] + 1e-6


def test_the_counters_begin_at_nothing(bench: Bench, config: Config, tmp_path: Path) -> None:
    bench.launch(config, spec_of(tmp_path, ""))
    bench.store.write(lambda connection: jobs.track(connection, SITE, "78", now=1.0))
    paid = {"small": ("cpu", "BU")}

    def in_queue(job_id: str) -> None:
        found = parse(squeue({"JOBID": job_id}), timezone=UTC).records
        bench.store.write(lambda connection: following.apply_queue(connection, SITE, found, now=2.0, paid_in=paid))

    in_queue("78")
    assert counted(bench) == {}, "nothing is known of the Ray of a job that rayslurm did not launch"
    in_queue("77")
    assert counted(bench) == dict.fromkeys(CONDITIONS, 0.0)
