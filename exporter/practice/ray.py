"""What a job's Ray answers on its tunnels' ports, as if through them: HTTP on loopback while they live."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
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


class Dashboard(Endpoint):
    """Answers for one cluster.

    Args:
        port: on loopback; 0 for a free one.
        nodes: how many it has.
        cpus: on each.
        session: its name.
        token: what every question but those on its health must carry.

    Raises:
        OSError: something else has the port.
    """

    def __init__(self, port: int, *, nodes: int, cpus: int, session: str, token: str) -> None:
        known = _answers(nodes, cpus, session)

        def answer(path: str) -> tuple[bytes, str] | None:
            if path == "/api/gcs_healthz":
                return b"success", "text/plain"
            text = _status(nodes * cpus, self.used_cpus) if path == "/api/cluster_status" else known.get(path)
            return None if text is None else (json.dumps(text).encode(), "application/json")

        self.used_cpus = float(nodes * cpus)
        """How many of its CPUs are in use."""
        super().__init__(port, answer, token)


class NodeMetrics(Endpoint):
    """Answers for the metrics of one node, to whoever asks.

    Args:
        port: on loopback; 0 for a free one.
        cpus: that the node has.
        session: the cluster's name.

    Raises:
        OSError: something else has the port.
    """

    def __init__(self, port: int, *, cpus: int, session: str) -> None:
        text = (
            "# HELP ray_node_cpu_count Total CPUs available on a ray node\n# TYPE ray_node_cpu_count gauge\n"
            f'ray_node_cpu_count{{SessionName="{session}",Version="{RAY_VERSION}"}} {float(cpus)}\n'
        )
        content_type = "text/plain; version=0.0.4; charset=utf-8"
        super().__init__(port, lambda path: (text.encode(), content_type) if path == "/metrics" else None)


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


def _status(cpus: float, used: float) -> dict[str, object]:
    report = {"usage": {"CPU": [used, float(cpus)]}, "resourceDemand": [], "requestResources": []}
    status = {"time": time.time(), "loadMetricsReport": report}
    return {"result": True, "msg": "Got cluster status.", "data": {"clusterStatus": status}}
