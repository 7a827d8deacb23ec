"""What a job's Ray answers on its dashboard's port, as if through the tunnel: HTTP on loopback while that lives."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

RAY_VERSION = "2.60.0"
PYTHON_VERSION = "3.11.9"


class Dashboard:
    """Answers for one cluster until `stop`.

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
        self.gone = False
        """Whether Ray is gone behind the tunnel: then it closes each connection without an answer."""
        dashboard = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if dashboard.gone:
                    return
                body, content_type = known.get(self.path.partition("?")[0], (None, ""))
                status = 404 if body is None else 200
                if self.path not in _OPEN and self.headers.get("Authorization") != f"Bearer {token}":
                    status, body, content_type = 401, b"Unauthorized", "text/plain"
                self.send_response(status)
                self.send_header("Content-Type", content_type or "text/plain")
                self.end_headers()
                self.wfile.write(body or b"")

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


_OPEN = {"/api/gcs_healthz", "/api/authentication_mode"}


def _answers(nodes: int, cpus: int, session: str) -> dict[str, tuple[bytes, str]]:
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
    texts: dict[str, object] = {
        "/api/version": {"version": "4", "ray_version": RAY_VERSION, "ray_commit": "", "session_name": session},
        "/api/authentication_mode": {"authentication_mode": "token"},
        "/api/v0/cluster_metadata": {
            "result": True,
            "msg": "",
            "data": {"rayVersion": RAY_VERSION, "pythonVersion": PYTHON_VERSION},
        },
        "/api/v0/nodes": {"result": True, "msg": "", "data": {"result": {**result, "warnings": None}}},
    }
    answers = {path: (json.dumps(text).encode(), "application/json") for path, text in texts.items()}
    return {**answers, "/api/gcs_healthz": (b"success", "text/plain")}
