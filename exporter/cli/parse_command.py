"""`rayslurm parse`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo

import typer

from exporter.cli.context import JsonOption, add_command, print_json, say
from exporter.errors import InputError
from exporter.parsers import parsers
from exporter.parsers.as_json import to_json


def register(app: typer.Typer) -> None:
    """Adds the command."""
    add_command(app, parse)


def parse(
    kind: Annotated[str, typer.Argument(help=f"What the text is: {', '.join(sorted(parsers()))}.")],
    file: Annotated[Path | None, typer.Argument(help="The text; standard input where left out.")] = None,
    as_json: JsonOption = False,
    timezone: Annotated[str, typer.Option(help="The zone of local times in the text.")] = "UTC",
) -> None:
    """Read what a site printed and show the records.

    Raises:
        InputError: the text cannot be read, or is of another kind.
    """
    parser = parsers().get(kind)
    if parser is None:
        raise typer.BadParameter(f"{kind} is none of: {', '.join(sorted(parsers()))}", param_hint="KIND")
    try:
        zone = ZoneInfo(timezone)
    except (KeyError, ValueError, OSError):
        raise typer.BadParameter(f"{timezone} is no time zone; write one such as Europe/Helsinki") from None
    try:
        raw = sys.stdin.buffer.read() if file is None or str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}") from None
    parsed = parser(raw.decode("utf-8", errors="backslashreplace"), timezone=zone)
    result = to_json(parsed)
    if as_json:
        print_json(result)
        return
    for record in result["records"]:
        typer.echo("  ".join(f"{name}={value}" for name, value in record.items() if _plain(value)))
    for warning in parsed.warnings:
        say(f"line {warning.line}: {warning.reason}: {warning.text}")


def _plain(value: object) -> bool:
    return value is not None and not isinstance(value, list | dict)
