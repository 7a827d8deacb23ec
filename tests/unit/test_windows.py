"""What a balance's rise says of our jobs: never a negative use nor a share over 1, whatever the provider does."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from exporter.billing.windows import Difference, Margins, Reading, Use, alone, latest, opinion
from exporter.client.replay import Exchange, ReplayTransport
from exporter.probes import ProbeContext
from exporter.probes.balances import BalancesProbe
from exporter.probes.jobs import JobsProbe
from exporter.records import Bill
from exporter.store import differences, jobs
from exporter.store.db import Store
from exporter.store.differences import Opinion, Rise
from tests.site_texts import PROJECT
from tests.slurm_texts import HELPFORMAT, finished, sacct, squeue
from tests.unit.conftest import Clock, MakeSite

HOUR, DAY = 3600.0, 86400.0
MARGINS = Margins(lag=HOUR, skew=600.0)


@dataclass(frozen=True)
class World:
    """What really happened to a project over two days, and what was read of it."""

    ours: list[Use]
    readings: list[Reading]


_RUNS = st.tuples(st.floats(0, 2 * DAY), st.floats(60, 8 * HOUR), st.floats(0.01, 1000))
_RECKONINGS = st.tuples(
    st.floats(600, 8 * HOUR), st.floats(0, MARGINS.lag), st.floats(-300, 300), st.sampled_from([True, True, False])
)
"""Of each: the time since the one before, how late use comes in, how far the clock is off, whether it was told."""


@st.composite
def worlds(draw: st.DrawFn, *, others: bool = True, resets: bool = True) -> World:
    """Jobs of ours, booked as they run or at their end; others' use; readings that lag, by a clock that is minutes off.

    Grants and cuts change what is granted, not what is used; lost access is readings that aren't there.
    """
    ours: list[Use] = []
    for start, length, units in draw(st.lists(_RUNS, min_size=1, max_size=4)):
        ours.append(Use("lumi", str(len(ours)), start, start + length, units))
    at_end = draw(st.booleans())
    theirs = draw(st.lists(st.tuples(st.floats(0, 2 * DAY), st.floats(0, 1000)), max_size=6 if others else 0))
    fresh_at = draw(st.one_of(st.none(), st.floats(0, 2 * DAY))) if resets else None
    readings: list[Reading] = []
    moment, covered, stamp = 0.0, -HOUR, -DAY
    for pause, lag, off, told in draw(st.lists(_RECKONINGS, max_size=25)):
        moment += pause
        covered = max(covered, moment - lag)
        stamp = max(stamp + 1, moment + off)
        used = sum(booked(use, covered, at_end=at_end) for use in ours)
        used += sum(units for at, units in theirs if at <= covered)
        if fresh_at is not None and covered >= fresh_at:  # it began to count anew
            used -= sum(booked(use, fresh_at, at_end=at_end) for use in ours)
            used -= sum(units for at, units in theirs if at <= fresh_at)
        if told:  # else there was no access
            readings.append(Reading(stamp, 100.0 + used))
    return World(ours, draw(st.permutations(readings)))


def booked(use: Use, until: float, *, at_end: bool) -> float:
    assert use.units is not None
    if at_end:
        return use.units if use.end <= until else 0.0
    return use.units * min(1.0, max(0.0, until - use.start) / (use.end - use.start))


@given(worlds(), st.floats(HOUR, 3 * DAY))
def test_no_rise_is_negative_and_no_share_is_over_1(world: World, longest: float) -> None:
    found = latest(world.readings, world.ours, longest=longest)
    if found is None:
        return
    assert found.units >= 0
    assert found.begin < found.end <= found.begin + longest
    assert found.ours is not None
    assert 0 <= found.ours <= sum(use.units or 0 for use in world.ours) * (1 + 1e-9)
    assert found.share is None or 0 <= found.share <= 1
    unknown = [replace(use, units=None) for use in world.ours]
    told = latest(world.readings, unknown, longest=longest)
    assert told is not None
    assert told.units == found.units
    assert told.share is None or found.ours == 0, "of no job it is known what it cost"


@given(worlds(resets=False))
def test_over_a_job_that_was_alone_a_balance_rises_by_no_less_than_it_cost(world: World) -> None:
    for job in world.ours:
        found = alone(world.readings, job, [use for use in world.ours if use is not job], MARGINS)
        if found is not None:
            assert found.begin < job.start < job.end < found.end
            assert found.units >= (job.units or 0) - 1e-6


@given(worlds(others=False, resets=False))
def test_where_nobody_else_is_it_rises_by_just_that(world: World) -> None:
    for job in world.ours:
        found = alone(world.readings, job, [use for use in world.ours if use is not job], MARGINS)
        if found is not None:
            assert found.units == pytest.approx(job.units, abs=1e-6)
            assert opinion(found, Bill("formula", "cpu", "BU", job.units or 0)).endswith("its bill")


@given(worlds())
def test_a_rise_over_a_job_is_never_negative(world: World) -> None:
    for job in world.ours:
        found = alone(world.readings, job, [use for use in world.ours if use is not job], MARGINS)
        assert found is None or found.units >= 0


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=10), st.floats(0, 0.49))
def test_whole_units_are_no_fall(used: list[float], noise: float) -> None:
    used = sorted(used)
    readings = [Reading(HOUR * number, round(units - noise), whole=True) for number, units in enumerate(used)]
    found = latest(readings, [], longest=DAY)
    assert found is not None
    assert (found.begin, found.units >= 0) == (0.0, True)
    assert found.rounding == 1


def job(start: float, end: float, units: float | None = 10.0, **values: Any) -> Use:
    return Use("lumi", "77", start, end, units, **values)


HOURLY = [Reading(HOUR * number, 100.0 + 10 * (number >= 3)) for number in range(12)]


def test_a_job_needs_room_before_and_after() -> None:
    inside = job(1.2 * HOUR, 2.5 * HOUR)
    assert alone(HOURLY, inside, [], MARGINS) == Difference(HOUR, 4 * HOUR, 10.0, 10.0)
    assert alone(HOURLY[:4], inside, [], MARGINS) is None, "it may come in late"
    assert alone(HOURLY[2:], inside, [], MARGINS) is None, "nothing is known of before"
    assert alone(HOURLY, replace(inside, ended=False), [], MARGINS) is None
    begun_with_a_reading = alone(HOURLY, job(HOUR, 2.5 * HOUR), [], MARGINS)
    assert begun_with_a_reading is not None
    assert begun_with_a_reading.begin == 0, "the clocks may differ"


@pytest.mark.parametrize(
    "other", [job(0, 100), job(4.1 * HOUR, 5 * HOUR), job(2 * HOUR, 2 * HOUR + 1), job(-DAY, 0, ended=False)]
)
def test_another_job_of_ours_nearby_makes_it_say_nothing(other: Use) -> None:
    inside = job(1.2 * HOUR, 2.5 * HOUR)
    assert alone(HOURLY, inside, [other], MARGINS) is None
    assert alone(HOURLY, inside, [replace(other, units=None)], MARGINS) is None


def test_far_away_jobs_do_not_matter() -> None:
    inside = job(1.2 * HOUR, 2.5 * HOUR)
    assert alone(HOURLY, inside, [job(-DAY, -HOUR), job(5 * HOUR, 6 * HOUR)], MARGINS) is not None


@pytest.mark.parametrize(
    ("rose", "words"),
    [
        (10.0, "rose by 10.0000 cpu core-hours, which is its bill"),
        (13.5, "3.5000 more than its bill: others' use, or a rate that is too low"),
        (9.0, "1.0000 less than its bill: a rate that is too high, or late booking"),
    ],
)
def test_what_a_balance_says_of_a_bill(rose: float, words: str) -> None:
    found = Difference(0.0, HOUR, rose, 10.0)
    bill = Bill("formula", "cpu", "core-hours", 10.0)
    assert opinion(found, bill).endswith(words)
    assert opinion(replace(found, rounding=4), bill).endswith("its bill")


def test_of_a_rise_that_may_be_mostly_rounding_no_share_is_known() -> None:
    ours = [job(0, HOUR, 1.0)]
    for rose, share in ((10, None), (11, pytest.approx(1 / 11))):
        whole = [Reading(0.0, 21.0, whole=True), Reading(HOUR, 21.0 + rose, whole=True)]
        found = latest(whole, ours, longest=DAY)
        assert found is not None
        assert (found.units, found.share) == (rose, share)


PATH = f"/var/lib/project_info/users/{PROJECT}/{PROJECT}.json"


def balance(used: float) -> bytes:
    return json.dumps({"billing": {"cpu_hours": {"alloc": 1000, "used": used}}}).encode()


class Lumi:
    """LUMI as it tells of job 77, which ran 100 s with 2 cores, and of the project's balance at some times."""

    def __init__(self, store: Store, make_site: MakeSite, clock: Clock, *, final: bool = True) -> None:
        self.store, self.clock = store, clock
        store.write(lambda connection: jobs.track(connection, "puhti2", "77", now=1.0))
        running = {"JOBID": "77", "STATE": "RUNNING", "TIME": "1:30", "START_TIME": "1794999910"}
        answers = [Exchange("queue", squeue(running))]
        if final:
            accounting = Exchange("accounting", sacct(*finished("77", AllocTRES="billing=5,cpu=4,mem=2G,node=1")))
            answers += [Exchange("queue", squeue()), Exchange("accounting_fields", HELPFORMAT), accounting]
        self.context: ProbeContext
        self.transport: ReplayTransport
        self.context, self.transport = make_site(answers, {PATH: b"{}"}, profile="lumi")
        for _ in answers[:2]:
            JobsProbe().run(self.context)

    def read(self, at: int, used: float) -> None:
        """The balance is reckoned, and then read."""
        self.transport.files[PATH] = balance(used)
        self.transport.file_time = at
        self.clock.now += HOUR
        BalancesProbe().run(self.context)

    def rises(self) -> list[Rise]:
        with self.store.snapshot() as connection:
            return differences.rises(connection)

    def opinion(self) -> Opinion | None:
        with self.store.snapshot() as connection:
            return differences.opinion_of(connection, "puhti2", "77")


