"""Asking the owner of the sites for something, or doing it oneself where there is none."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer

from exporter.cli.context import say
from exporter.config import Config
from exporter.errors import ConfigError, InputError, OwnerError, RayslurmError, RefusedError
from exporter.owner.lock import read_holder
from exporter.owner.owner import acting_alone, carry_out
from exporter.store import requests
from exporter.store.db import Store
from exporter.store.requests import Request

_LOOK_SECONDS = 0.2
_SAY_AFTER_SECONDS = 3.0
_LINE_SECONDS = 10.0
"""Between two lines about how far something is, where no terminal shows them."""


def ask(
    config: Config, store: Store, kind: str, site: str, payload: dict[str, Any], *, keep: bool = True
) -> tuple[dict[str, Any], bool]:
    """Writes a request and waits until it is carried out.

    Where `rayslurm serve` runs it does it; where nobody owns the sites this process takes the lock and does it.

    Args:
        config: where things are.
        store: where the request goes.
        kind: what is asked for.
        site: of which site.
        payload: what exactly.
        keep: whether the answer stays in the store for a while.

    Returns:
        What came of it, and whether `serve` did it.

    Raises:
        RayslurmError: it could not be done; with the exit status that the owner gave.
    """
    number = store.write(lambda connection: requests.add(connection, kind, site, payload, now=time.time()))
    try:
        answer = _await(config, store, kind, number)
        if not keep:
            store.write(lambda connection: requests.forget(connection, number))
        return answer  # noqa: TRY300 - an `else` would not be covered by what follows
    except KeyboardInterrupt:
        # A person who gave up may ask again: what nobody has taken yet must not be carried out later as well.
        if store.write(lambda connection: requests.withdraw(connection, number, now=time.time())):
            say(f"interrupted; the {kind} was withdrawn, nothing was done")
        else:
            say(f"interrupted, but the {kind} is under way already: `rayslurm status` shows what comes of it")
        raise
    except BaseException:
        store.write(lambda connection: requests.withdraw(connection, number, now=time.time()))
        raise


def _await(config: Config, store: Store, kind: str, number: int) -> tuple[dict[str, Any], bool]:
    with _shown_progress() as show:
        return _await_showing(config, store, kind, number, show)


def _await_showing(
    config: Config, store: Store, kind: str, number: int, show: Callable[[str], None]
) -> tuple[dict[str, Any], bool]:
    started = time.monotonic()
    told = False
    progress: str | None = None
    while True:
        request = _get(store, number)
        if request.state in {"done", "failed"}:
            return _outcome(request), True
        if request.progress not in {None, progress}:  # it takes long, but it goes on
            progress, told, started = request.progress, True, time.monotonic()
            show(str(progress))
        try:
            with acting_alone(config, store, kind):
                carry_out(config, store, number, tell=show)
            # It may have been carried out by another between the last look and the lock.
            return _outcome(_get(store, number)), False
        except OwnerError:
            pass
        waited = time.monotonic() - started
        if waited > _SAY_AFTER_SECONDS and not told:
            told = True
            say(f"waiting for {read_holder(config.state_dir) or 'the owner of the sites'} ...")
        if waited > requests.PATIENCE_SECONDS:
            raise RayslurmError(f"the {kind} was not answered within {waited:.0f} s; see `rayslurm status`")
        time.sleep(_LOOK_SECONDS)


@contextmanager
def _shown_progress() -> Iterator[Callable[[str], None]]:
    """Gives what shows how far it is: on a terminal in one line that changes, elsewhere now and then a line."""
    on_terminal = sys.stderr.isatty()
    last = 0.0

    def show(text: str) -> None:
        nonlocal last
        if on_terminal:
            typer.echo(f"\r\x1b[2K{text}", err=True, nl=False)
        elif not last or time.monotonic() - last >= _LINE_SECONDS:
            say(text)
        else:
            return
        last = time.monotonic()

    try:
        yield show
    finally:
        if on_terminal and last:
            say("")


def _get(store: Store, number: int) -> Request:
    with store.snapshot() as connection:
        return requests.get(connection, number)


def _outcome(request: Request) -> dict[str, Any]:
    outcome = request.outcome or {}
    if request.state == "done":
        return outcome
    by_status = {error.exit_code: error for error in (RayslurmError, ConfigError, InputError, RefusedError)}
    raise by_status.get(int(outcome.get("exit_code", 1)), RayslurmError)(str(outcome.get("error")))
