"""Each time of a schedule gives one run or one counted miss: never two, never silence."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.campaigns.model import Campaign, read_campaign
from exporter.campaigns.plan import QUEUED_MOST, decide
from exporter.campaigns.schedule import between, times

HELSINKI = ZoneInfo("Europe/Helsinki")
FILE = Path("/campaigns/nightly.yaml")
SPEC = "site: lumi\ncluster: {cpus_per_node: 8, memory_per_node: 16G, time: 1h}\n"


def campaign(schedule: str = "{cron: '30 3 * * *', timezone: Europe/Helsinki}", more: str = "") -> Campaign:
    return read_campaign(f"{SPEC}schedule: {schedule}\n{more}", FILE)


def at(text: str, zone: Any = UTC) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()


def shown(found: list[int]) -> list[str]:
    return [f"{datetime.fromtimestamp(due, UTC):%m-%d %H:%M}" for due in found]


@pytest.mark.parametrize(
    ("day", "expected"),
    [
        # The clock goes from 3:00 to 4:00 at 1:00 UTC: there is no 3:30, so it runs right after.
        ("2026-03-29", ["03-28 01:30", "03-29 01:00", "03-30 00:30"]),
        # The clock goes from 4:00 back to 3:00 at 1:00 UTC: 3:30 comes twice, and it runs once.
        ("2026-10-25", ["10-24 00:30", "10-25 00:30", "10-26 01:30"]),
    ],
)
def test_each_night_on_which_the_clock_changes_has_one_run(day: str, expected: list[str]) -> None:
    middle = at(day, HELSINKI)
    assert shown(between(campaign(), after=middle - 86400, until=middle + 2 * 86400)) == expected


def test_what_runs_every_hour_runs_every_hour_in_these_nights_too() -> None:
    hourly = campaign("{cron: '0 * * * *', timezone: Europe/Helsinki}")
    for day in ("2026-03-29", "2026-10-25"):
        found = between(hourly, after=at(day) - 43200, until=at(day) + 43200)
        assert {later - earlier for earlier, later in pairwise(found)} == {3600}
        assert len(found) == 24


def test_times_that_come_close_in_such_a_night_alone_are_no_fault() -> None:
    sundays = campaign("{cron: '1 2-4 * * 0', timezone: Europe/Helsinki}")
    night = between(sundays, after=at("2026-03-29", HELSINKI), until=at("2026-03-30", HELSINKI))
    assert shown(night) == ["03-29 00:01", "03-29 01:00", "03-29 01:01"]


def test_monday_is_monday() -> None:
    due = next(times(campaign("{cron: '0 9 * * 1', timezone: Europe/Helsinki}"), after=at("2026-11-25")))
    assert f"{datetime.fromtimestamp(due, HELSINKI):%A %H:%M}" == "Monday 09:00"


def test_a_schedule_keeps_to_its_start_and_end() -> None:
    limited = campaign(more="start: 2026-12-01\nend: 2026-12-03\n")
    assert shown(list(times(limited, after=0))) == ["12-01 01:30", "12-02 01:30"]
    hours = campaign("{every: 6h}", more="start: 2026-12-01 02:00:00\nend: 2026-12-02\n")
    assert shown(list(times(hours, after=0))) == ["12-01 02:00", "12-01 08:00", "12-01 14:00", "12-01 20:00"]


def test_an_interval_goes_on_as_before_after_a_restart() -> None:
    hours = campaign("{every: 7h}")
    first = list(islice(times(hours, after=at("2026-11-25")), 20))
    for start in first[:-1]:
        assert next(times(hours, after=start)) == first[first.index(start) + 1]
        assert next(times(hours, after=start - 0.5)) == start


class Machine:
    """A simulated clock, and what the decisions of a campaign come to."""

    def __init__(self, campaign: Campaign, start: float) -> None:
        self.campaign = campaign
        self.now = self.decided = self.start = start
        self.runs: list[int] = []
        self.missed: list[int] = []

    def look(self, *, active: int = 0, waiting: int = 0) -> None:
        plan = decide(self.campaign, decided=self.decided, now=self.now, active=active, waiting=waiting)
        self.decided = plan.until
        self.runs += [] if plan.run is None else [plan.run]
        self.missed += [missed.due for missed in plan.missed]

    def passes(self, seconds: float, step: float = 30) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now = min(self.now + step, end)
            self.look()

    def account(self) -> None:
        """Each time that came gave one run or one miss."""
        due = between(self.campaign, after=self.start, until=self.decided)
        assert sorted(self.runs + self.missed) == due


def test_an_outage_of_two_days_is_two_misses_or_one_late_run() -> None:
    for policy, runs, missed in (("skip", 3, 2), ("once", 4, 1)):
        machine = Machine(campaign(more=f"missed: {policy}\n"), at("2026-11-20 12:00"))
        machine.passes(86400)
        machine.now += 2 * 86400
        machine.look()
        machine.passes(2 * 86400)
        assert (len(machine.runs), len(machine.missed)) == (runs, missed)
        machine.account()


def test_a_machine_that_sleeps_for_three_hours_misses_what_is_older_than_the_grace() -> None:
    machine = Machine(campaign("{cron: '0 * * * *'}"), at("2026-11-20 11:30"))
    machine.passes(3600)
    machine.now += 3 * 3600 - 1500  # asleep over 13, 14 and 15 o'clock, awake at 15:05
    machine.look()
    assert shown(machine.runs) == ["11-20 12:00", "11-20 15:00"]
    assert shown(machine.missed) == ["11-20 13:00", "11-20 14:00"]
    machine.account()


def test_a_look_that_comes_late_still_runs_within_the_grace() -> None:
    machine = Machine(campaign("{cron: '0 * * * *'}"), at("2026-11-20 11:30"))
    machine.now = at("2026-11-20 12:15")  # every worker was busy
    machine.look()
    assert (shown(machine.runs), machine.missed) == (["11-20 12:00"], [])
    machine.now = at("2026-11-20 13:15") + 1
    machine.look()
    assert shown(machine.missed) == ["11-20 13:00"]


def test_a_run_that_goes_on_is_in_the_way_or_waited_for() -> None:
    now = at("2026-11-20 12:00")
    for policy, active, waiting, expected in (
        ("forbid", 1, 0, None),
        ("forbid", 0, 1, None),
        ("queue", 1, 0, now),
        ("queue", 1, QUEUED_MOST - 1, now),
        ("queue", 1, QUEUED_MOST, None),
    ):
        plan = decide(
            campaign("{every: 1h}", f"concurrency: {policy}\n"),
            decided=now - 60,
            now=now + 1,
            active=active,
            waiting=waiting,
        )
        assert plan.run == expected
        assert [missed.due for missed in plan.missed] == ([] if expected else [now])


def test_a_clock_that_was_years_ahead_does_not_silence_a_campaign() -> None:
    machine = Machine(campaign("{cron: '0 * * * *'}"), at("2026-11-20 11:30"))
    machine.decided = at("2036-01-01")
    machine.look()
    machine.passes(3600)
    assert shown(machine.runs) == ["11-20 12:00"]


SCHEDULES = st.one_of(
    st.builds(lambda minutes: f"{{every: {minutes}m}}", st.integers(5, 3000)),
    st.builds(
        lambda minute, hour, day: f"{{cron: '{minute} {hour} * * {day}', timezone: Europe/Helsinki}}",
        st.integers(0, 59),
        st.one_of(st.integers(0, 23).map(str), st.sampled_from(["*", "*/6", "2-4"])),
        st.sampled_from(["*", "1-5", "0", "7"]),
    ),
)


@given(
    schedule=SCHEDULES,
    policy=st.sampled_from(["skip", "once"]),
    start=st.sampled_from(["2026-03-28 12:00", "2026-10-24 12:00", "2026-07-01"]).map(at),
    steps=st.lists(
        st.tuples(
            st.one_of(st.floats(1, 120), st.floats(600, 90000)),
            st.sampled_from([(0, 0), (1, 0), (1, 3), (0, 1), (1, QUEUED_MOST)]),
        ),
        min_size=1,
        max_size=60,
    ),
    concurrency=st.sampled_from(["forbid", "queue"]),
)
def test_whatever_the_machine_does_each_time_gives_one_run_or_one_miss(
    schedule: str, policy: str, start: float, steps: list[tuple[float, tuple[int, int]]], concurrency: str
) -> None:
    machine = Machine(campaign(schedule, f"missed: {policy}\nconcurrency: {concurrency}\n"), start)
    for seconds, (active, waiting) in steps:
        machine.now += seconds
        machine.look(active=active, waiting=waiting)
    machine.account()
    assert machine.decided == machine.now
    assert all(earlier < later for earlier, later in pairwise(machine.runs))
    assert timedelta(seconds=machine.now - start) > timedelta(0)