BILL = 2 * 100 / 3600
START, END = 1794999910, 1795000010


def test_lumis_balance_is_a_second_opinion(store: Store, make_site: MakeSite, clock: Clock) -> None:
    lumi = Lumi(store, make_site, clock)
    lumi.read(START - 1000, 250.5)
    assert lumi.rises() == []
    lumi.read(END + 1000, 250.5 + BILL)
    (rise,) = lumi.rises()
    assert (rise.balance.kind, rise.balance.unit) == ("cpu", "core-hours")
    assert rise.share == pytest.approx(1)
    assert lumi.opinion() is None, "not all of it may be in yet"
    lumi.read(END + 5000, 253.5 + BILL)
    found = lumi.opinion()
    assert found is not None
    assert found.units == pytest.approx(3 + BILL)
    assert "3.0000 more than its bill: others' use" in found.words
    (rise,) = lumi.rises()
    assert rise.share == pytest.approx(BILL / (3 + BILL))


def test_a_balance_that_is_lost_or_counted_anew_says_nothing(store: Store, make_site: MakeSite, clock: Clock) -> None:
    lumi = Lumi(store, make_site, clock)
    lumi.read(START - 1000, 250.5)
    lumi.read(END + 1000, 260)
    lumi.read(END + 5000, 3)
    assert (lumi.rises(), lumi.opinion()) == ([], None)
    lumi.read(END + 8000, 4)
    (rise,) = lumi.rises()
    assert (rise.units, rise.ours, rise.share) == (1, 0, 0)


def test_a_running_job_has_its_part_so_far(store: Store, make_site: MakeSite, clock: Clock) -> None:
    lumi = Lumi(store, make_site, clock, final=False)
    lumi.read(START - 1000, 250.5)
    lumi.read(END + 1000, 251.5)
    (rise,) = lumi.rises()
    assert rise.ours == pytest.approx(90 * 3 / 3600), "by the memory that the queue tells of"
    assert lumi.opinion() is None


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_a_share_is_of_what_was_used(units: float, ours: float) -> None:
    assume(units > 0)
    assert Difference(0, 1, units, ours).share == min(1, ours / units)
    assert Difference(0, 1, 0, ours).share is None
