"""`rayslurm render`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from exporter.cli.bringing import selected, selection_json, selection_lines
from exporter.cli.context import ConfigOption, JsonOption, add_command, peek_store, print_json, read_config, say
from exporter.cli.costing import price_json, price_text
from exporter.cli.table import age
from exporter.errors import RefusedError
from exporter.launch.guards import held
from exporter.launch.known import look, price_now
from exporter.launch.reach import check_reach
from exporter.launch.sent import TOKEN, Package, alike, difference, kept, package
from exporter.launch.spec import load_spec
from exporter.store import submissions
from exporter.store.submissions import Sent

_COLOURS = {"+": typer.colors.GREEN, "-": typer.colors.RED, "@": typer.colors.CYAN}


def register(app: typer.Typer) -> None:
    """Adds the command."""
    add_command(app, render)


def render(
    spec_file: Annotated[Path, typer.Argument(metavar="SPEC", help="The spec, YAML with `site` and `cluster`.")],
    config: ConfigOption = None,
    diff: Annotated[
        bool, typer.Option("--diff", help="Show how it differs from what was last sent for this site and name.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show exactly what a launch would send, but for the values of `ray.env`; ask nobody.

    Raises:
        ConfigError: the spec is wrong.
    """
    _, settings = read_config(config)
    spec = load_spec(spec_file)
    site = settings.site(spec.site)
    sending = package(spec, settings)
    with peek_store(settings) as store:
        refused, warnings, bring = None, list[str](), None
        try:
            bring = selected(spec, settings)
            warnings = look(spec, site, store)
            check_reach(spec, settings, store)
            warnings += held(spec, settings, store)
        except RefusedError as error:
            refused = str(error)
        price = price_now(spec, site, store)
        last = None
        if diff and store is not None:
            with store.snapshot() as connection:
                last = submissions.last_sent(connection, spec.site, spec.name)
    changes = _changes(sending, last)
    if as_json:
        shown = _as_json(sending, refused, warnings) | {"bring": None if bring is None else selection_json(bring)}
        shown["price"] = price_json(price)
        print_json(shown | (_diff_json(last, changes) if diff else {}))
        return
    if diff:
        _show_diff(f"{spec.name} on {spec.site}", last, changes)
    else:
        for line in _lines(sending, spec.site):
            typer.echo(line)
        for line in ["", *selection_lines(bring)] if bring is not None and spec.bring else []:
            typer.echo(line)
    say(price_text(price))
    for text in warnings:
        say(f"warning: {text}")
    if refused is not None:
        say(f"`rayslurm launch` would refuse this: {refused}")


def _lines(sending: Package, site: str) -> Iterator[str]:
    """Yields what would be sent as people read it."""
    texts = kept(sending.files)
    yield f"# on {site}, in {sending.folder}: {sending.command}"
    if not sending.folder.startswith("/"):
        yield f"# {sending.folder} is below your home there; what is sent has it from the root"
    yield f"# {TOKEN} is the job's own, made when it is launched"
    ranges = {name.partition("-")[0]: f"{ports[0]}-{ports[-1]}" for name, ports in sending.tunnels.items()}
    if ranges:
        told = ", ".join(f"{purpose} {ports}" for purpose, ports in ranges.items())
        yield f"# each vm_port is the first free one of those ports here: {told}"
    for name, file in sending.files.items():
        yield ""
        yield f"==> {name} (mode {file.mode:04o}) <=="
        yield texts.get(name, "(a secret, made when it is launched)").rstrip("\n")


def _as_json(sending: Package, refused: str | None, warnings: list[str]) -> dict[str, Any]:
    texts = kept(sending.files)
    return {
        "folder": sending.folder,
        "command": sending.command,
        "files": [
            {"name": name, "mode": f"{file.mode:04o}", "text": texts.get(name)} for name, file in sending.files.items()
        ],
        "warnings": warnings,
        "refused": refused,
    }


def _changes(sending: Package, last: Sent | None) -> list[str]:
    """Returns how what would be sent differs from what was, but for what differs from launch to launch."""
    if last is None:
        return []
    of = last.submission
    before = alike(last.files, token=of.token, run_dir=of.run_dir)
    after = alike(kept(sending.files), token=TOKEN, run_dir=sending.folder)
    return difference(before, after)


def _diff_json(last: Sent | None, changes: list[str]) -> dict[str, Any]:
    of = None if last is None else last.submission
    return {
        "last": of and {name: getattr(of, name) for name in ("token", "job_id", "state", "run_dir", "created")},
        "different": None if last is None else bool(changes),
        "diff": "".join(f"{line}\n" for line in changes),
    }


def _show_diff(what: str, last: Sent | None, changes: list[str]) -> None:
    if last is None:
        typer.echo(f"nothing was sent before for {what}")
        return
    of = last.submission
    became = f"job {of.job_id}" if of.job_id else "nothing became of it" if of.state == "absent" else of.state
    then = f"{age(time.time() - of.created)} ago ({became})"
    if not changes:
        typer.echo(f"no difference to what was last sent for {what}, {then}")
        return
    say(f"against what was last sent for {what}, {then}")
    plain = "NO_COLOR" in os.environ
    for line in changes:  # without a terminal the colours are left out
        typer.secho(line, fg=None if plain else _COLOURS.get(line[:1]), bold=line.startswith(("+++", "---")))
