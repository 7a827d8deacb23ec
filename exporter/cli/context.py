"""What every command needs: the configuration, the store, and how things are printed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from exporter.config import Config, find_config, load_config
from exporter.errors import StoreError
from exporter.store.db import Store

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", envvar="RAYSLURM_CONFIG", help="The configuration file.", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def read_config(path: Path | None) -> tuple[Path, Config]:
    """Finds and reads the configuration.

    Raises:
        ConfigError: there is none, or it is wrong.
    """
    found = find_config(path)
    return found, load_config(found)


@contextmanager
def open_store(config: Config) -> Iterator[Store]:
    """Opens the configuration's store for a command."""
    with Store(config.store_path) as store:
        yield store


@contextmanager
def peek_store(config: Config) -> Iterator[Store | None]:
    """Opens the configuration's store for a command that changes nothing; None where there is none yet."""
    try:
        config.store_path.stat()
    except FileNotFoundError:
        yield None
        return
    except OSError as error:
        raise StoreError(f"{config.store_path}: {error.strerror}; is the folder yours?") from None
    with Store(config.store_path) as store:
        yield store


def print_json(value: Any) -> None:
    """Prints a value as JSON on standard output."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def say(text: str) -> None:
    """Says something to the person, on standard error, where it is in no program's way."""
    typer.echo(text, err=True)


def warn(warnings: Iterable[str]) -> None:
    """Says what the person should know before something is done."""
    for text in warnings:
        say(f"warning: {text}")


def add_command(
    app: typer.Typer, command: Callable[..., None], name: str | None = None, *, epilog: str | None = None
) -> None:
    """Adds a function as a command; its help is the first line of its docstring, for people, and the epilog."""
    line = (command.__doc__ or "").strip().splitlines()[0]
    app.command(name or command.__name__, help=line, epilog=epilog)(command)
