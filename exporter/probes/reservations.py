"""Reservations of nodes, four times a day: a maintenance keeps jobs waiting whose time limit reaches into it."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from exporter.client.client import checked, whole
from exporter.parsers import reservations as parser
from exporter.probes.base import ProbeContext, Unhurried
from exporter.records import ReservationRecord
from exporter.store import reservations

INTERVAL_SECONDS = 6 * 3600.0
RETRY_SECONDS = 3600.0


@dataclass(slots=True)
class ReservationsProbe(Unhurried):
    """Reads the reservations of one site."""

    name: str = "reservations"
    keeps_seconds: float = INTERVAL_SECONDS

    def run(self, context: ProbeContext) -> float:
        """See `Probe.run`."""
        text = whole(checked(context.client.tool("scontrol", "-o", "show", "reservation"))).stdout

        def keep(connection: sqlite3.Connection, records: tuple[ReservationRecord, ...]) -> None:
            reservations.replace(connection, context.site.name, records, now=context.clock())

        context.take_in(parser.SOURCE, text, parser.parse, keep)
        return INTERVAL_SECONDS

    def delay_after_failure(self) -> float:
        """See `Probe.delay_after_failure`."""
        return RETRY_SECONDS


def make() -> ReservationsProbe:
    """Returns the probe for one site."""
    return ReservationsProbe()
