"""`rayslurm init`."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError

from exporter.cli.context import JsonOption, add_command, print_json, say
from exporter.cli.first_config import Chosen, Vm, default_path, first_config, guess_key, read_host_keys
from exporter.config import Config, find_config
from exporter.config_files import own_name
from exporter.errors import ConfigError, RayslurmError
from exporter.sites import SiteProfile, profiles
from exporter.whole_files import put_in_place
from exporter.yamlfile import HostName, OneLine, UserName, load_model_text

NEXT = ("rayslurm config check", "rayslurm doctor", "rayslurm serve")
"""What is to be run afterwards, in this order."""


def register(app: typer.Typer) -> None:
    """Adds the command."""
    add_command(app, init)


def init(
    *,
    site: Annotated[
        list[str] | None,
        typer.Option(
            "--site", metavar="SITE", help="One of `rayslurm sites list`; may be repeated.", show_default=False
        ),
    ] = None,
    project: Annotated[
        str | None,
        typer.Option("--project", metavar="PROJECT", help="The Slurm account that pays.", show_default=False),
    ] = None,
    user: Annotated[
        str | None, typer.Option("--user", metavar="USER", help="Your account at the sites.", show_default=False)
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(
            "--host", metavar="HOST", help="The login node, where a site file names none.", show_default=False
        ),
    ] = None,
    vm_host: Annotated[
        str | None,
        typer.Option(
            "--vm-host", metavar="HOST", help="Where compute nodes reach this machine's sshd.", show_default=False
        ),
    ] = None,
    path: Annotated[
        Path | None,
        typer.Option("--path", metavar="FILE", help="Where it goes, other than the usual place.", show_default=False),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    to_stdout: Annotated[bool, typer.Option("--print", help="Print it, and write nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a first rayslurm.yaml, and ask for what can't be guessed; ask no site.

    Raises:
        RayslurmError: the file can't be written, or is there already.
    """
    target = path.expanduser() if path is not None else default_path(os.environ.get("RAYSLURM_CONFIG"))
    if not to_stdout and not force and os.path.lexists(target):
        raise _is_there(target)
    sites = [_choose(profile, user, project, host) for profile in _profiles(site)]
    vm = _vm(vm_host)
    text = first_config(sites, vm)
    # Nothing is written that rayslurm would not read.
    _ = load_model_text(text, Config, name=str(target)).resolved_sites
    if not to_stdout:
        _write(target, text, over=force)
    missing = [f"sites.{one.profile.name}.project" for one in sites if one.project is None] + vm.missing
    if as_json:
        outcome: dict[str, Any] = {"file": None if to_stdout else str(target)}
        outcome |= {"text": text} if to_stdout else {}
        print_json(outcome | {"sites": [one.profile.name for one in sites], "missing": missing, "next": list(NEXT)})
    elif to_stdout:
        typer.echo(text, nl=False)
    else:
        _tell(target, sites, missing)


def _tell(target: Path, sites: Sequence[Chosen], missing: Sequence[str]) -> None:
    typer.echo(f"{target}: written; sites: {', '.join(one.profile.name for one in sites)}")
    for one in sites:
        if one.profile.closing is not None:
            say(f"warning: no job runs at {one.profile.name} from {one.profile.closing.compute} on")
    if missing:
        say(f"not known yet, and a comment there: {', '.join(missing)}")
    try:
        named = "" if find_config(None).samefile(target) else f" --config {shlex.quote(str(target))}"
    except ConfigError:
        named = f" --config {shlex.quote(str(target))}"
    say("next:")
    for command in NEXT:
        say(f"  {command}{named}")


def _is_there(target: Path) -> RayslurmError:
    return RayslurmError(f"{target}: is there already; name another file with --path, or write over it with --force")


# --- what is written --------------------------------------------------------------------------------------------------


def _profiles(names: Sequence[str] | None) -> list[SiteProfile]:
    """Returns the site files of what was named, each once."""
    known = profiles()
    if not names:
        names = _prompt(f"Sites ({', '.join(sorted(known))}; several with spaces between)", "--site").split()
    for name in names:
        if name not in known:
            raise typer.BadParameter(
                f"{name} is none of: {', '.join(sorted(known))}; `slurm` is any other Slurm site", param_hint="--site"
            )
    if not names:
        raise typer.BadParameter("name at least one", param_hint="--site")
    return [known[name] for name in dict.fromkeys(names)]


def _choose(profile: SiteProfile, user: str | None, project: str | None, host: str | None) -> Chosen:
    name = profile.name
    login = None
    if profile.login_host is None:
        login = _valid(HostName, host or _prompt(f"Login node of {name}", "--host"), "--host", "a host's name")
    account = user or _prompt(f"Your account at {name}", "--user")
    if project is None and _on_terminal():
        project = _prompt(f"Project that pays at {name} (empty: none yet)", "--project", default="")
    return Chosen(
        profile,
        user=_valid(UserName, account, "--user", "an account's name"),
        host=login,
        project=_valid(OneLine, project, "--project", "a Slurm account") if project else None,
        key=guess_key(Path.home(), certificate=profile.certificate is not None),
    )


def _vm(host: str | None) -> Vm:
    if host is None and _on_terminal():
        host = _prompt("Address at which compute nodes reach this machine (empty: none)", "--vm-host", default="")
    me: str | None = own_name()
    with suppress(ValidationError):
        return Vm(
            _valid(HostName, host, "--vm-host", "a host's name or address") if host else None,
            TypeAdapter(UserName).validate_python(me),
            read_host_keys(),
        )
    return Vm(host, None, read_host_keys())


def _valid(kind: Any, value: str, option: str, what: str) -> str:
    """Returns what a person said as it is.

    Raises:
        BadParameter: it is none.
    """
    try:
        return str(TypeAdapter(kind).validate_python(value.strip()))
    except ValidationError:
        raise typer.BadParameter(f"{value!r} is not {what}", param_hint=option) from None


def _on_terminal() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def _prompt(question: str, option: str, default: str | None = None) -> str:
    """Asks the person; on no terminal there is nobody to ask.

    Raises:
        BadParameter: names the option that would say it.
    """
    if not _on_terminal():
        raise typer.BadParameter("is missing, and there is no terminal to ask on", param_hint=option)
    return str(typer.prompt(question, default=default, show_default=False, err=True)).strip()


# --- writing it -------------------------------------------------------------------------------------------------------


def _write(target: Path, text: str, *, over: bool) -> None:
    """Writes the file for its owner alone, as a whole or not at all."""
    path = Path(os.path.realpath(target)) if over else target
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            _put(new, path, over=over)
        finally:
            new.unlink(missing_ok=True)
    except OSError as error:
        cure = "name another file with --path, or take what --print prints"
        raise RayslurmError(f"{target}: cannot be written: {error.strerror}; {cure}") from None


def _put(new: Path, path: Path, *, over: bool) -> None:
    try:
        put_in_place(new, path, over=over)
    except FileExistsError:
        raise _is_there(path) from None
