"""What a job's Ray answers on its tunnels' ports, as if through them: HTTP on loopback while they live."""

from __future__ import annotations

import json
import math
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

RAY_VERSION = "2.60.0"
PYTHON_VERSION = "3.11.9"


class Endpoint:
    """Answers on one port until `stop`, as if through a tunnel.

    Args:
        port: on loopback; 0 for a free one.
        answer: gives body and content type for a path; None where there is no such page.
        token: what every question but those on its health must carry; None where none needs any.

    Raises:
        OSError: something else has the port.
    """

    def __init__(self, port: int, answer: Callable[[str], tuple[bytes, str] | None], token: str | None = None) -> None:
        self.gone = False
        """Whether what is behind the tunnel is gone: then it closes each connection without an answer."""
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if endpoint.gone:
                    return
                path = self.path.partition("?")[0]
                found = answer(path)
                status, (body, content_type) = (200, found) if found else (404, (b"", "text/plain"))
                if token is not None and path not in _OPEN and self.headers.get("Authorization") != f"Bearer {token}":
                    status, body, content_type = 401, b"Unauthorized", "text/plain"
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.end_headers()
                with suppress(ConnectionError):  # who asks may have read enough
                    self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        """Where it listens."""
        self._thread = threading.Thread(
            target=self._server.serve_forever, name=f"practice-ray-{self.port}", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Answers no more: from one moment to the next nobody listens there."""
        with suppress(OSError):
            self._server.socket.shutdown(socket.SHUT_RDWR)
        self._server.shutdown()
        self._server.server_close()


@dataclass(frozen=True)
class Node:
    """What a node of a practice Ray has.

    Attributes:
        cpus: cores.
        gpus: whole ones.
        memory: bytes.
        idle: whether it has nothing to do.
    """

    cpus: int
    gpus: int = 0
    memory: int = 8 * 1024**3
    idle: bool = False


class Dashboard(Endpoint):
    """Answers for one cluster.

    Args:
        port: on loopback; 0 for a free one.
        nodes: how many it has.
        node: what each of them has.
        session: its name.
        token: what every question but those on its health must carry.

    Raises:
        OSError: something else has the port.
    """

    def __init__(self, port: int, *, nodes: int, node: Node, session: str, token: str) -> None:
        known = _answers(nodes, node.cpus, session)

        def answer(path: str) -> tuple[bytes, str] | None:
            if path == "/api/gcs_healthz":
                return b"success", "text/plain"
            text = _status(nodes, node, self.used_cpus) if path == "/api/cluster_status" else known.get(path)
            return None if text is None else (json.dumps(text).encode(), "application/json")

        self.used_cpus = 0.0 if node.idle else float(nodes * node.cpus)
        """How many of its CPUs are in use."""
        super().__init__(port, answer, token)


class NodeMetrics(Endpoint):
    """Answers for the metrics of one node, to whoever asks: a few of those that Ray 2.60 has, under its names.

    Args:
        port: on loopback; 0 for a free one.
        node: what the node has.
        number: which of the cluster's nodes it is; 0 is the head.
        session: the cluster's name.

    Raises:
        OSError: something else has the port.
    """

    def __init__(self, port: int, *, node: Node, session: str, number: int = 0) -> None:
        content_type = "text/plain; version=0.0.4; charset=utf-8"

        def answer(path: str) -> tuple[bytes, str] | None:
            if path != "/metrics":
                return None
            return node_metrics(node, number, session, time.time()).encode(), content_type

        super().__init__(port, answer)


def node_metrics(node: Node, number: int, session: str, now: float) -> str:
    """Returns the metrics of a node as Ray prints them; how busy it is goes up and down within five minutes.

    The names, labels and texts are those of Ray 2.60: of its `dashboard/modules/reporter/reporter_agent.py`, and of the
    page of one with a task and an actor. The labels `otel_scope_*`, `JobId` and `WorkerId` are left out.

    Args:
        node: what it has.
        number: which of the cluster's nodes it is; 0 is the head.
        session: the cluster's name.
        now: epoch seconds.
    """
    wave = math.sin(now / 47 + number)
    busy = 0.02 if node.idle else 0.65 + 0.25 * wave
    address = f"10.0.0.{number + 1}"
    cluster = {"SessionName": session, "Version": RAY_VERSION}
    here = {
        "IsHeadNode": str(number == 0).lower(),
        "RayNodeType": "worker" if number else "head",
        **cluster,
        "ip": address,
    }
    counted = {**cluster, "NodeAddress": address}
    tasks = {"Component": "core_worker", "IsRetry": "0", "Name": "work", "Source": "executor", **counted}
    running = 0 if node.idle else node.cpus
    pages: list[tuple[str, str, list[tuple[Mapping[str, str], float]]]] = [
        ("node_cpu_utilization", "Total CPU usage on a ray node", [(here, 100 * busy)]),
        ("node_cpu_count", "Total CPUs available on a ray node", [(here, node.cpus)]),
        ("node_mem_used", "Memory usage on a ray node", [(here, int(node.memory * (0.2 + 0.6 * busy)))]),
        ("node_mem_total", "Total memory on a ray node", [(here, node.memory)]),
        (
            "node_disk_utilization_percentage",
            "Total disk utilization (percentage) on a ray node",
            [(here, 31.0 + number)],
        ),
        ("node_network_send_speed", "Network send speed", [(here, 2.5e7 * busy)]),
        ("node_network_receive_speed", "Network receive speed", [(here, 4e7 * busy)]),
        (
            "tasks",
            "Current number of tasks currently in a particular state.",
            [
                ({**tasks, "State": "RUNNING"}, running),
                ({**tasks, "State": "FINISHED", "Source": "owner"}, 0 if node.idle else int(now) % 86400),
            ],
        ),
        (
            "object_store_memory",
            "Object store memory by various sub-kinds on this node",
            [
                ({"Component": "raylet", "Location": place, "ObjectState": state, **counted}, used)
                for place, state, used in (
                    ("MMAP_SHM", "SEALED", int(node.memory * 0.1 * busy)),
                    ("SPILLED", "", 0),
                )
            ],
        ),
    ]
    if number == 0:
        actors = {"Component": "gcs_server", "Name": "Worker", "Source": "gcs", **counted}
        pages.append(
            (
                "actors",
                "Current number of actors currently in a particular state.",
                [({**actors, "State": "ALIVE"}, running), ({**actors, "State": "DEAD"}, 1)],
            )
        )
    gpus = [{**here, "GpuDeviceName": "practice", "GpuIndex": str(index)} for index in range(node.gpus)]
    if gpus:
        load = [100 * (0.03 if node.idle else 0.7 + 0.25 * math.sin(now / 31 + index)) for index in range(node.gpus)]
        pages += [
            ("node_gpus_available", "Total GPUs available on a ray node", [(gpu, 1) for gpu in gpus]),
            ("node_gpus_utilization", "Total GPUs usage on a ray node", list(zip(gpus, load, strict=True))),
        ]
    return "".join(_family(*page) for page in pages)


def _family(name: str, about: str, samples: Sequence[tuple[Mapping[str, str], float]]) -> str:
    lines = [f"# HELP ray_{name} {about}", f"# TYPE ray_{name} gauge"]
    for labels, value in samples:
        told = ",".join(f'{label}="{labels[label]}"' for label in sorted(labels))
        lines.append(f"ray_{name}{{{told}}} {float(value)}")
    return "\n".join(lines) + "\n"


_OPEN = {"/api/gcs_healthz", "/api/authentication_mode"}


def _answers(nodes: int, cpus: int, session: str) -> dict[str, object]:
    listed = [
        {
            "node_id": f"{number:056x}",
            "node_ip": f"10.0.0.{number + 1}",
            "is_head_node": number == 0,
            "state": "ALIVE",
            "state_message": None,
            "resources_total": {"CPU": float(cpus)},
        }
        for number in range(nodes)
    ]
    result = {"total": nodes, "num_after_truncation": nodes, "num_filtered": nodes, "result": listed}
    return {
        "/api/version": {"version": "4", "ray_version": RAY_VERSION, "ray_commit": "", "session_name": session},
        "/api/authentication_mode": {"authentication_mode": "token"},
        "/api/v0/cluster_metadata": {
            "result": True,
            "msg": "",
            "data": {"rayVersion": RAY_VERSION, "pythonVersion": PYTHON_VERSION},
        },
        "/api/v0/nodes": {"result": True, "msg": "", "data": {"result": {**result, "warnings": None}}},
    }


def _status(nodes: int, node: Node, used: float) -> dict[str, object]:
    memory, store = nodes * node.memory * 0.7, nodes * node.memory * 0.3
    usage = {
        "CPU": [used, float(nodes * node.cpus)],
        "memory": [0.0, memory],
        "objectStoreMemory": [0.0 if node.idle else store / 3, store],
    }
    if node.gpus:
        whole = float(nodes * node.gpus)
        usage["GPU"] = [whole if used else 0.0, whole]
    report = {"usage": usage, "resourceDemand": [], "requestResources": []}
    status = {"time": time.time(), "loadMetricsReport": report}
    return {"result": True, "msg": "Got cluster status.", "data": {"clusterStatus": status}}
