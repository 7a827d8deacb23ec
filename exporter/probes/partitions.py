"""Partitions with their limits, once a day, as the site's own Slurm describes them."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from exporter.parsers import sinfo
from exporter.probes.base import ProbeContext, Unhurried
from exporter.records import PartitionRecord
from exporter.store import partitions

INTERVAL_SECONDS = 86400.0
RETRY_SECONDS = 3600.0


@dataclass(slots=True)
class PartitionsProbe(Unhurried):
    """Reads the partitions of one site."""

    name: str = "partitions"
    keeps_seconds: float = INTERVAL_SECONDS

    def run(self, context: ProbeContext) -> float:
        """See `Probe.run`."""
        text = context.client.partitions().stdout

        def keep(connection: sqlite3.Connection, records: tuple[PartitionRecord, ...]) -> None:
            partitions.replace(connection, context.site.name, records, now=context.clock())

        context.take_in(sinfo.SOURCE, text, sinfo.parse, keep)
        return INTERVAL_SECONDS

    def delay_after_failure(self) -> float:
        """See `Probe.delay_after_failure`."""
        return RETRY_SECONDS


def make() -> PartitionsProbe:
    """Returns the probe for one site."""
    return PartitionsProbe()
