"""What is read of reservations, and what people are told of maintenance."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.cli.maintenance import maintenance_text
from exporter.client.replay import Exchange
from exporter.errors import InputError
from exporter.parsers.reservations import parse
from exporter.probes.reservations import INTERVAL_SECONDS, ReservationsProbe
from exporter.records import ReservationRecord
from exporter.store import reservations
from exporter.store.db import Store
from tests.unit.conftest import Clock, MakeSite

TEXT = (Path(__file__).parents[1] / "golden/reservations/22.05.txt").read_text(encoding="utf-8")
HELSINKI = ZoneInfo("Europe/Helsinki")


def test_slurm_22_05() -> None:
    maintenance, other = parse(TEXT, timezone=HELSINKI).records
    assert maintenance == ReservationRecord(
        "maint", 1795759487, 1795773887, 5, None, ("MAINT", "IGNORE_JOBS", "SPEC_NODES", "ALL_NODES")
    )
    assert (other.name, other.partition, other.nodes, other.is_maintenance) == ("root_2", "small", 1, False)
    assert other.end_time == (other.start_time or 0) + 3600


def test_a_site_without_any_says_so() -> None:
    assert parse("No reservations in the system\n").records == ()
    for text in (
        "",
        "slurm_load_reservations error: Unable to contact slurm controller\n",
        "bash: scontrol: not found",
    ):
        with pytest.raises(InputError, match="not what scontrol prints of reservations"):
            parse(text)


def test_a_line_that_is_odd_is_kept_and_the_rest_goes_on() -> None:
    parsed = parse(TEXT + "ReservationName=odd StartTime=yesterday\nand more\n", timezone=HELSINKI)
    assert len(parsed.records) == 2
    assert [warning.text for warning in parsed.warnings] == ["ReservationName=odd StartTime=yesterday", "and more"]


@given(st.text(alphabet=st.sampled_from("RevationNmeStrTd=, 0123456789-:\n()"), max_size=300))
def test_anything_is_read_or_refused(text: str) -> None:
    with suppress(InputError):
        parse("ReservationName=x " + text)


@pytest.mark.parametrize(
    ("begins", "expected"),
    [
        (3600, "maintenance m of 5 nodes from 2027-01-15 09:00 UTC, in 1h, for 02:00:00: a job whose time limit "),
        (-60, "maintenance m of 5 nodes goes on"),
    ],
)
def test_what_people_are_told(begins: int, expected: str) -> None:
    now = 1_800_000_000
    record = ReservationRecord("m", now + begins, now + begins + 7200, 5, None, ("MAINT",))
    assert maintenance_text(record, now).startswith(expected)


def test_the_probe_keeps_what_the_site_says(store: Store, clock: Clock, make_site: MakeSite) -> None:
    clock.now = 1_795_700_000.0
    context, transport = make_site(
        [Exchange("scontrol", TEXT), Exchange("scontrol", "No reservations in the system\n")]
    )
    assert ReservationsProbe().run(context) == INTERVAL_SECONDS
    assert transport.asked[-1] == ("scontrol", ("scontrol", "-o", "show", "reservation"))
    with store.snapshot() as connection:
        assert [one.name for one in reservations.maintenance(connection, "puhti2", now=clock.now)] == ["maint"]
        assert reservations.maintenance(connection, "puhti2", now=clock.now + 2 * 86400) == []
        assert reservations.maintenance(connection, "puhti2", now=clock.now - 30 * 86400) == []
    ReservationsProbe().run(context)
    with store.snapshot() as connection:
        assert reservations.maintenance(connection, "puhti2", now=clock.now) == []
