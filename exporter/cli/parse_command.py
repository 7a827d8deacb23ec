"""`rayslurm parse`."""

from __future__ import annotations

import io
import json
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Annotated, Any, TextIO
from zoneinfo import ZoneInfo

import typer

from exporter.cli.context import JsonOption, add_command, say
from exporter.errors import InputError
from exporter.parsers import parsers, sacct
from exporter.parsers.as_json import to_json
from exporter.records import Parsed


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
    with _opened(file) as text:
        pieces = sacct.parse_file(text, timezone=zone) if kind == sacct.KIND else [parser(text.read(), timezone=zone)]
        if as_json:
            _print_json(pieces)
        else:
            _print(pieces)


@contextmanager
def _opened(file: Path | None) -> Iterator[TextIO]:
    """Opens what may be read twice: a file, or what standard input holds, in a temporary one."""
    with ExitStack() as stack:
        try:
            if file is None or str(file) == "-":
                raw: IO[bytes] = stack.enter_context(tempfile.TemporaryFile())
                shutil.copyfileobj(sys.stdin.buffer, raw)
                raw.seek(0)
            else:
                raw = stack.enter_context(file.open("rb"))
        except OSError as error:
            raise InputError(f"{file or 'standard input'}: {error.strerror}") from None
        yield io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", newline="\n")


def _print_json(pieces: Iterable[Parsed[Any]]) -> None:
    """Prints records as they come, one a line; nothing before the text is known to be of its kind."""
    warnings: list[Any] = []
    before = '{"records": [\n'
    for piece in pieces:
        plain = to_json(piece)
        warnings += plain["warnings"]
        for record in plain["records"]:
            typer.echo(before + json.dumps(record, ensure_ascii=False), nl=False)
            before = ",\n"
    if before != ",\n":
        typer.echo('{"records": [', nl=False)
    typer.echo(f'\n], "warnings": {json.dumps(warnings, ensure_ascii=False)}}}')


def _print(pieces: Iterable[Parsed[Any]]) -> None:
    for piece in pieces:
        for record in to_json(piece)["records"]:
            typer.echo("  ".join(f"{name}={value}" for name, value in record.items() if _plain(value)))
        for warning in piece.warnings:
            say(f"line {warning.line}: {warning.reason}: {warning.text}")


def _plain(value: object) -> bool:
    return value is not None and not isinstance(value, list | dict)
