"""`rayslurm explain`."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from exporter.cli.context import ConfigOption, JsonOption, add_command, open_store, print_json, read_config
from exporter.cli.explained import lines, raw_lines
from exporter.cli.job_argument import JobArgument, find_job
from exporter.explain.as_json import to_json
from exporter.explain.gather import gather


def register(app: typer.Typer) -> None:
    """Adds the command."""
    add_command(app, explain)


def explain(
    job: JobArgument,
    config: ConfigOption = None,
    raw: Annotated[bool, typer.Option("--raw", help="Show also the texts that the numbers came from.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show everything known of a job, with who says it and how old it is, and what it could have asked for less of.

    Raises:
        InputError: no followed job has that id.
    """
    _, settings = read_config(config)
    with open_store(settings) as store:
        site, job_id = find_job(job, settings, store)
        with store.snapshot() as connection:
            told = gather(connection, settings, site, job_id, now=time.time())
    if as_json:
        print_json(to_json(told))
        return
    for line in lines(told):
        typer.echo(line)
    if raw:
        for line in raw_lines(told):
            typer.echo(line)
