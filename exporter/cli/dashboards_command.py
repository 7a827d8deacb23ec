"""`rayslurm dashboards`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from exporter.cli.context import JsonOption, add_command, print_json
from exporter.data import data_path
from exporter.errors import RayslurmError


def register(app: typer.Typer) -> None:
    """Adds the group of commands."""
    group = typer.Typer(help="The Grafana dashboards, made from code.", no_args_is_help=True)
    add_command(group, build)
    app.add_typer(group, name="dashboards")


def build(
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit 1 where a file is not what its source makes.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(help="Write them into this folder instead, for Grafana's provisioning; it may hold no others."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make the dashboards' JSON from their sources, grafana/*.dashboard.py; those without a source are removed.

    Raises:
        RayslurmError: grafanalib isn't installed, or with --check a file is not what its source makes.
    """
    builder = _builder()
    made: dict[str, str] = builder.generate()
    folder = output or data_path("grafana") / "dashboards"
    if output is None and not check and "_data" in folder.parts:
        raise RayslurmError("an installed rayslurm leaves its own files alone; say where to: --output FOLDER")
    if output is not None and (others := _not_ours(output)):
        raise RayslurmError(f"{others[0]} is no dashboard of rayslurm; --output takes a folder of its own")
    changed: list[Path] = builder.stale(folder, made)
    if not check:
        builder.write(changed, made)
    if as_json:
        print_json(
            {
                "folder": str(folder),
                "dashboards": sorted(made),
                "changed": [path.name for path in changed],
                "checked": check,
            }
        )
    else:
        for path in changed:
            typer.echo(f"{path}: {'is not what its source makes' if check else _done(path, made)}")
        if not changed:
            typer.echo(f"{len(made)} dashboards in {folder} are what their sources make")
    if check and changed:
        raise RayslurmError(f"{len(changed)} of the dashboards differ; `rayslurm dashboards build` makes them anew")


def _done(path: Path, made: dict[str, str]) -> str:
    return "written" if path.name in made else "removed, it has no source"


def _not_ours(folder: Path) -> list[Path]:
    """Returns what lies in a folder and would be removed though it isn't ours."""
    return [
        path for path in sorted(folder.glob("*.json")) if '"uid": "rayslurm-' not in path.read_text(encoding="utf-8")
    ]


def _builder() -> Any:
    """Returns the module that makes them, which travels with the package as data.

    Raises:
        RayslurmError: grafanalib isn't installed.
    """
    sys.path.insert(0, str(data_path("grafana").parent))
    try:
        return importlib.import_module("grafana.build")
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("grafanalib"):
            raise
        raise RayslurmError(
            "grafanalib isn't installed: `pip install 'rayslurm-exporter[dashboards]'`. "
            f"The dashboards as they were made lie in {data_path('grafana', 'dashboards')}"
        ) from error
    finally:
        sys.path.pop(0)
