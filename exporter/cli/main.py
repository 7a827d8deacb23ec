"""`rayslurm`: the groups of commands put together, and what errors become."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from exporter import __version__
from exporter.cli import config_commands, demo_command, job_commands, parse_command, serve_command, sites_command
from exporter.errors import RayslurmError

app = typer.Typer(
    name="rayslurm",
    help="Runs Ray clusters as Slurm jobs and exports what they cost, how well they are used and whether their "
    "tunnels live.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(config_commands.app, name="config")
app.add_typer(sites_command.app, name="sites")
for _module in (serve_command, demo_command, job_commands, parse_command):
    _module.register(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rayslurm {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    del version


def run() -> None:
    """Runs the command line; an error for the user ends it with one message and the error's exit status."""
    try:
        app()
    except RayslurmError as error:
        typer.echo(f"rayslurm: {error}", err=True)
        sys.exit(error.exit_code)
