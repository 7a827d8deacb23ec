"""`rayslurm`: the commands put together, each loaded when it is called, and what errors become."""

from __future__ import annotations

import importlib
import logging
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from exporter import __version__
from exporter.errors import RayslurmError

COMMANDS = {
    "init": ("init_command", "Write a first rayslurm.yaml, and ask for what can't be guessed; ask no site."),
    "doctor": (
        "doctor_command",
        "Look whether all that rayslurm needs is as it should be, here and at the sites; ends with 1 where it isn't.",
    ),
    "serve": ("serve_command", "Follow the jobs of all sites and serve /metrics, until interrupted."),
    "demo": ("demo_command", "Show rayslurm at work on practice sites on this machine, without an account."),
    "launch": ("job_commands", "Start a Ray cluster as a Slurm job, or run a campaign now."),
    "render": ("render_command", "Show exactly what a launch would send, but for the values of `ray.env`; ask nobody."),
    "track": ("job_commands", "Follow a job that was submitted by hand; of an array, all its tasks."),
    "cancel": ("job_commands", "Cancel a job."),
    "logs": ("job_commands", "Show the end of what a job has printed."),
    "status": ("job_commands", "Show the jobs that are followed, as they were last seen."),
    "explain": (
        "explain_command",
        "Show everything known of a job, with who says it and how old it is, and what it could have asked for less of.",
    ),
    "price": (
        "price_command",
        "Say what something would cost: amounts in all for a length of time, by the site's rates; ask nobody.",
    ),
    "costs": ("costs_command", "Show what jobs have cost: final bills, one by one or added up."),
    "connect": ("connect_command", "Show how to reach the Ray of a running job."),
    "campaigns": ("campaigns_command", "Specs that are launched by a schedule."),
    "tunnels": ("tunnels_command", "The tunnels of jobs to this machine: ports, states, keys."),
    "archive": ("archive_command", "What ended jobs left behind, kept in an S3 bucket."),
    "import": ("import_command", "Read the archive back into an empty store, or a folder of old sacct and seff texts."),
    "store": ("store_command", "What rayslurm knows, in one file: copy it, look it through, let go what is old."),
    "dashboards": ("dashboards_command", "The Grafana dashboards, made from code."),
    "parse": ("parse_command", "Read what a site printed and show the records."),
    "config": ("config_commands", "The configuration file."),
    "sites": ("sites_command", "What rayslurm knows of the sites, with page and date."),
}
"""Each command's module in this folder, and what `--help` says of it without loading that: the command's first line."""


class _OnDemand(TyperGroup):
    """Knows its commands by name and first line; the one that is called is loaded in its place."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command and load(name or ""), rest


def load(name: str) -> Any:
    """Returns a command, of which only now all is imported that it needs."""
    part = typer.Typer()
    importlib.import_module(f"exporter.cli.{COMMANDS[name][0]}").register(part)
    group = typer.main.get_group(part)
    return group.commands[name]


app = typer.Typer(
    name="rayslurm",
    cls=_OnDemand,
    help="Runs Ray clusters as Slurm jobs and exports what they cost, how well they are used and whether their "
    "tunnels live.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _stand_in() -> None:
    """Stands for a command that isn't loaded yet."""


for _name, (_, _first_line) in COMMANDS.items():
    app.command(_name, help=_first_line)(_stand_in)


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
    # What a command says to its person it says itself; `serve` has a log.
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        app()
    except RayslurmError as error:
        typer.echo(f"rayslurm: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:  # this machine's: a disk that is full, a terminal that is gone
        typer.echo(f"rayslurm: {error}", err=True)
        sys.exit(1)
