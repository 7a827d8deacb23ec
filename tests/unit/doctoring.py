"""What tests of `rayslurm doctor` share."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

from exporter.doctor.finding import Finding

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGtra2tra2tra2tra2tra2tra2tra2tra2tra2tra2tr"


def only(findings: Iterable[Finding]) -> Finding:
    (one,) = findings
    return one


def said(findings: Iterable[Finding]) -> tuple[str, str]:
    """Returns how the only finding is, and all of its words."""
    one = only(findings)
    return one.level, f"{one.text} -> {one.cure}"


@contextmanager
def answers(text: str) -> Iterator[int]:
    """Runs a service that answers everything with a text; yields its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
