"""Partitions with their limits, once a day, as the site's own Slurm describes them."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from exporter.parsers import sinfo
from exporter.probes.base import ProbeContext, Unhurried
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
        parsed = context.read(sinfo.SOURCE, text, sinfo.parse)

        def take_in(connection: sqlite3.Connection) -> None:
            context.keep(connection, sinfo.SOURCE, text, faults=len(parsed.warnings))
            partitions.replace(connection, context.site.name, parsed.records, now=context.clock())

        context.store.write(take_in)
        return INTERVAL_SECONDS

    def delay_after_failure(self) -> float:
        """See `Probe.delay_after_failure`."""
        return RETRY_SECONDS


def make() -> PartitionsProbe:
    """Returns the probe for one site."""
    return PartitionsProbe()
