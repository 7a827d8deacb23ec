"""`rayslurm config`."""

from __future__ import annotations

import typer

from exporter.cli.context import ConfigOption, JsonOption, add_command, print_json, read_config
from exporter.config_files import check_files
from exporter.errors import ConfigError

app = typer.Typer(help="The configuration file.", no_args_is_help=True)


def register(top: typer.Typer) -> None:
    """Adds the commands."""
    top.add_typer(app, name="config")


@app.callback()
def _group() -> None:
    """Keeps `config` a group, also while it has one command only."""


def check(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Check the configuration and the files that it names, without asking any site.

    Raises:
        ConfigError: with every fault, each with its cure.
    """
    path, settings = read_config(config)
    faults = check_files(settings)
    if as_json:
        print_json({"file": str(path), "sites": sorted(settings.sites), "faults": faults})
        if faults:
            raise typer.Exit(ConfigError.exit_code)
        return
    if faults:
        raise ConfigError("\n".join(f"{path}: {fault}" for fault in faults))
    typer.echo(f"{path}: all is well; sites: {', '.join(sorted(settings.sites))}")


add_command(app, check)
