"""`rayslurm campaigns`."""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer

from exporter.billing.price import NoPrice, Price
from exporter.campaigns.files import campaign_of, files, read_file
from exporter.campaigns.model import Campaign, schema
from exporter.campaigns.schedule import times
from exporter.cli.context import ConfigOption, JsonOption, open_store, peek_store, print_json, read_config, say, warn
from exporter.cli.costing import price_json, units_text
from exporter.cli.table import age, print_table
from exporter.config import Config
from exporter.errors import ConfigError, InputError, RefusedError
from exporter.launch.guards import Ceiling, held
from exporter.launch.known import look, price_now
from exporter.store import campaigns
from exporter.store.campaigns import CampaignRow, RunRow
from exporter.store.db import Store

app = typer.Typer(help="Specs that are launched by a schedule.", no_args_is_help=True)

CampaignArgument = Annotated[
    str, typer.Argument(metavar="CAMPAIGN", help="The campaign: its file's name without .yaml.")
]


def register(top: typer.Typer) -> None:
    """Adds the commands."""
    top.add_typer(app, name="campaigns")


@app.command("list")
def list_campaigns(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List the campaigns as `rayslurm serve` last read them: schedule, next time, how the last runs went."""
    _, settings = read_config(config)
    now = time.time()
    told: list[dict[str, Any]] = []
    errors: dict[str, str] = {}
    with peek_store(settings) as store:
        if store is not None:
            with store.snapshot() as connection:
                for row in campaigns.campaigns(connection):
                    last = next(iter(campaigns.history(connection, row.name, most=1)), None)
                    going = [run for run in campaigns.active(connection, row.site) if run.campaign == row.name]
                    told.append(_row_json(row, last, going))
                reload = campaigns.reload_of(connection)
                errors = {} if reload is None else dict(reload.errors)
    if as_json:
        print_json({"campaigns": told, "errors": errors})
    else:
        print_table(
            ("CAMPAIGN", "SITE", "SCHEDULE", "NEXT", "STATE", "LAST RUN", "OUTCOME"),
            [
                (
                    one["campaign"],
                    one["site"],
                    one["schedule"],
                    _moment(one["next_run"], one["timezone"]),
                    one["state"],
                    "" if one["last_run"] is None else f"{age(now - one['last_run']['due'])} ago",
                    "" if one["last_run"] is None else _outcome(one["last_run"]),
                )
                for one in told
            ],
        )
    if not told and not files(settings):
        say(_none_there(settings))
    known = {one["campaign"] for one in told}
    if waiting := [path.name for path in files(settings) if path.stem not in known and str(path) not in errors]:
        say(f"not read yet by `rayslurm serve`: {', '.join(waiting)}")
    for error in errors.values():
        say(f"broken, so what it last said holds: {error}")


@app.command("check")
def check(
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE]...", help="Files; all of campaigns_dir where left out.")
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check campaigns' files, and show their next ten times; ask nobody, launch nothing.

    Raises:
        ConfigError: a file is broken.
    """
    _, settings = read_config(config)
    chosen = paths or files(settings)
    if not chosen:
        say(_none_there(settings))
    told, faults = [], []
    with peek_store(settings) as store:
        for path in chosen:
            try:
                told.append(_checked(path, settings, store))
            except ConfigError as error:
                faults.append(str(error))
    if as_json:
        shown = [{name: value for name, value in one.items() if name != "price_words"} for one in told]
        print_json({"campaigns": shown, "errors": faults})
    else:
        for one in told:
            _tell(one)
    if faults:
        raise ConfigError("\n".join(faults))


def _none_there(settings: Config) -> str:
    return f"{settings.campaigns_dir} has no campaigns; a campaign is a file there, such as nightly.yaml"


def _checked(path: Path, settings: Config, store: Store | None) -> dict[str, Any]:
    _, campaign = read_file(path, settings)
    site = settings.site(campaign.site)
    refused: str | None = None
    warnings: list[str] = []
    spec, count = campaign.spec(next(campaign.points())), sum(1 for _ in campaign.points())
    price = price_now(spec, site, store)
    price = price.times(count) if isinstance(price, Price) else price
    limits = {} if campaign.budget is None else campaign.budget.limits
    ceiling = Ceiling(path.stem, "", limits, campaign.schedule.timezone)
    try:
        warnings = look(spec, site, store, campaign=True)
        held(spec, settings, store, ceiling=ceiling, jobs=count)
    except RefusedError as error:
        refused = str(error)
    return {
        "campaign": path.stem,
        "file": str(path),
        "site": campaign.site,
        "schedule": campaign.schedule.words,
        "timezone": campaign.schedule.timezone,
        "paused": campaign.paused,
        "jobs_per_run": count,
        "at_once": campaign.at_once,
        "next_runs": list(itertools.islice(times(campaign, after=time.time()), 10)),
        "price_per_run": price_json(price),
        "price_words": _price_words(price),
        "refused": refused,
        "warnings": warnings,
    }


def _price_words(price: Price | NoPrice) -> str:
    if isinstance(price, NoPrice):
        return f"what a run costs isn't known: {price.reason}"
    return f"a run costs at most {units_text(price.units)} {price.kind} {price.unit}, all its jobs at their time limits"


def _tell(one: dict[str, Any]) -> None:
    jobs = "one job a run"
    if one["jobs_per_run"] > 1:
        jobs = f"{one['jobs_per_run']} jobs a run, at most {one['at_once']} at once"
    state = ", paused" if one["paused"] else ""
    typer.echo(f"{one['campaign']}: good; {one['schedule']} on {one['site']}, {jobs}{state}")
    typer.echo(f"  {one['price_words']}")
    for due in one["next_runs"]:
        typer.echo(f"  {_moment(due, one['timezone'])}")
    if not one["next_runs"]:
        typer.echo("  its schedule is over")
    warn([*one["warnings"], *([f"it would be refused: {one['refused']}"] if one["refused"] else [])])


@app.command("history")
def history(
    campaign: CampaignArgument,
    most: Annotated[int, typer.Option("--lines", "-n", min=1, max=1000, help="How many runs, the newest first.")] = 20,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what became of a campaign's times: runs with their jobs, and misses with their reasons."""
    _, settings = read_config(config)
    with peek_store(settings) as store:
        row = _find(store, campaign)
        assert store is not None  # noqa: S101 - _find raised otherwise
        with store.snapshot() as connection:
            runs = campaigns.history(connection, campaign, most=most)
            points = {run.due: campaigns.jobs_of(connection, run) for run in runs}
            job_ids = campaigns.job_ids(connection, campaign)
    zone = _zone(row)
    if as_json:
        print_json(
            [
                {
                    **{name: value for name, value in asdict(run).items() if name not in {"text", "file"}},
                    "jobs": [{**asdict(point), "job_id": job_ids.get(point.token)} for point in points[run.due]],
                }
                for run in runs
            ]
        )
        return
    print_table(
        ("TIME", "RUN", "JOBS", "WHY"),
        [
            (
                _moment(run.due, zone),
                run.state + (" (by hand)" if run.manual else ""),
                _jobs([job_ids.get(point.token) for point in points[run.due]]),
                run.reason or next((point.reason for point in points[run.due] if point.reason), None) or "",
            )
            for run in runs
        ],
    )


def _jobs(job_ids: list[str | None]) -> str:
    known = [job_id for job_id in job_ids if job_id]
    shown = ", ".join(known[:3]) + (f", … ({len(known)})" if len(known) > 3 else "")  # noqa: PLR2004 - as many as a line takes
    return shown or ("none yet" if job_ids else "")


@app.command("pause")
def pause(campaign: CampaignArgument, config: ConfigOption = None) -> None:
    """Launch nothing more of a campaign until it is resumed; jobs that are there go on."""
    _hold(campaign, config, held=True)
    typer.echo(f"{campaign}: paused; jobs that are in the queue or running go on")


@app.command("resume")
def resume(campaign: CampaignArgument, config: ConfigOption = None) -> None:
    """Let a paused campaign go on from now; what was due meanwhile is not made up for."""
    row = _hold(campaign, config, held=False)
    if row.paused:
        raise RefusedError(
            f"{campaign}: {row.file} itself says `paused: true`; take that out, and it goes on by itself"
        )
    typer.echo(f"{campaign}: goes on")


@app.command("schema")
def print_schema() -> None:
    """Print the JSON Schema of a campaign's file, for editors."""
    typer.echo(json.dumps(schema(), indent=2))


def _hold(name: str, config: Path | None, *, held: bool) -> CampaignRow:
    _, settings = read_config(config)
    with open_store(settings) as store:
        _find(store, name)
        store.write(lambda connection: campaigns.hold(connection, name, held=held, now=time.time()))
        return _find(store, name)


def _find(store: Store | None, name: str) -> CampaignRow:
    row, known = None, []
    if store is not None:
        with store.snapshot() as connection:
            row = campaigns.find(connection, name)
            known = [one.name for one in campaigns.campaigns(connection)]
    if row is None:
        names = f"it knows: {', '.join(known)}" if known else "it knows none yet"
        raise InputError(f"rayslurm serve has read no campaign {name}; {names}")
    return row


def _row_json(row: CampaignRow, last: RunRow | None, going: list[RunRow]) -> dict[str, Any]:
    state = "runs" if any(run.state == "running" for run in going) else "waits" if going else "idle"
    if row.rests:
        state = "paused" if row.present else "file removed"
        state += ", its run goes on" if going else ""
    return {
        "campaign": row.name,
        "site": row.site,
        "file": row.file,
        "schedule": row.schedule,
        "timezone": _zone(row),
        "next_run": None if row.rests else row.next_due,
        "paused": row.paused or row.held,
        "state": state,
        "active_runs": [run.due for run in going],
        "last_run": None
        if last is None
        else {"due": last.due, "state": last.state, "reason": last.reason, "manual": last.manual},
    }


def _zone(row: CampaignRow) -> str:
    try:
        campaign: Campaign = campaign_of(row)
    except ConfigError:  # by an earlier version; the list tells that its file is broken
        return "UTC"
    return campaign.schedule.timezone


def _outcome(run: dict[str, Any]) -> str:
    return f"{run['state']}: {run['reason']}" if run["reason"] else str(run["state"])


def _moment(at: float | None, zone: str) -> str:
    if at is None:
        return ""
    return f"{datetime.fromtimestamp(at, UTC).astimezone(ZoneInfo(zone)):%a %Y-%m-%d %H:%M %Z}"
