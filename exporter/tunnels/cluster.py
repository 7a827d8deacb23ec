"""How a job's Ray cluster is, as its dashboard tells: nodes, resources, whether its control store answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from exporter.errors import InputError
from exporter.tunnels.http import NotHttpError, get

MOST_BYTES = 4 * 1024 * 1024
"""What one answer may have: the nodes of the largest cluster take less."""

RESOURCES = {"CPU": "cpu", "GPU": "gpu", "memory": "memory_bytes", "objectStoreMemory": "object_store_memory_bytes"}
"""Resources as the dashboard names them, and as they are shown; what Ray makes up for each node is not."""

_OK = 200


@dataclass(frozen=True, slots=True)
class Cluster:
    """A Ray cluster at one moment.

    Attributes:
        nodes: how many are in each state, in Ray's words in lower case; `alive` always.
        capacity: what the cluster has of each resource of `RESOURCES`.
        used: what of that is in use.
        gcs_up: whether Ray's control store answers.
    """

    nodes: Mapping[str, int]
    capacity: Mapping[str, float]
    used: Mapping[str, float]
    gcs_up: bool

    @property
    def is_idle(self) -> bool:
        """Whether no CPU and no GPU is in use, by Ray's own account."""
        return not self.used.get("cpu") and not self.used.get("gpu")


async def ask(port: int, secret: str | None) -> Cluster:
    """Asks a Ray that is known to be ours how it is.

    Args:
        port: of its dashboard on this machine.
        secret: its token; None where it wants none.

    Raises:
        InputError: its answers are not understood.
        ConnectionError, NoAnswerError, OSError: see `exporter.tunnels.http.get`.
    """
    try:
        nodes = await get(port, "/api/v0/nodes?limit=10000", bearer=secret, most_bytes=MOST_BYTES)
        status = await get(port, "/api/cluster_status", bearer=secret, most_bytes=MOST_BYTES)
        health = await get(port, "/api/gcs_healthz", bearer=secret)
    except NotHttpError:
        raise InputError("Ray's dashboard said something that is no answer over HTTP") from None
    capacity, used = read_status(status.fields())
    return Cluster(read_nodes(nodes.fields()), capacity, used, health.status == _OK)


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
    """Returns the capacity and the use in an answer of `/api/cluster_status`.

    Raises:
        InputError: it is none.
    """
    try:
        usage = answer["data"]["clusterStatus"]["loadMetricsReport"]["usage"]
        pairs = {RESOURCES[name]: pair for name, pair in usage.items() if name in RESOURCES}
        used = {name: float(pair[0]) for name, pair in pairs.items()}
        return {name: float(pair[1]) for name, pair in pairs.items()}, used
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise InputError(f"Ray's status is not understood: {error!r}") from None
