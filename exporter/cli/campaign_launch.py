"""`rayslurm launch CAMPAIGN`."""

from __future__ import annotations

from pathlib import Path

import typer

from exporter.campaigns.files import files, read_file
from exporter.cli.asking import ask
from exporter.cli.context import open_store, print_json, say
from exporter.config import Config
from exporter.errors import ConfigError, RayslurmError, RefusedError


def campaign_file(named: Path, settings: Config) -> Path | None:
    """Returns the file of the campaign that a name or a path means; None where it means none.

    A file that is there is what it is, and a name alone is a campaign's where no such file is.
    """
    for path in files(settings):
        if path.exists() and named.exists():
            if named.samefile(path):
                return path
        elif str(named) == path.stem:
            return path
    return None


def run_campaign(path: Path, settings: Config, *, plain: bool, as_json: bool) -> None:
    """Runs a campaign now, whatever its schedule says.

    Args:
        path: its file.
        settings: the configuration.
        plain: whether it was asked for without options.
        as_json: print JSON for programs.

    Raises:
        ConfigError: its file is broken, or what was asked for is for specs only.
        RayslurmError: nothing was launched.
    """
    if not plain:
        raise ConfigError(
            "--dry-run, --force, --over-budget and --key are for specs; `rayslurm campaigns check` shows what a "
            "campaign would do"
        )
    _, campaign = read_file(path, settings)
    with open_store(settings) as store:
        outcome, served = ask(settings, store, "run", campaign.site, {"campaign": path.stem})
    if as_json:
        print_json(outcome)
    jobs = outcome["jobs"]
    launched = [job for job in jobs if job["state"] == "launched"]
    waiting = [job for job in jobs if job["state"] == "waiting"]
    if not as_json:
        for job in launched:
            typer.echo(f"{outcome['site']}/{job['job_id'] or '?'}")
    if waiting and not launched and waiting[0]["reason"]:
        say(f"nothing was submitted yet: {waiting[0]['reason']}")
    if waiting:
        say(f"{len(waiting)} of {len(jobs)} jobs wait for their turn (at_once: {campaign.at_once})")
    if not served:
        say("no `rayslurm serve` is running: nobody follows these jobs, or launches the others, until one does")
    if refused := [job["reason"] for job in jobs if job["state"] == "refused"]:
        kind = RayslurmError if "sbatch refused" in str(refused[0]) else RefusedError
        raise kind(f"{path.stem}: {len(refused)} of {len(jobs)} jobs were refused: {refused[0]}")
