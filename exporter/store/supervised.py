"""What supervisors say of single tunnels, nodes and listeners, in `status.json` and `summary.json`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from exporter.errors import InputError

_T = TypeVar("_T")

_MOST = 500
_SAID_CHARACTERS = 500
_LARGEST = 10**9
_LAST_PORT = 65535


@dataclass(frozen=True, slots=True)
class TunnelRestarts:
    """How often a tunnel's ssh was started again in a job.

    Attributes:
        name: which of the job's tunnels.
        restarts: how often it has ended; the job's loop starts it again each time.
        reason: why it ended the last time, with what it said; nothing where it never did.
    """

    name: str
    restarts: int
    reason: str


@dataclass(frozen=True, slots=True)
class OpenListener:
    """A program of a job that listens for the site's network and asks for no token of Ray's.

    Attributes:
        node: where.
        program: what it is called; `Ray` where it is Ray, without tokens.
        address: on which it listens, 0.0.0.0 and :: being all of the node's.
        ports: at most ten of them.
    """

    node: str
    program: str
    address: str
    ports: tuple[int, ...]

    def __str__(self) -> str:
        ports = ", ".join(map(str, self.ports))
        where = "all addresses" if self.address in {"0.0.0.0", "::"} else self.address  # noqa: S104 - it is read
        return f"{self.program} on {self.node}, port {ports} of {where}"


def tunnels(record: Mapping[str, Any]) -> list[TunnelRestarts] | None:
    """Returns what a supervisor's record says of its tunnels; None where it says nothing.

    Raises:
        InputError: it isn't understood.
    """
    return _read(record, "tunnels", _tunnel)


def open_listeners(record: Mapping[str, Any]) -> list[OpenListener] | None:
    """Returns what it says of open listeners; None where nobody has looked.

    Raises:
        InputError: it isn't understood.
    """
    return _read(record, "open_listeners", _listener)


def node_names(record: Mapping[str, Any]) -> list[str] | None:
    """Returns the names of the job's nodes, the head first; None where it says none.

    Raises:
        InputError: it isn't understood.
    """
    return _read(record, "node_names", _text)


def warnings(found: Collection[OpenListener] | None) -> list[str]:
    """Returns a sentence for people on each open listener."""
    return [f"others at the site reach {one}: it asks for no token of Ray's" for one in found or ()]


def _read(record: Mapping[str, Any], name: str, read: Callable[[Any], _T]) -> list[_T] | None:
    values = record.get(name)
    if values is None:
        return None
    try:
        if not isinstance(values, list):
            raise TypeError(values)
        return [read(value) for value in values[:_MOST]]
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{name} is {values!r:.80}") from None


def _tunnel(value: Mapping[str, Any]) -> TunnelRestarts:
    return TunnelRestarts(
        _text(value["name"]), _whole(value["restarts"], _LARGEST), _text(value["reason"])[:_SAID_CHARACTERS]
    )


def _listener(value: Mapping[str, Any]) -> OpenListener:
    node, program, address = (_text(value[name]) for name in ("node", "program", "address"))
    return OpenListener(node, program, address, tuple(_whole(port, _LAST_PORT) for port in value["ports"]))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _whole(value: Any, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise ValueError(value)
    return value
