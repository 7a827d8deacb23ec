"""`rayslurm store`."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from exporter.cli.context import ConfigOption, JsonOption, add_command, open_store, print_json, read_config, say
from exporter.cli.table import print_table
from exporter.errors import OwnerError, RefusedError
from exporter.owner.lock import OwnerLock, is_held, read_holder
from exporter.store import retention
from exporter.store.backup import back_up
from exporter.store.checkup import Checkup
from exporter.store.checkup import check as look_through
from exporter.store.db import bytes_on_disk

ForceOption = Annotated[bool, typer.Option("--force", help="Replace a file that is there.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show what would go; change nothing.")]
_RESTORING = (
    "To restore a copy: stop serve, remove rayslurm.sqlite3-wal and rayslurm.sqlite3-shm, put the copy in the place of "
    "rayslurm.sqlite3 with mode 0600, look at it with `rayslurm store check`, start serve."
)
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]


def register(app: typer.Typer) -> None:
    """Adds the group of commands."""
    group = typer.Typer(
        help="What rayslurm knows, in one file: copy it, look it through, let go what is old.", no_args_is_help=True
    )
    add_command(group, backup, epilog=_RESTORING)
    add_command(group, check)
    add_command(group, prune)
    app.add_typer(group, name="store")


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where the copy goes.", show_default=False)],
    *,
    force: ForceOption = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy the store as it is at one moment, also while `serve` runs; the copy is looked through before it counts.

    Raises:
        RefusedError: the file is there already.
        StoreError: the store is damaged, or the copy cannot be written.
    """
    _, settings = read_config(config)
    copy = back_up(settings.store_path, file, force=force)
    if as_json:
        print_json({**asdict(copy), "file": str(copy.file), "integrity": "ok"})
        return
    typer.echo(f"{copy.file}: {copy.bytes} bytes, schema {copy.schema}, looked through and sound")


def check(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="A copy; the store itself where left out.", show_default=False),
    ] = None,
    *,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look the store or a copy through, changing nothing; ends with 1 where something is wrong."""
    path = read_config(config)[1].store_path if file is None else file
    found = look_through(path)
    if as_json:
        held = is_held(path.parent) if file is None else None
        holder = _holder(path.parent) if held else None
        print_json({**asdict(found), "file": str(path), "held": held, "held_by": holder, "ok": not found.problems})
    else:
        _show(found)
        if file is None:
            holder = _holder(path.parent) if is_held(path.parent) else "nobody, so no serve runs"
            typer.echo(f"owner of the sites: {holder}")
        if not found.problems:
            typer.echo("all is well")
    for problem in found.problems:
        say(f"wrong: {problem.cause}\n  cure: {problem.cure}")
    if found.problems:
        raise typer.Exit(1)


def prune(
    *,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove what is past its time (never jobs, bills or counters), and give the disk its room back.

    Raises:
        RefusedError: nobody is there to be asked, and `--yes` wasn't said.
        StoreError: the store cannot be written.
    """
    _, settings = read_config(config)
    path, now = settings.store_path, time.time()
    retention.ensure_current(path)
    before = bytes_on_disk(path)
    if dry_run or not yes:
        plan = retention.rehearse(path, now=now)
        if dry_run:
            if as_json:
                print_json({"dry_run": True, **asdict(plan), "bytes": before})
                return
            _show_rows(plan.rows, "would be removed", to_stderr=False)
            typer.echo(f"{plan.free_bytes} of {before} bytes would be free")
            _say_spared(plan.spared)
            return
        _say_spared(plan.spared)
        if any(plan.rows.values()):
            _show_rows(plan.rows, "will be removed", to_stderr=True)
            if not sys.stdin.isatty():
                raise RefusedError("nobody is there to be asked; say --yes, or look first with --dry-run")
            typer.confirm("Remove them?", abort=True, err=True)
    with open_store(settings) as store:
        removed = retention.prune(store, now=now)
    with ExitStack() as held:
        holder = None
        try:
            # Nobody begins to own the sites while the file is written anew.
            held.enter_context(OwnerLock(settings.state_dir, "store prune"))
        except OwnerError:
            holder = _holder(settings.state_dir)
        room = retention.give_back(path, before, alone=holder is None)
    if as_json:
        print_json(
            {
                "dry_run": False,
                "rows": removed,
                "bytes_before": room.before,
                "bytes_after": room.after,
                "bytes_returned": max(0, room.before - room.after),
                "free_bytes": room.free_bytes,
                "rewritten": holder is None,
                "log_emptied": room.log_emptied,
                "held_by": holder,
            }
        )
        return
    _show_rows(removed, "were removed", to_stderr=False)
    typer.echo(f"{max(0, room.before - room.after)} bytes came back; the store takes {room.after}")
    if holder is not None:
        say(
            f"{holder} uses the store: {room.free_bytes} bytes stay free inside it for what comes; to have them back, "
            "stop it and do this again"
        )
    if not room.log_emptied:
        say("its log could not be emptied, since somebody reads the store")


def _holder(state_dir: Path) -> str:
    return str(read_holder(state_dir) or "another process")


def _show(found: Checkup) -> None:
    if found.mode is not None:
        typer.echo(f"file: {found.file}, {found.bytes} bytes, of which {found.log_bytes} are its log")
        typer.echo(f"permissions: {found.mode}, owner {found.owner}")
    if found.free_bytes is not None:
        typer.echo(f"free inside: {found.free_bytes} bytes")
    if found.schema is not None:
        later = "; it is brought up to date when rayslurm next opens it" if found.schema < found.known_schema else ""
        typer.echo(f"schema: {found.schema}, this rayslurm has {found.known_schema}{later}")
    if found.tables:
        print_table(
            ("TABLE", "ROWS", "OLDEST", "NEWEST"),
            [(name, str(one.rows), _day(one.oldest), _day(one.newest)) for name, one in found.tables.items()],
        )


def _show_rows(rows: Mapping[str, int], words: str, *, to_stderr: bool) -> None:
    for table, count in rows.items():
        if count:
            typer.echo(f"{count} rows of {table} {words}", err=to_stderr)
    if not any(rows.values()):
        typer.echo("nothing is past its time", err=to_stderr)


def _say_spared(sites: tuple[str, ...]) -> None:
    for site in sites:
        say(f"raw texts of {site} stay, since jobs wait there for the archive")


def _day(epoch: float | None) -> str:
    return "" if epoch is None else f"{datetime.fromtimestamp(epoch, UTC):%Y-%m-%d %H:%M}"
