"""How fast units go and what is forecast: of any sequence of balances nothing negative, past or over all of it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.billing.burn import (
    CUTTER_SECONDS,
    DAY_SECONDS,
    STALE_SECONDS,
    Forecast,
    Reading,
    forecast,
    per_day,
    used_since,
)
from exporter.billing.standing import blocks_submission, standing
from exporter.records import AllocationRecord

NOW = 1_795_000_000.0
HOUR = 3600.0


def series(*used: float, step: float = HOUR, granted: float = 1000.0) -> list[Reading]:
    """Readings that end now."""
    return [Reading(NOW - step * (len(used) - 1 - number), amount, granted) for number, amount in enumerate(used)]


def told(readings: list[Reading], remaining: float | None = 500.0, **about: float | bool) -> Forecast:
    return forecast(readings, remaining=remaining, granted=1000.0, now=NOW, **about)  # type: ignore[arg-type]


def test_steady_use() -> None:
    week = told(series(*(10.0 * hours for hours in range(24 * 7 + 1))), remaining=480)
    assert week.per_day_1d == pytest.approx(240)
    assert week.per_day_7d == pytest.approx(240)
    assert week.exhausted_at == pytest.approx(NOW + 2 * DAY_SECONDS)


def test_a_grant_and_a_cut_in_the_middle_change_no_use() -> None:
    steady = [10.0 * hours for hours in range(49)]
    granted = [Reading(one.at, one.used, 5000.0 if one.at > NOW - DAY_SECONDS else 1000.0) for one in series(*steady)]
    cut = [Reading(one.at, one.used, 300.0 if one.at > NOW - DAY_SECONDS else 1000.0) for one in series(*steady)]
    assert told(granted).per_day_7d == told(cut).per_day_7d == told(series(*steady)).per_day_7d == pytest.approx(240)


def test_days_without_use_never_run_dry_and_a_quiet_day_does_not_hide_the_week() -> None:
    assert told(series(*[70.0] * 100)).exhausted_at is None
    assert told(series(*[70.0] * 100)).per_day_7d == 0
    quiet = told(series(*[10.0 * hours for hours in range(73)], *[720.0] * 24))
    assert quiet.per_day_1d == 0
    assert quiet.per_day_7d == pytest.approx(180)
    assert quiet.exhausted_at is not None


def test_a_provider_that_counts_anew_or_corrects_gives_too_little_and_never_too_much() -> None:
    anew = told(series(*[900.0 + hours for hours in range(48)], *[float(hours) for hours in range(24)]))
    assert anew.per_day_7d is not None
    assert 0 < anew.per_day_7d <= 24
    corrected = told(series(*[900.0 + hours for hours in range(48)], 500.0, 510.0))
    assert corrected.per_day_7d is not None
    assert corrected.per_day_7d <= 24


def test_too_little_seen_or_too_old_is_not_known() -> None:
    assert told(series(1.0, 2.0)).per_day_1d is None
    assert told([]).per_day_7d is None
    old = [Reading(one.at - STALE_SECONDS - 1, one.used) for one in series(*map(float, range(100)))]
    assert told(old) == Forecast()


def test_what_is_overspent_has_no_time_of_running_dry() -> None:
    assert told(series(*map(float, range(100))), remaining=-5.0).exhausted_at is None
    assert told(series(*map(float, range(100))), remaining=None).exhausted_at is None


def test_what_is_left_at_the_projects_end() -> None:
    readings = series(*[10.0 * hours for hours in range(49)])
    assert told(readings, end_time=NOW + DAY_SECONDS).lost_at_end == pytest.approx(260)
    assert told(readings, end_time=NOW + 10 * DAY_SECONDS).lost_at_end == 0
    assert told(readings, end_time=NOW - 1).lost_at_end is None


def test_our_share_is_never_more_than_all() -> None:
    readings = series(*[10.0 * hours for hours in range(49)])
    assert told(readings, ours_7d=60.0).our_share == pytest.approx(0.25)
    assert told(readings, ours_7d=600.0).our_share == 1
    assert told(readings).our_share is None
    assert told(series(*[5.0] * 49), ours_7d=1.0).our_share is None, "of nothing there is no share"


def test_the_cutter_of_a_project_that_uses_too_little() -> None:
    grant = NOW - 82 * DAY_SECONDS
    readings = [Reading(grant + day * DAY_SECONDS, 2.0 * day, 1000.0) for day in range(83)]
    cut = told(readings, grant_time=grant, has_cutter=True).cutter
    assert cut is not None
    assert cut.check_time == grant + CUTTER_SECONDS
    assert cut.used_ratio == pytest.approx(0.164)
    assert cut.expected_ratio == pytest.approx(0.364)  # 164, and 100 days at 2
    assert cut.lost_at_most == pytest.approx(636)


def test_the_cutter_spares_who_uses_enough_and_counts_from_the_grant() -> None:
    grant = NOW - 82 * DAY_SECONDS
    readings = [Reading(grant + day * DAY_SECONDS, 400.0 + 3.0 * day, 1000.0) for day in range(-5, 83)]
    cut = told(readings, grant_time=grant, has_cutter=True).cutter
    assert cut is not None
    assert cut.used_ratio == pytest.approx(246 / 600), "of what it had after the grant"
    assert cut.lost_at_most == 0


@pytest.mark.parametrize(
    "about",
    [
        {"grant_time": NOW - CUTTER_SECONDS - 1, "has_cutter": True},  # when it looks next isn't known
        {"grant_time": NOW - 50 * DAY_SECONDS, "has_cutter": True},  # what was used by then isn't known
        {"grant_time": NOW - 2 * DAY_SECONDS, "has_cutter": False},
        {"has_cutter": True},
    ],
)
def test_where_the_data_do_not_tell_nothing_is_said_of_the_cutter(about: dict[str, float | bool]) -> None:
    assert told(series(*map(float, range(72))), **about).cutter is None


def test_a_projects_first_grant_needs_no_reading_of_that_day() -> None:
    grant = NOW - 100 * DAY_SECONDS
    cut = told(
        series(*[300.0 + hours / 24 for hours in range(49)]), grant_time=grant, start_time=grant, has_cutter=True
    )
    assert cut.cutter is not None
    assert cut.cutter.used_ratio == pytest.approx(0.302)


STEP = st.one_of(
    st.tuples(st.just("use"), st.floats(0, 1e4)),
    st.tuples(st.just("grant"), st.floats(0, 1e5)),
    st.tuples(st.just("cut"), st.floats(0, 1)),
    st.tuples(st.just("correct"), st.floats(0, 1)),
    st.tuples(st.just("anew"), st.just(0.0)),
    st.tuples(st.just("lose"), st.floats(0, 20)),
    st.tuples(st.just("clock"), st.floats(-600, 600)),
    st.tuples(st.just("jump"), st.floats(-3e6, 3e6)),
    st.tuples(st.just("withdraw"), st.just(0.0)),
)


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Reading], float, float | None, float | None]:
    """Any sequence of balances: use by us and by others, grants, cuts, lost access, lag, a clock that is off."""
    at, used, granted = 1.7e9, draw(st.floats(0, 1e6)), draw(st.none() | st.floats(0, 1e6))
    readings, shown = [], (used, granted)
    for what, amount in draw(st.lists(STEP, max_size=60)):
        at += draw(st.floats(0, 2 * DAY_SECONDS))
        stamp = at
        if what == "use":
            used += amount
        elif what == "grant":
            granted = (granted or 0) + amount
        elif what == "cut" and granted is not None:
            granted *= amount
        elif what == "correct":
            used *= amount
        elif what == "anew":
            used = 0.0
        elif what == "lose":
            at += amount * DAY_SECONDS
            continue
        elif what in {"clock", "jump"}:
            stamp = at + amount
        elif what == "withdraw":
            granted = None
        if draw(st.booleans()):  # the provider has worked out its balances anew
            shown = (used, granted)
        readings.append(Reading(stamp, *shown))
    now = at + draw(st.floats(-600, 2 * HOUR))
    remaining = None if shown[1] is None else shown[1] - shown[0]
    return readings, now, shown[1], remaining


@settings(max_examples=400)
@given(
    histories(),
    st.none() | st.floats(0, 1e6),
    st.none() | st.floats(1.69e9, 1.72e9),
    st.none() | st.floats(1.69e9, 1.72e9),
    st.none() | st.floats(1.69e9, 1.72e9),
)
def test_no_negative_burn_no_exhaustion_in_the_past_no_share_over_all(
    history: tuple[list[Reading], float, float | None, float | None],
    ours: float | None,
    end: float | None,
    begin: float | None,
    grant: float | None,
) -> None:
    readings, now, granted, remaining = history
    found = forecast(
        readings, remaining=remaining, granted=granted, now=now, ours_7d=ours, end_time=end, start_time=begin,
        grant_time=grant, has_cutter=True,
    )  # fmt: skip
    for burn in (found.per_day_1d, found.per_day_7d):
        assert burn is None or burn >= 0
    assert found.our_share is None or 0 <= found.our_share <= 1
    assert found.exhausted_at is None or found.exhausted_at >= now
    if remaining is not None and remaining <= 0:
        assert found.exhausted_at is None
    assert found.lost_at_end is None or 0 <= found.lost_at_end <= max(0.0, remaining or 0.0)
    if found.cutter is not None:
        cut = found.cutter
        assert cut.check_time > now
        assert 0 <= cut.used_ratio <= 1
        assert cut.expected_ratio is None or 0 <= cut.expected_ratio <= 1
        assert cut.lost_at_most is None or cut.lost_at_most >= 0
        assert granted is None or cut.lost_at_most is None or cut.lost_at_most <= granted + 1e-6


@given(histories(), st.floats(1.69e9, 1.72e9))
def test_use_since_a_grant_is_never_negative(
    history: tuple[list[Reading], float, float | None, float | None], since: float
) -> None:
    readings, now, _, _ = history
    found = used_since(readings, since, now=now)
    assert found is None or (found[0] >= 0 and found[1] >= 0)


@given(st.permutations([float(number) for number in range(40)]))
def test_readings_in_a_wrong_order_give_no_more_than_all_that_was_used(values: list[float]) -> None:
    burn = per_day(series(*values, 39.0), now=NOW, window=7 * DAY_SECONDS, least=DAY_SECONDS)
    assert burn is not None
    assert burn * 40 / 24 <= 39 + 1e-9


def record(kind: str = "cpu", used: float | None = 10, granted: float | None = 100) -> AllocationRecord:
    left = None if used is None or granted is None else granted - used
    return AllocationRecord("csc", "project_1", kind, "BU", used, granted, left)


@pytest.mark.parametrize(
    ("balance", "about", "word", "bad"),
    [
        (record(), {}, "", False),
        (record(used=101), {}, "overspent", True),
        (record(used=100), {}, "used up", True),
        (record(used=96), {}, "nearly used up", True),
        (record(granted=None), {}, "nothing granted", True),
        (record(used=0, granted=None), {}, "nothing granted", False),
        (record(used=0, granted=0), {}, "nothing granted", False),
        (record(used=5, granted=0), {}, "overspent", True),
        (None, {"accessible": False}, "no access", True),
        (record(), {"end_time": NOW - DAY_SECONDS}, "project ended", True),
        (record(), {"end_time": NOW - HOUR}, "", False),
        (record(), {"status": "closed"}, "project closed", True),
        (record(), {"status": "open"}, "", False),
    ],
)
def test_how_a_balance_stands(balance: AllocationRecord | None, about: dict[str, object], word: str, bad: bool) -> None:
    found = standing(balance, **{"accessible": True, "end_time": None, "status": None, "now": NOW, **about})  # type: ignore[arg-type]
    assert (found.word, found.is_bad) == (word, bad)


def test_at_csc_no_storage_units_left_take_no_job() -> None:
    assert blocks_submission("csc", record("storage", 100, 100))
    assert blocks_submission("csc", record("storage", 101, 100))
    assert not blocks_submission("csc", record("storage", 99, 100))
    assert not blocks_submission("csc", record("storage", 5, None)), "what N/A means isn't known"
    assert not blocks_submission("csc", record("storage", 0, 0))
    assert not blocks_submission("lumi", record("storage", 101, 100))
    assert not blocks_submission("csc", record("cpu", 101, 100))
