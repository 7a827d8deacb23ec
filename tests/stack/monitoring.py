"""Debian's Prometheus and Alertmanager with what is shipped, hurried where nobody would wait, and who is alerted."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.prometheus_server import TOP, free_port, program, prometheus_server, render_config, running, wait_until

HURRIED = {
    "jobs.yml: RaySlurmJobFailed is news for": ("thresholds.yml", "vector(1800)", "vector(120)", "news_seconds"),
    "ray.yml: RaySlurmTunnelDown: for": ("ray.yml", "for: 2m", "for: 5s", "RaySlurmTunnelDown"),
    "sites.yml: RaySlurmSiteUnreachable: for": ("sites.yml", "for: 15m", "for: 5s", "RaySlurmSiteUnreachable"),
    "campaigns.yml: RaySlurmCampaignRefusedBudget looks back": (
        "campaigns.yml",
        "[1h]",
        "[30s]",
        "RaySlurmCampaignRefusedBudget",
    ),
    "exporter.yml: RaySlurmExporterAbsent: for": ("exporter.yml", "for: 5m", "for: 15s", "RaySlurmExporterAbsent"),
    "balances.yml: its rules are worked out every": (
        "balances.yml",
        "interval: 5m",
        "interval: 5s",
        "rayslurm-balances",
    ),
}
"""All that differs from the rules that are shipped: file, what stands there, what stands in its place, after what."""

SCRAPED = {
    "scrape_interval: 30s": "scrape_interval: 2s",
    "evaluation_interval: 30s": "evaluation_interval: 2s",
    "refresh_interval: 15s": "refresh_interval: 2s",
}
"""The same in prometheus.yml, but for the addresses."""

OPTIONS = ("--rules.alert.resend-delay=5s",)
"""The same on Prometheus's command line: what fires before it has found Alertmanager is else told a minute later."""

ROUTED = {
    "group_by: [alertname, site]\n": "group_by: [alertname, site]\n  group_wait: 1s\n  group_interval: 1s\n",
    "group_wait: 10s": "group_wait: 1s",
    "group_interval: 1m": "group_interval: 5s",
}
"""The same in alertmanager.yml, but that each receiver has a webhook."""


@dataclass(frozen=True)
class Told:
    """An alert that came to a receiver.

    Attributes:
        at: when, epoch seconds.
        receiver: whose.
        status: `firing` or `resolved`.
        labels: the alert's.
        annotations: as they were rendered.
    """

    at: float
    receiver: str
    status: str
    labels: dict[str, str]
    annotations: dict[str, str]

    @property
    def name(self) -> str:
        """The alert's name."""
        return self.labels["alertname"]


@dataclass
class Inbox:
    """What Alertmanager sent, in the order in which it came."""

    told: list[Told] = field(default_factory=list)

    def find(self, name: str, status: str, *, since: float = 0, **labels: str) -> Told | None:
        """Returns the first message on an alert since a moment; None where none came."""
        for one in list(self.told):
            if (one.name, one.status) == (name, status) and one.at >= since and labels.items() <= one.labels.items():
                return one
        return None

    def await_one(self, name: str, status: str, *, since: float = 0, seconds: float = 90, **labels: str) -> Told:
        """Waits for a message on an alert.

        Raises:
            TimeoutError: none came.
        """
        wait_until(
            lambda: self.find(name, status, since=since, **labels) is not None, f"{name} {status} {labels}", seconds
        )
        found = self.find(name, status, since=since, **labels)
        assert found is not None
        return found


@dataclass(frozen=True)
class Monitoring:
    """The running servers.

    Attributes:
        prometheus: Prometheus's URL.
        alertmanager: Alertmanager's.
        inbox: what was sent to its receivers.
        began: when Prometheus was started, epoch seconds.
    """

    prometheus: str
    alertmanager: str
    inbox: Inbox
    began: float


@contextmanager
def watching(folder: Path, exporter: str, write_history: Callable[[Path], None]) -> Iterator[Monitoring]:
    """Runs Prometheus and Alertmanager on an exporter.

    Args:
        folder: where they live.
        exporter: its address, `127.0.0.1:PORT`.
        write_history: puts blocks into Prometheus's database before it starts.
    """
    folder.mkdir()
    inbox = Inbox()
    with _receiver(inbox) as webhook, _alertmanager(folder, webhook) as alertmanager:
        config = render_config(
            folder / "prometheus",
            {
                "127.0.0.1:9810": exporter,
                "127.0.0.1:9093": alertmanager.removeprefix("http://"),
                **SCRAPED,
            },
        )
        hurry(folder / "prometheus/rules")
        write_history(folder / "data/tsdb")
        began = time.time()
        with prometheus_server(config, folder / "data", *OPTIONS) as prometheus:
            yield Monitoring(prometheus, alertmanager, inbox, began)


def hurry(rules: Path) -> None:
    """Makes the changes of `HURRIED` in a copy of the rules.

    Raises:
        ValueError: what is to be replaced isn't there.
    """
    for file, old, new, after in HURRIED.values():
        path = rules / file
        text = path.read_text(encoding="utf-8")
        found = re.search(rf"{re.escape(after)}\b(?:(?!- alert:|- record:).)*?{re.escape(old)}", text, re.DOTALL)
        if found is None:
            raise ValueError(f"{file} has no {old!r} after {after}")
        path.write_text(text[: found.end() - len(old)] + new + text[found.end() :], encoding="utf-8")


@contextmanager
def _alertmanager(folder: Path, webhook: str) -> Iterator[str]:
    shutil.copy(TOP / "prometheus/alertmanager.yml", folder / "alertmanager.yml")
    path = folder / "alertmanager.yml"
    text = path.read_text(encoding="utf-8")
    for old, new in ROUTED.items():
        if old not in text:
            raise ValueError(f"alertmanager.yml has no {old!r}")
        text = text.replace(old, new)
    routes, receivers = text.split("\nreceivers:\n")
    receivers = re.sub(
        r"(?m)^  - name: (\w+)$",
        lambda match: f"{match[0]}\n    webhook_configs:\n      - url: {webhook}/{match[1]}",
        receivers,
    )
    path.write_text(f"{routes}\nreceivers:\n{receivers}", encoding="utf-8")
    address = f"127.0.0.1:{free_port()}"
    command = [
        program("prometheus-alertmanager"),
        f"--config.file={path}",
        f"--storage.path={folder / 'alertmanager'}",
        f"--web.listen-address={address}",
        "--cluster.listen-address=",
    ]
    with running(command, f"http://{address}/-/ready", folder / "alertmanager.log"):
        yield f"http://{address}"


@contextmanager
def _receiver(inbox: Inbox) -> Iterator[str]:
    class Webhook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            inbox.told.extend(
                Told(time.time(), self.path.strip("/"), alert["status"], alert["labels"], alert["annotations"])
                for alert in sent["alerts"]
            )
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name it is called by
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Webhook) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            with suppress(OSError):
                server.shutdown()
            thread.join()
