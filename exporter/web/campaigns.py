"""What the page for people shows of campaigns and of maintenance."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from dataclasses import dataclass

from exporter.records import ReservationRecord
from exporter.store import campaigns, reservations
from exporter.store.campaigns import CampaignRow, Reload, RunRow


@dataclass(frozen=True, slots=True)
class CampaignView:
    """A campaign, its runs that go on, and its latest run or miss."""

    row: CampaignRow
    going: list[RunRow]
    last: RunRow | None

    @property
    def state(self) -> str:
        """What it does, in a word or two."""
        if not self.row.present:
            return "its file is gone"
        if self.row.rests:
            return "paused"
        return "runs" if self.going else "waits for its time"


@dataclass(frozen=True, slots=True)
class Schedules:
    """All campaigns, what is wrong with their files, and the maintenance of the sites.

    Attributes:
        reload: how the files were last read; None where they never were.
        maintenance: with the site of each.
    """

    campaigns: list[CampaignView]
    reload: Reload | None
    maintenance: list[tuple[str, ReservationRecord]]

    @property
    def has_section(self) -> bool:
        """Whether there is a campaign to be shown, or a file that should be one."""
        return bool(self.campaigns) or (self.reload is not None and bool(self.reload.errors))


def schedules(connection: sqlite3.Connection, sites: Collection[str], *, now: float) -> Schedules:
    """Returns what the page shows.

    Args:
        connection: of a snapshot.
        sites: those that are configured.
        now: epoch seconds.
    """
    going = campaigns.active(connection)
    views = [
        CampaignView(
            row,
            [run for run in going if run.campaign == row.name],
            next(iter(campaigns.history(connection, row.name, most=1)), None),
        )
        for row in campaigns.campaigns(connection)
        if row.site in sites
    ]
    near = [(site, one) for site in sites for one in reservations.maintenance(connection, site, now=now)]
    return Schedules(views, campaigns.reload_of(connection), near)
