"""`rayslurm doctor`."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Annotated

import typer

from exporter.cli.context import ConfigOption, JsonOption, add_command, print_json, say
from exporter.doctor.examine import examine
from exporter.doctor.finding import Finding


def register(app: typer.Typer) -> None:
    """Adds the command."""
    add_command(app, doctor)


def doctor(
    *,
    site: Annotated[
        list[str] | None,
        typer.Option("--site", metavar="SITE", help="Only this one; may be repeated.", show_default=False),
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Ask neither sites nor archive.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look whether all that rayslurm needs is as it should be, here and at the sites; ends with 1 where it isn't.

    Raises:
        ConfigError: no site has one of these names.
    """
    found: list[Finding] = []
    for finding in examine(config, sites=site or (), offline=offline):
        found.append(finding)
        if not as_json:
            _show(finding)
    count = Counter(finding.level for finding in found)
    if as_json:
        print_json({"wrong": count["wrong"], "look": count["look"], "findings": [asdict(one) for one in found]})
    else:
        say(f"{count['well']} well, {count['look']} to look at, {count['wrong']} wrong")
    if count["wrong"]:
        raise typer.Exit(1)


def _show(finding: Finding) -> None:
    subject = f"{finding.site}: {finding.subject}" if finding.site else finding.subject
    typer.echo(f"{finding.level:6}{subject}: {finding.text}")
    if finding.cure:
        typer.echo(f"      -> {finding.cure}")
