"""A real `rayslurm serve`: how long a scrape takes, also while its site hangs, and what serve takes when idle."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import paramiko
import yaml

from exporter.cli import demo
from exporter.client.backoff import Backoff
from exporter.client.client import SiteClient
from exporter.client.replay import Exchange, ReplayTransport
from exporter.config import Config, load_config
from exporter.practice.site import PROJECT, PracticeSite
from exporter.practice.slurm import USER
from exporter.probes import ProbeContext
from exporter.probes.jobs import JobsProbe
from exporter.probes.reports import ReportsProbe
from exporter.store import jobs
from exporter.store.commands import CommandLedger
from exporter.store.db import Store
from tests.bench.measured import Line, beside, milliseconds, taking_turns
from tests.slurm_texts import HELPFORMAT, finished, sacct, squeue

_BARE = Path(__file__).with_name("bare_client.py")
SITE = "lumi"
JOBS = 200
SCRAPES = 40
STILL_SECONDS = 4.0
SETTLE_SECONDS = 10.0
IDLE_SECONDS = 60.0
MOST_SCRAPE = 2.0
MOST_HANGING = 1.25
"""Unchanged: so much may two scrapes differ that are measured one after the other on a machine with other work."""
MOST_MEGABYTES = 100.0
MOST_CPU_PERCENT = 1.0
_HEADERS = {
    "Accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.3",
    "Accept-Encoding": "gzip",
}
"""What Prometheus sends."""


def measure() -> Iterator[Line]:
    """Measures scrapes of three servers in turns, then an idle one."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rayslurm-bench-")))
        site = stack.enter_context(_practice_site(folder))
        hole = stack.enter_context(_black_hole())
        usual = _configure(folder / "usual", folder, site, site.ssh.port)
        hanging = _configure(folder / "hanging", folder, site, hole.port)
        fill(usual, JOBS)
        shutil.copytree(usual.state_dir, hanging.state_dir)
        stack.enter_context(demo._serve(folder / "usual", usual))
        bare, bare_pid = stack.enter_context(_bare_client(_settled_page(usual.listen_address), folder))
        stack.enter_context(demo._serve(folder / "hanging", hanging))
        hole.await_call()
        yield from _scrapes(usual, hanging, bare)
        assert hole.hanging, "serve waited for its site while it was scraped"
        idle = _configure(folder / "idle", folder, site, site.ssh.port)
        with demo._serve(folder / "idle", idle) as process:
            yield from _idle(process.pid, bare_pid)


def _scrapes(usual: Config, hanging: Config, bare: tuple[str, int]) -> Iterator[Line]:
    works: dict[str, Callable[[], object]] = {
        "usual": partial(_scrape, usual.listen_address, _HEADERS),
        "hanging": partial(_scrape, hanging.listen_address, _HEADERS),
        "bare": partial(_scrape, bare, _HEADERS),
    }
    count = _series(_scrape(bare))
    took = taking_turns(works, SCRAPES)
    against = f"prometheus_client alone {milliseconds(took['bare'])}"
    what = f"scrape of {JOBS} jobs, {count} series"
    yield beside(what, milliseconds(took["usual"]), against, took["usual"] / took["bare"], MOST_SCRAPE)
    against = f"the site answers {milliseconds(took['usual'])}"
    ratio = took["hanging"] / took["usual"]
    yield beside("scrape while the site hangs", milliseconds(took["hanging"]), against, ratio, MOST_HANGING)


def _idle(pid: int, bare_pid: int) -> Iterator[Line]:
    time.sleep(SETTLE_SECONDS)
    started, before = time.monotonic(), _cpu_seconds(pid)
    time.sleep(IDLE_SECONDS)
    percent = 100 * (_cpu_seconds(pid) - before) / (time.monotonic() - started)
    memory, other = _megabytes(pid), _megabytes(bare_pid)
    yield Line(
        "idle serve, VmRSS", f"{memory:.1f} MB", f"prometheus_client alone {other:.1f} MB", memory / other,
        f"<= {MOST_MEGABYTES:g} MB", memory <= MOST_MEGABYTES,
    )  # fmt: skip
    target = f"<= {MOST_CPU_PERCENT:g} %"
    against = f"over {IDLE_SECONDS:.0f} s"
    yield Line("idle serve, CPU of a core", f"{percent:.2f} %", against, None, target, percent <= MOST_CPU_PERCENT)


@contextmanager
def _practice_site(folder: Path) -> Iterator[PracticeSite]:
    key = paramiko.ECDSAKey.generate()
    key.write_private_key_file(str(folder / "id"))
    (folder / "site").mkdir()
    site = PracticeSite(SITE, folder / "site", key)
    site.start()
    try:
        yield site
    finally:
        site.stop()


