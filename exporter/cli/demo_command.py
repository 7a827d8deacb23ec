"""`rayslurm demo`."""

from __future__ import annotations

from typing import Annotated

import typer

from exporter.cli.context import add_command

_PORT = 9810


def register(app: typer.Typer) -> None:
    """Adds the command."""
    add_command(app, demo)


def demo(
    check: Annotated[
        bool, typer.Option("--check", help="Compare /metrics with what is true at the sites, for a minute, and end.")
    ] = False,
    port: Annotated[
        int | None,
        typer.Option("--port", help=f"Where /metrics is; without it {_PORT}, or another one where that is taken."),
    ] = None,
) -> None:
    """Show rayslurm at work on practice sites on this machine, without an account.

    Starts two made-up sites with SSH servers on loopback, `rayslurm serve` against them, and launches jobs. Everything
    is in a temporary folder and ends with Ctrl-C.
    """
    from exporter.cli.demo import run  # noqa: PLC0415 - loaded only where it is wanted: it needs all of rayslurm

    run(check=check, port=_PORT if port is None else port, another=port is None)
