"""A real Prometheus on a free port of the loopback, with the configuration that is shipped."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

TOP = Path(__file__).resolve().parent.parent
CLOSED = "127.0.0.1:1"
"""An address where nothing listens."""


def program(name: str) -> str:
    """Returns the path of a program. Without it the test fails where CI is true, and is skipped elsewhere."""
    found = shutil.which(name)
    if found is None:
        reason = f"{name} is not installed"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def free_port() -> int:
    """Returns a port that is free on the loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 30) -> None:
    """Waits until a condition holds; an unanswered request counts as no.

    Raises:
        TimeoutError: it did not hold in time.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise TimeoutError(f"waited {seconds:g} s in vain: {what}")


def query(url: str, expr: str) -> list[dict[str, str]]:
    """Returns the labels of the series that an instant query finds."""
    answer = httpx.get(f"{url}/api/v1/query", params={"query": expr}, trust_env=False).raise_for_status().json()
    return [series["metric"] for series in answer["data"]["result"]]


def render_config(directory: Path, replacements: Mapping[str, str]) -> Path:
    """Copies the shipped configuration with its rules, and returns the path of its prometheus.yml.

    Args:
        directory: where the copy goes.
        replacements: what is replaced in prometheus.yml wherever it stands, such as
            `{"127.0.0.1:9810": "127.0.0.1:40001", "scrape_interval: 30s": "scrape_interval: 1s"}`.

    Raises:
        ValueError: a text to replace is not there.
    """
    shutil.copytree(TOP / "prometheus", directory, dirs_exist_ok=True)
    config = directory / "prometheus.yml"
    text = config.read_text(encoding="utf-8")
    for old, new in replacements.items():
        if old not in text:
            raise ValueError(f"prometheus.yml has no {old!r}")
        text = text.replace(old, new)
    config.write_text(text, encoding="utf-8")
    return config


@contextmanager
def running(command: Sequence[str], ready_url: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a server: yields when it says that it is ready, ends it afterwards.

    Raises:
        RuntimeError: it ended by itself; with what it wrote.
    """
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process:

        def ready() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"{command[0]} ended with {process.returncode}:\n{log.read_text(errors='replace')}")
            return httpx.get(ready_url, trust_env=False).is_success

        try:
            wait_until(ready, f"{ready_url} answers")
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def prometheus_server(config: Path, data: Path, *options: str) -> Iterator[str]:
    """Runs Debian's Prometheus.

    Args:
        config: its prometheus.yml, as of `render_config`.
        data: a folder for its database and its log.
        *options: of its command line, besides those that say where all is.

    Yields:
        Its URL.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [
        program("prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={data / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
        *options,
    ]
    data.mkdir(parents=True, exist_ok=True)
    with running(command, f"{url}/-/ready", data / "prometheus.log"):
        yield url
