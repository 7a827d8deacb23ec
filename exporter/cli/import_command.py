"""`rayslurm import`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from exporter.archive import reading
from exporter.archive.bucket import Bucket
from exporter.archive.texts import import_texts
from exporter.archive.uploading import settings_of
from exporter.cli.context import ConfigOption, JsonOption, add_command, open_store, print_json, read_config, say
from exporter.owner.owner import acting_alone, probe_context


def register(app: typer.Typer) -> None:
    """Adds the command."""
    add_command(app, import_, "import")


def import_(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="FOLDER", help="Of texts that sacct and seff printed.", show_default=False),
    ] = None,
    *,
    site: Annotated[
        str | None, typer.Option("--site", help="Whose texts they are; needed with FOLDER.", show_default=False)
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read the archive back into an empty store, or a folder of old sacct and seff texts.

    Raises:
        RefusedError: the store knows jobs already.
        ArchiveError: the bucket cannot be read.
        OwnerError: `serve` runs.
    """
    if (folder is None) != (site is None):
        raise typer.BadParameter("FOLDER and --site go together", param_hint="--site")
    _, settings = read_config(config)
    with open_store(settings) as store, acting_alone(settings, store, "import"):
        if folder is not None and site is not None:
            read = import_texts(probe_context(settings.site(site), store), folder)
            if as_json:
                print_json({"jobs": read.jobs, "bills": read.bills, "left_out": list(read.left_out)})
                return
            for words in read.left_out:
                say(words)
            typer.echo(f"{read.jobs} jobs, of which {read.bills} have a bill")
            return
        found = reading.restore(Bucket(settings_of(settings)), store, now=time.time())
    if as_json:
        print_json(
            {"jobs": found.jobs, "ledger": found.entries, "counters": found.counters, "faults": list(found.faults)}
        )
    else:
        for fault in found.faults:
            say(fault)
        typer.echo(f"{found.jobs} jobs, {found.entries} bills and {found.counters} counters are back")
    if found.faults:
        raise typer.Exit(1)
