"""Disk areas and their quotas, every six hours: CSC's and LUMI's own tables of them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from exporter.client.client import checked, whole
from exporter.parsers import csc_workspaces, lumi_workspaces
from exporter.probes.base import ProbeContext, Unhurried
from exporter.records import Parsed, WorkspaceRecord
from exporter.store import samples
from exporter.store.samples import Sample

INTERVAL_SECONDS = 6 * 3600.0
RETRY_SECONDS = 3600.0

_PARSERS: dict[str, Callable[..., Parsed[WorkspaceRecord]]] = {
    csc_workspaces.KIND: csc_workspaces.parse,
    lumi_workspaces.KIND: lumi_workspaces.parse,
}


@dataclass(slots=True)
class AreasProbe(Unhurried):
    """Reads the disk areas of one site."""

    name: str = "areas"
    keeps_seconds: float = INTERVAL_SECONDS

    def run(self, context: ProbeContext) -> float:
        """See `Probe.run`."""
        workspaces = context.site.profile.workspaces
        if workspaces is None:
            return INTERVAL_SECONDS
        kind = workspaces.command[0]
        text = whole(checked(context.client.tool(*workspaces.command))).stdout

        def keep(connection: sqlite3.Connection, records: tuple[WorkspaceRecord, ...]) -> None:
            found = [sample for area in records for sample in _samples(area)]
            samples.replace(connection, context.site.name, self.name, found, now=context.clock())

        context.take_in(kind, text, _PARSERS[kind], keep)
        return INTERVAL_SECONDS

    def delay_after_failure(self) -> float:
        """See `Probe.delay_after_failure`."""
        return RETRY_SECONDS


def make() -> AreasProbe:
    """Returns the probe for one site."""
    return AreasProbe()


def _samples(area: WorkspaceRecord) -> Iterator[Sample]:
    labels = {"area": area.path, "project": area.project or ""}
    for name in ("used_bytes", "limit_bytes", "used_files", "limit_files"):
        value = getattr(area, name)
        if value is not None:
            yield Sample(f"storage_{name}", float(value), labels)
