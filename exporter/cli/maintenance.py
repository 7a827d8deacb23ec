"""A site's maintenance in a sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from exporter.cli.context import say
from exporter.cli.table import age, duration
from exporter.records import ReservationRecord


def maintenance_text(one: ReservationRecord, now: float) -> str:
    """Returns what there is to say of a maintenance.

    Args:
        one: the reservation.
        now: epoch seconds.
    """
    what = f"maintenance {one.name}"
    if one.nodes is not None:
        what += f" of {one.nodes} nodes" + (f" of {one.partition}" if one.partition else "")
    if one.start_time is None or one.start_time <= now:
        return f"{what} goes on"
    begins = f"{datetime.fromtimestamp(one.start_time, UTC):%Y-%m-%d %H:%M} UTC, in {age(one.start_time - now)}"
    length = "" if one.end_time is None else f", for {duration(one.end_time - one.start_time)}"
    return f"{what} from {begins}{length}: a job whose time limit reaches into it waits until it is over"


def show_maintenance(near: Mapping[str, Iterable[ReservationRecord]], now: float) -> None:
    """Says what is planned at each site."""
    for site, planned in near.items():
        for maintenance in planned:
            say(f"{site}: {maintenance_text(maintenance, now)}")
