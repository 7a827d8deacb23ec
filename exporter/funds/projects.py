"""Every balance with its project, how it stands, and what is forecast of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, tzinfo
from typing import Any

from exporter.billing.burn import CUTTER_SHARE, DAY_SECONDS, Forecast, Reading, forecast, used_since
from exporter.billing.standing import Standing, blocks_submission, standing
from exporter.config import Config
from exporter.records import AllocationRecord
from exporter.store import balances, readings
from exporter.store.balances import Project

CUT_KINDS = frozenset({"cpu", "gpu"})
"""The kinds that CSC's cutter looks at."""

WEEK_SECONDS = 7 * DAY_SECONDS


@dataclass(frozen=True, slots=True)
class Fund:
    """One balance of a project, or a project of which none is told.

    Attributes:
        zone: of the provider's dates.
        forecast: empty where the project is lost to us or has ended.
        used_since_grant: in the balance's unit; None where that isn't known.
        blocks: whether the provider takes no job for want of it.
    """

    project: Project
    balance: AllocationRecord | None
    standing: Standing
    forecast: Forecast
    used_since_grant: float | None
    blocks: bool
    zone: tzinfo

    @property
    def remark(self) -> str:
        """What there is to say of it; nothing where all is well."""
        found: list[str] = [self.standing.word] if self.standing.word else []
        if self.blocks:
            found.append("no job is taken before there are some")
        cut = self.forecast.cutter
        if cut is not None and cut.lost_at_most and cut.expected_ratio is not None:
            found.append(
                f"{cut.expected_ratio:.0%} used when the cutter looks on {self.day(cut.check_time)}, less than "
                f"{CUTTER_SHARE:.0%}: part of {cut.lost_at_most:,.0f} may be lost"
            )
        return "; ".join(found)

    @property
    def is_bad(self) -> bool:
        """Whether somebody should do something about it."""
        return self.standing.is_bad or self.blocks

    def day(self, epoch: float) -> str:
        """Returns a day as the provider calls it."""
        return f"{datetime.fromtimestamp(epoch, self.zone):%Y-%m-%d}"

    def as_json(self) -> dict[str, Any]:
        """Returns what `rayslurm status --json` prints of it; null is not known, times are epoch seconds."""
        balance, told = self.balance, self.forecast
        return {
            "provider": self.project.provider,
            "project": self.project.project,
            "kind": balance.kind if balance else None,
            "unit": balance.unit if balance else None,
            "used": balance.used if balance else None,
            "granted": balance.granted if balance else None,
            "remaining": balance.remaining if balance else None,
            "updated_time": balance.updated_time if balance else None,
            "read": self.project.read,
            "accessible": self.project.accessible,
            "end_time": self.project.end_time,
            "last_grant_time": self.project.last_grant_time,
            "status": self.project.status,
            "remark": self.standing.word or None,
            "blocks_submission": self.blocks,
            "used_since_grant": self.used_since_grant,
            "per_day_1d": told.per_day_1d,
            "per_day_7d": told.per_day_7d,
            "ours_per_day_7d": told.ours_7d,
            "our_share": told.our_share,
            "exhausted_at": told.exhausted_at,
            "lost_at_end": told.lost_at_end,
            "cutter": None if told.cutter is None else asdict(told.cutter),
        }


def funds(connection: sqlite3.Connection, config: Config, *, now: float) -> list[Fund]:
    """Returns the balances of the providers of configured sites, by provider, project and kind.

    Args:
        connection: of a snapshot.
        config: the configuration.
        now: epoch seconds.
    """
    zones: dict[str, tzinfo] = {
        site.profile.balance.provider: site.timezone
        for site in config.resolved_sites.values()
        if site.profile.balance is not None
    }
    told: dict[tuple[str, str], list[AllocationRecord]] = {}
    for balance in balances.balances(connection):
        told.setdefault((balance.provider, balance.project), []).append(balance)
    history = readings.all_readings(connection)
    costs = readings.cost_since(connection, since=now - WEEK_SECONDS)
    return [
        fund
        for project in balances.projects(connection)
        if project.provider in zones
        for fund in _of_project(
            project,
            told.get((project.provider, project.project), []),
            history,
            costs,
            zone=zones.get(project.provider, UTC),
            now=now,
        )
    ]


def _of_project(
    project: Project,
    told: list[AllocationRecord],
    history: dict[readings.Key, list[tuple[float, float, float | None]]],
    costs: dict[tuple[str, str, str], float],
    *,
    zone: tzinfo,
    now: float,
) -> Iterator[Fund]:
    wanted: list[AllocationRecord | None] = [*told] or [None]
    for balance in wanted:
        stands = standing(
            balance, accessible=project.accessible, end_time=project.end_time, status=project.status, now=now
        )
        if balance is None or stands.word in {"no access", "project ended", "project closed"}:
            yield Fund(project, balance, stands, Forecast(), None, False, zone)
            continue
        seen = [
            Reading(*row) for row in history.get((project.provider, project.project, balance.kind, balance.unit), ())
        ]
        cuts = project.provider == "csc" and balance.kind in CUT_KINDS
        since = None
        if project.last_grant_time is not None:
            since = used_since(seen, project.last_grant_time, begin=project.start_time, now=now)
        cost = costs.get((project.project, balance.kind, balance.unit))
        yield Fund(
            project,
            balance,
            stands,
            forecast(
                seen,
                remaining=balance.remaining,
                granted=balance.granted,
                now=now,
                ours_7d=None if cost is None else cost / 7,
                end_time=project.end_time,
                start_time=project.start_time,
                grant_time=project.last_grant_time,
                has_cutter=cuts,
            ),
            None if since is None else since[0],
            blocks_submission(project.provider, balance),
            zone,
        )
