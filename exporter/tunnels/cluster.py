"""How a job's Ray cluster is, as its dashboard tells: nodes, resources, whether its control store answers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from exporter.errors import InputError
from exporter.tunnels.http import NotHttpError, get

MOST_BYTES = 4 * 1024 * 1024
"""What one answer may have: the nodes of the largest cluster take less."""

RESOURCES = {"CPU": "cpu", "GPU": "gpu", "memory": "memory_bytes", "objectStoreMemory": "object_store_memory_bytes"}
"""Resources as the dashboard names them, and as they are shown; what Ray makes up for each node is not."""

DEADLINE_SECONDS = 8.0
"""How long all questions together may take."""

GCS_SECONDS = 3.0
"""How long Ray's control store may take to say that it is well."""

STALE_SECONDS = 60.0
"""How long the time that stands in a status may stand still: whoever writes it every few seconds is gone then."""

_OK = 200


@dataclass(frozen=True, slots=True)
class Cluster:
    """A Ray cluster at one moment.

    Attributes:
        nodes: how many are in each state, in Ray's words in lower case, `alive` always; empty where the control store
            doesn't answer, since nobody knows then.
        capacity: what the cluster has of each resource of `RESOURCES`; empty where it isn't known.
        used: what of that is in use.
        gcs_up: whether Ray's control store answers.
        told: when Ray wrote its status, by its own clock; None where it doesn't say.
    """

    nodes: Mapping[str, int]
    capacity: Mapping[str, float]
    used: Mapping[str, float]
    gcs_up: bool
    told: float | None = None

    @property
    def is_idle(self) -> bool | None:
        """Whether no CPU and no GPU is in use, by Ray's own account; None where it has none."""
        if "cpu" not in self.used:
            return None
        return not self.used["cpu"] and not self.used.get("gpu")

    def without_use(self) -> Cluster:
        """Returns the same without what is only said in Ray's status."""
        return replace(self, capacity={}, used={})


async def ask(port: int, secret: str | None) -> Cluster:
    """Asks a Ray that is known to be ours how it is.

    Args:
        port: of its dashboard on this machine.
        secret: its token; None where it wants none.

    Raises:
        InputError: its answers are not understood.
        TimeoutError: they took too long.
        ConnectionError, NoAnswerError, OSError: see `exporter.tunnels.http.get`.
    """
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            if not await _gcs_is_up(port):
                return Cluster({}, {}, {}, gcs_up=False)
            nodes = await get(port, "/api/v0/nodes?limit=10000", bearer=secret, most_bytes=MOST_BYTES)
            status = await get(port, "/api/cluster_status", bearer=secret, most_bytes=MOST_BYTES)
    except NotHttpError:
        raise InputError("Ray's dashboard said something that is no answer over HTTP") from None
    fields = status.fields()
    capacity, used = read_status(fields)
    return Cluster(read_nodes(nodes.fields()), capacity, used, gcs_up=True, told=_told(fields))


async def _gcs_is_up(port: int) -> bool:
    try:
        async with asyncio.timeout(GCS_SECONDS):
            return (await get(port, "/api/gcs_healthz")).status == _OK
    except TimeoutError:
        return False


def _told(status: Mapping[str, Any]) -> float | None:
    """Returns when a status that was understood was written."""
    time = (status["data"]["clusterStatus"] or {}).get("time")
    return float(time) if isinstance(time, int | float) else None


def read_nodes(answer: Mapping[str, Any]) -> dict[str, int]:
    """Counts the nodes of an answer of `/api/v0/nodes` by their states.

    Raises:
        InputError: it is none.
    """
    try:
        rows = answer["data"]["result"]["result"]
        states = [str(row["state"]).lower() for row in rows]
    except (KeyError, TypeError) as error:
        raise InputError(f"Ray's list of nodes is not understood: {error!r}") from None
    return {"alive": 0, **{state: states.count(state) for state in sorted(set(states))}}


def read_status(answer: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    """Returns the capacity and the use in an answer of `/api/cluster_status`; nothing where Ray knows neither yet.

    Raises:
        InputError: it is none.
    """
    try:
        status = answer["data"]["clusterStatus"]
        if status is None:
            return {}, {}
        usage = status["loadMetricsReport"]["usage"]
        pairs = {RESOURCES[name]: pair for name, pair in usage.items() if name in RESOURCES}
        used = {name: float(pair[0]) for name, pair in pairs.items()}
        return {name: float(pair[1]) for name, pair in pairs.items()}, used
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise InputError(f"Ray's status is not understood: {error!r}") from None
