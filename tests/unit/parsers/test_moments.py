"""Points in time: epoch seconds, local times, and the two nights of the year."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.parsers.moments import moments, settle

HELSINKI = ZoneInfo("Europe/Helsinki")


def test_epoch_seconds_need_no_zone() -> None:
    assert moments("1795450041", HELSINKI) == moments("1795450041", UTC) == (1795450041,)


def test_local_times_are_read_with_the_zone() -> None:
    assert moments("2026-11-23T16:07:21", UTC) == (1795450041,)
    assert moments("2026-11-23T18:07:21", HELSINKI) == (1795450041,)
    assert moments("2026-07-01T12:00:00", HELSINKI) == (1782896400,)


def test_an_offset_that_is_printed_is_used() -> None:
    assert moments("2026-11-23T18:07:21+0200", UTC) == moments("2026-11-23T16:07:21Z", HELSINKI) == (1795450041,)
    assert moments("2026-11-23T11:07:21-05:00", HELSINKI) == (1795450041,)


@pytest.mark.parametrize("text", ["", "Unknown", "None", "N/A", "0", "4294967294", "4294967295"])
def test_no_time(text: str) -> None:
    assert moments(text, UTC) == ()


@pytest.mark.parametrize(
    "text",
    [
        "2026-13-01T00:00:00",
        "2026-02-30T00:00:00",
        "2026-11-23T24:00:00",
        "2026-11-23T16:07",
        "2026-11-23 16:07:21",
        "16:07:21",
        "-5",
        "1795450041.5",
        "12345678901",
        "\u0662026-11-23T16:07:21",
        "0000-01-01T00:00:00",
        "0001-01-01T00:00:00+9900",
        "9999-12-31T23:59:59-9900",
        "1969-12-31T23:59:59",
        "2026-11-23T16:07:2+",
    ],
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        moments(text, UTC)


def test_the_hour_that_occurs_twice_means_two_moments() -> None:
    first, second = moments("2026-10-25T03:30:00", HELSINKI)
    assert second - first == 3600


def test_the_hour_that_is_skipped_is_refused() -> None:
    with pytest.raises(ValueError, match="skip"):
        moments("2026-03-29T03:30:00", HELSINKI)


def test_the_elapsed_time_tells_which_of_the_two_it_was() -> None:
    start = moments("2026-10-25T02:30:00", HELSINKI)
    end = moments("2026-10-25T03:30:00", HELSINKI)
    assert settle((), start, end, 3600) == (None, start[0], end[0])
    assert settle((), start, end, 7200) == (None, start[0], end[1])
    assert settle((), start, end, 5000) == (None, start[0], None)
    assert settle((), start, end, None) == (None, start[0], None)


def test_order_tells_which_of_the_two_it_was() -> None:
    late = moments("2026-10-25T03:30:00", HELSINKI)
    submit = (late[0] + 600,)
    assert settle(submit, late, (), None) == (submit[0], late[1], None)
    assert settle(late, (late[0] + 60,), (), None) == (late[0], late[0] + 60, None)


def test_both_times_in_the_hour_stay_open_unless_the_elapsed_time_decides() -> None:
    start = moments("2026-10-25T03:10:00", HELSINKI)
    end = moments("2026-10-25T03:20:00", HELSINKI)
    assert settle((), start, end, 600) == (None, None, None)
    assert settle((), start, end, 4200) == (None, start[0], end[1])


@given(seconds=st.integers(2**25, 2**32 - 10**8))
def test_whatever_the_zone_prints_is_read_back_or_left_open(seconds: int) -> None:
    printed = datetime.fromtimestamp(seconds, HELSINKI).strftime("%Y-%m-%dT%H:%M:%S")
    assert seconds in moments(printed, HELSINKI)
