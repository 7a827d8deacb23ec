"""`rayslurm config`."""

from __future__ import annotations

import typer

from exporter.cli.context import ConfigOption, JsonOption, add_command, print_json, read_config, say
from exporter.config_files import check_files
from exporter.doctor.sshd import look_at_sshd
from exporter.errors import ConfigError

app = typer.Typer(help="The configuration file.", no_args_is_help=True)


def register(top: typer.Typer) -> None:
    """Adds the commands."""
    top.add_typer(app, name="config")


@app.callback()
def _group() -> None:
    """Keeps `config` a group, also while it has one command only."""


def check(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Check the configuration, the files that it names and this machine's sshd, without asking any site.

    Raises:
        ConfigError: with every fault, each with its cure.
    """
    path, settings = read_config(config)
    faults = check_files(settings)
    about_sshd = None if settings.vm is None else look_at_sshd(settings.vm)
    if as_json:
        sshd = None if about_sshd is None else about_sshd.as_json()
        print_json({"file": str(path), "sites": sorted(settings.sites), "faults": faults, "sshd": sshd})
        if faults:
            raise typer.Exit(ConfigError.exit_code)
        return
    for text in about_sshd.in_words() if about_sshd is not None else ():
        say(text)
    if faults:
        raise ConfigError("\n".join(f"{path}: {fault}" for fault in faults))
    typer.echo(f"{path}: all is well; sites: {', '.join(sorted(settings.sites))}")


add_command(app, check)
