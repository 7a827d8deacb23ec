"""Asking the owner of the sites for something, or doing it oneself where there is none."""

from __future__ import annotations

import time
from typing import Any

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
    started = time.monotonic()
    told = False
    while True:
        answered = _answer(store, number)
        if answered is not None:
            return _outcome(answered), True
        try:
            with acting_alone(config, store, kind):
                carry_out(config, store, number)
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


def _get(store: Store, number: int) -> Request:
    with store.snapshot() as connection:
        return requests.get(connection, number)


def _answer(store: Store, number: int) -> Request | None:
    request = _get(store, number)
    return request if request.state in {"done", "failed"} else None


def _outcome(request: Request) -> dict[str, Any]:
    outcome = request.outcome or {}
    if request.state == "done":
        return outcome
    by_status = {error.exit_code: error for error in (RayslurmError, ConfigError, InputError, RefusedError)}
    raise by_status.get(int(outcome.get("exit_code", 1)), RayslurmError)(str(outcome.get("error")))
