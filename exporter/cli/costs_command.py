"""`rayslurm costs`."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

import typer

from exporter.cli.context import ConfigOption, JsonOption, add_command, peek_store, print_json, read_config, say
from exporter.cli.costing import units_text
from exporter.cli.table import print_table
from exporter.store import ledger
from exporter.store.ledger import Entry

By = Literal["project", "campaign", "site", "month"]
Row = dict[str, Any]

_JOB_SHOWN = ("site", "job_id", "job_name", "project", "campaign", "ended", "kind", "unit", "units", "source")
_JOB_COLUMNS = (*_JOB_SHOWN, "partition", "token", "raw_sha256")
_SUM_COLUMNS = ("kind", "unit", "units", "jobs", "sources", "job_ids")
_IDS_SHOWN = 5
_FORMULA = ("=", "+", "-", "@", "\t")
"""What a cell begins with that a spreadsheet would work out."""


@dataclass(frozen=True, slots=True)
class Sum:
    """What some jobs cost together, in one kind of units.

    Attributes:
        name: of the project, campaign or site, or the month in which they ended (UTC).
        units: exactly, to the last digit of each bill.
        sources: whose figures they are.
        job_ids: the jobs, as `SITE/ID`.
    """

    name: str
    kind: str
    unit: str
    units: Decimal
    sources: tuple[str, ...]
    job_ids: tuple[str, ...]


def register(app: typer.Typer) -> None:
    """Adds the command."""
    add_command(app, costs)


def costs(
    *,
    by: Annotated[By | None, typer.Option("--by", help="Add up by this; one row a job where left out.")] = None,
    since: Annotated[
        datetime | None,
        typer.Option("--since", formats=["%Y-%m-%d"], help="Jobs that ended on this day (UTC) or later."),
    ] = None,
    until: Annotated[
        datetime | None, typer.Option("--until", formats=["%Y-%m-%d"], help="Jobs that ended before this day (UTC).")
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, for spreadsheets.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what jobs have cost: final bills, one by one or added up.

    Kinds and units are never added up, so a project may have several rows.

    Raises:
        ConfigError: there is no configuration, or it is wrong.
    """
    if as_csv and as_json:
        raise typer.BadParameter("write --csv or --json, not both", param_hint="--csv")
    _, settings = read_config(config)
    found: list[Entry] = []
    with peek_store(settings) as store:
        if store is not None:
            with store.snapshot() as connection:
                found = ledger.entries(connection, since=_epoch(since), until=_epoch(until))
    rows = _jobs(found) if by is None else _sums(added_up(found, by), by)
    if as_json:
        print_json({"by": by, "rows": [_for_json(row) for row in rows]})
    elif as_csv:
        typer.echo(_csv(_JOB_COLUMNS if by is None else (by, *_SUM_COLUMNS), rows), nl=False)
    else:
        header = _JOB_SHOWN if by is None else (by, *_SUM_COLUMNS)
        print_table([name.upper() for name in header], [[_shown(row[name]) for name in header] for row in rows])
        if not rows:
            say("no job has a final bill yet")


def added_up(entries: Iterable[Entry], by: By) -> list[Sum]:
    """Returns sums of the ledger, by name, kind and unit; each entry is in one of them."""
    groups: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((_name(entry, by), entry.kind, entry.unit), []).append(entry)
    return [
        Sum(
            *key,
            units=sum((Decimal(str(entry.units)) for entry in group), Decimal(0)),
            sources=tuple(sorted({entry.source for entry in group})),
            job_ids=tuple(f"{entry.site}/{entry.job_id}" for entry in group),
        )
        for key, group in sorted(groups.items())
    ]


def _name(entry: Entry, by: By) -> str:
    if by == "month":
        return "" if entry.end_time is None else f"{datetime.fromtimestamp(entry.end_time, UTC):%Y-%m}"
    return getattr(entry, by) or ""


def _jobs(entries: Iterable[Entry]) -> list[Row]:
    return [
        {**asdict(entry), "ended": _moment(entry.end_time), "units": Decimal(str(entry.units))} for entry in entries
    ]


def _sums(sums: Iterable[Sum], by: By) -> list[Row]:
    return [
        {
            by: one.name,
            "kind": one.kind,
            "unit": one.unit,
            "units": one.units,
            "jobs": len(one.job_ids),
            "sources": list(one.sources),
            "job_ids": list(one.job_ids),
        }
        for one in sums
    ]


def _moment(epoch: int | None) -> str | None:
    return None if epoch is None else f"{datetime.fromtimestamp(epoch, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _for_json(row: Row) -> Row:
    return {**row, "units": float(row["units"])}


def _csv(header: Sequence[str], rows: Iterable[Row]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_cell(row[name]) for name in header] for row in rows)
    return text.getvalue()


def _cell(value: object) -> str:
    """Returns a value as a spreadsheet takes it: lists with blanks between, and no name as a formula."""
    if isinstance(value, Decimal):
        return f"{value:f}"
    text = " ".join(str(one) for one in value) if isinstance(value, list) else "" if value is None else str(value)
    return f"'{text}" if text[:1] in _FORMULA else text


def _shown(value: object) -> str:
    """Returns a value as a person reads it."""
    if isinstance(value, Decimal):
        return units_text(value)
    if isinstance(value, list):
        more = f" and {len(value) - _IDS_SHOWN} more" if len(value) > _IDS_SHOWN else ""
        return " ".join(value[:_IDS_SHOWN]) + more
    return "" if value is None else str(value)


def _epoch(day: datetime | None) -> float | None:
    return None if day is None else day.replace(tzinfo=UTC).timestamp()