class _Hole:
    """Takes connections and never says a word."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._called = threading.Event()
        self.hanging = 0
        self.port: int = listener.getsockname()[1]

    def hold(self) -> None:
        """Takes connections until the listener is closed."""
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._listen, args=(connection,), daemon=True).start()

    def _listen(self, connection: socket.socket) -> None:
        self.hanging += 1
        self._called.set()
        with connection, suppress(OSError):
            while connection.recv(4096):
                pass
        self.hanging -= 1

    def await_call(self) -> None:
        """Waits until somebody hangs."""
        assert self._called.wait(30), "serve has not called its site"


@contextmanager
def _black_hole() -> Iterator[_Hole]:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        hole = _Hole(listener)
        threading.Thread(target=hole.hold, daemon=True).start()
        yield hole
        listener.shutdown(socket.SHUT_RDWR)


def _configure(folder: Path, keys: Path, site: PracticeSite, port: int) -> Config:
    folder.mkdir()
    key = site.ssh.host_key
    line = f"{key.get_name()} {key.get_base64()}"
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {line}\n", encoding="utf-8")
    written: dict[str, Any] = {
        "state_dir": str(folder / "state"),
        "listen": f"127.0.0.1:{_free_port()}",
        "sites": {
            SITE: {
                "project": PROJECT, "work_dir": "rayslurm", "temp_dir": "/tmp", "environment": [], "certificate": False,
                "ssh": {
                    "host": "127.0.0.1", "port": port, "user": USER, "key": str(keys / "id"), "agent": False,
                    "known_hosts": str(folder / "known_hosts"),
                },
            }
        },
        "vm": {"host": "127.0.0.1", "user": USER, "identity_file": "id_vm", "host_keys": [line]},
    }  # fmt: skip
    path = folder / "rayslurm.yaml"
    path.write_text(yaml.safe_dump(written), encoding="utf-8")
    return load_config(path)


def fill(config: Config, count: int) -> None:
    """Lets the probes take in so many jobs, ended a moment ago, with their reports and bills."""
    ended = int(time.time()) - 600
    times = {"Submit": str(ended - 200), "Start": str(ended - 100), "End": str(ended), "Partition": "standard"}
    ids = [str(number) for number in range(5_000_000, 5_000_000 + count)]
    rows = [row | times for job_id in ids for row in finished(job_id)]
    with Store(config.store_path) as store:
        site = config.site(SITE)
        for job_id in ids:
            store.write(partial(jobs.track, site=SITE, root_id=job_id, now=time.time()))
        exchanges = [
            Exchange("queue", squeue()),
            Exchange("accounting_fields", HELPFORMAT),
            Exchange("accounting", sacct(*rows)),
        ]
        ledger = CommandLedger.for_site(store, site, clock=time.time)
        client = SiteClient(SITE, ReplayTransport(exchanges), ledger, backoff=Backoff(time.time))
        context = ProbeContext(site=site, client=client, store=store, ledger=ledger)
        for probe in (JobsProbe(), ReportsProbe()):
            probe.run(context)


@contextmanager
def _bare_client(page: bytes, folder: Path) -> Iterator[tuple[tuple[str, int], int]]:
    """Starts it; gives its address and process id."""
    (folder / "page.txt").write_bytes(page)
    process = subprocess.Popen([sys.executable, str(_BARE), str(folder / "page.txt")], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        yield ("127.0.0.1", int(process.stdout.readline())), process.pid
    finally:
        process.kill()
        process.wait()


def _scrape(address: tuple[str, int], headers: dict[str, str] | None = None) -> bytes:
    with closing(HTTPConnection(*address, timeout=60)) as connection:
        connection.request("GET", "/metrics", headers=headers or {"Accept-Encoding": "identity"})
        answer = connection.getresponse()
        page = answer.read()
    assert answer.status == 200, answer.reason
    return page


def _settled_page(address: tuple[str, int]) -> bytes:
    """The page, once the first answers of the site are on it."""
    count, since = 0, time.monotonic()
    while time.monotonic() - since < STILL_SECONDS:
        time.sleep(0.25)
        page = _scrape(address)
        if _series(page) != count:
            count, since = _series(page), time.monotonic()
    return page


def _series(page: bytes) -> int:
    return sum(not line.startswith(b"#") for line in page.splitlines())


def _free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        found: int = listener.getsockname()[1]
        return found


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _megabytes(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024
