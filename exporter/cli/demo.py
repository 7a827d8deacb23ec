"""The demo: rayslurm at work on practice sites on this machine, without an account."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import paramiko
import typer
import yaml

from exporter.cli.asking import ask
from exporter.cli.context import open_store, say
from exporter.cli.demo_check import Checked, TunnelWatch, compare
from exporter.config import Config, load_config
from exporter.data import data_path
from exporter.errors import RayslurmError
from exporter.practice.site import PROJECT, PracticeSite
from exporter.practice.slurm import USER
from exporter.store.db import Store

CLOCK_FACTOR = 60.0
"""How much faster the practice sites' clock runs: an hour of the budget is a minute."""

LAUNCH_SECONDS = 6.0
CHECK_JOBS = 9
CHECK_LAUNCH_SECONDS = 1.0
CHECK_SECONDS = 58.0
_READY_SECONDS = 20.0
_CAMPAIGN_SECONDS = 20

_SPECS: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("roihu", "train", "medium", {"nodes": 2, "cpus_per_node": 4, "memory_per_node": "8G"}),
    ("lumi", "tune", "small", {"nodes": 1, "cpus_per_node": 8, "memory_per_node": "32G"}),
    (
        "lumi",
        "pretrain",
        "standard-g",
        {"nodes": 2, "cpus_per_node": 56, "memory_per_node": "400G", "gpus_per_node": 8},
    ),
    ("roihu", "score", "small", {"nodes": 1, "cpus_per_node": 16, "memory_per_node": "24G"}),
    ("roihu", "embed", "gpumedium", {"nodes": 1, "cpus_per_node": 72, "memory_per_node": "200G", "gpus_per_node": 2}),
    ("lumi", "sweep", "standard", {"nodes": 3, "cpus_per_node": 128, "memory_per_node": "200G"}),
)
"""What is launched, one after the other and then from the start: site, name, partition, cluster."""

_STAY_UP: tuple[str, str, str, dict[str, Any]] = (
    "roihu",
    "stay-up",
    "medium",
    {"nodes": 2, "cpus_per_node": 4, "memory_per_node": "8G"},
)


def run(*, check: bool, port: int, another: bool) -> None:
    """Runs the demo until it is interrupted; with `check` compares for a minute and ends.

    Args:
        check: compare /metrics with what is true at the practice sites.
        port: where /metrics is.
        another: whether it may be another one where that is taken.

    Raises:
        RayslurmError: serve ended by itself, or what was compared differs.
    """
    # SIGTERM and a terminal that is closed end it as Ctrl-C does, so that nothing is left behind.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: _interrupt())
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rayslurm-demo-")))
        sites = stack.enter_context(_sites(folder))
        config = _configure(folder, sites, _free(port, another=another))
        if not check:
            _write_campaign(folder)
        process = stack.enter_context(_serve(folder, config))
        store = stack.enter_context(open_store(config))
        url = f"http://{config.listen}"
        if not check:
            _greet(url, folder, prometheus=stack.enter_context(_prometheus(folder, config.listen)))
        try:
            if check:
                _check(config, store, sites, url)
            else:
                _keep_going(config, store, process)
        except KeyboardInterrupt:
            say("ending; everything is removed")


def _interrupt() -> None:
    raise KeyboardInterrupt


@contextmanager
def _sites(folder: Path) -> Iterator[dict[str, PracticeSite]]:
    key = paramiko.ECDSAKey.generate()
    key.write_private_key_file(str(folder / "id_practice"))
    sites = {}
    for name in ("roihu", "lumi"):
        (folder / name).mkdir()
        sites[name] = PracticeSite(name, folder / name, key)
    (folder / "known_hosts").write_text(
        "".join(f"{site.ssh.known_hosts_line}\n" for site in sites.values()), encoding="utf-8"
    )
    for site in sites.values():
        site.start()
    try:
        yield sites
    finally:
        for site in sites.values():
            site.stop()


def _configure(folder: Path, sites: dict[str, PracticeSite], port: int) -> Config:
    known: dict[str, Any] = {
        name: {
            "project": PROJECT,
            "work_dir": "rayslurm",
            "temp_dir": "/tmp",  # noqa: S108 - no job ever runs there
            "environment": [],
            "certificate": False,
            "partition": {"roihu": "medium", "lumi": "small"}[name],
            "practice_clock_factor": CLOCK_FACTOR,
            "ssh": {
                "host": "127.0.0.1",
                "port": site.ssh.port,
                "user": USER,
                "key": str(folder / "id_practice"),
                "agent": False,
                "known_hosts": str(folder / "known_hosts"),
            },
        }
        for name, site in sites.items()
    }
    first = next(iter(sites.values())).ssh.host_key
    # Of its own, so that two demos on one machine don't find each other's Rays behind their tunnels.
    first_port = 18100 + os.getpid() % 100 * 100
    written = {
        "state_dir": str(folder / "state"),
        "listen": f"127.0.0.1:{port}",
        "sites": known,
        "vm": {
            "host": "127.0.0.1",
            "user": USER,
            "identity_file": "id_vm",
            "host_keys": [f"{first.get_name()} {first.get_base64()}"],
            "dashboard_ports": f"{first_port}-{first_port + 39}",
            "metrics_ports": f"{first_port + 40}-{first_port + 99}",
        },
    }
    spec = {"site": "lumi", "name": "mine", "entrypoint": "python train.py", "cluster": _SPECS[1][3] | {"time": "15m"}}
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec, sort_keys=False), encoding="utf-8")
    path = folder / "rayslurm.yaml"
    path.write_text(yaml.safe_dump(written), encoding="utf-8")
    return load_config(path)


def _write_campaign(folder: Path) -> None:
    """Writes a campaign whose first run comes soon; its times are this machine's, and no faster than elsewhere."""
    first = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=_CAMPAIGN_SECONDS)
    campaign = {
        "site": "lumi",
        "cluster": {"nodes": 1, "cpus_per_node": 8, "memory_per_node": "16G", "time": "15m", "partition": "small"},
        "entrypoint": "python learn.py --rate $RATE",
        "schedule": {"every": "5m"},
        "start": first,
        "matrix": {"RATE": [0.1, 0.01, 0.001]},
        "budget": {"run": 20, "month": 200},
    }
    path = folder / "campaigns/learn.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(campaign, sort_keys=False), encoding="utf-8")


@contextmanager
def _serve(folder: Path, config: Config) -> Iterator[subprocess.Popen[bytes]]:
    log = folder / "serve.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "exporter.cli.entry", "serve", "--config", str(folder / "rayslurm.yaml")],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for the demo, which ends it in order
        )
    try:
        _await_listening(process, config, log)
        yield process
    finally:
        _end(process)


def _await_listening(process: subprocess.Popen[bytes], config: Config, log: Path) -> None:
    ends = time.monotonic() + _READY_SECONDS
    while time.monotonic() < ends:
        if process.poll() is not None:
            raise RayslurmError(f"serve ended: {log.read_text(encoding='utf-8', errors='replace').strip()[-500:]}")
        with suppress(OSError), closing(socket.create_connection(config.listen_address, timeout=1)):
            return
        time.sleep(0.05)
    raise RayslurmError(f"serve was not ready within {_READY_SECONDS:.0f} s")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def _prometheus(folder: Path, target: str) -> Iterator[str | None]:
    """Starts Prometheus with the shipped configuration where it is installed; gives its URL."""
    program = shutil.which("prometheus")
    if program is None:
        yield None
        return
    shutil.copytree(data_path("prometheus"), folder / "prometheus")
    path = folder / "prometheus/prometheus.yml"
    text = path.read_text(encoding="utf-8").replace("127.0.0.1:9810", target).replace("interval: 30s", "interval: 2s")
    path.write_text(text, encoding="utf-8")
    address = f"127.0.0.1:{_free(9090)}"
    with (folder / "prometheus.log").open("wb") as output:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={path}",
                f"--storage.tsdb.path={folder / 'prometheus-data'}",
                f"--web.listen-address={address}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield f"http://{address}"
    finally:
        _end(process)


def _greet(url: str, folder: Path, prometheus: str | None) -> None:
    lines = [
        f"{url}/metrics",
        f"The page for people: {url}/",
        "rayslurm is at work on two practice sites; jobs keep coming. Within a minute every source is on /metrics.",
        "Practice jobs run nothing: how each goes, what it uses and how it ends is made up.",
        f"  curl -s {url}/metrics | grep -e units -e efficiency -e remaining",
        f"  export RAYSLURM_CONFIG={folder / 'rayslurm.yaml'}",
        f"  {_own_command()} status      also: logs JOB, cancel JOB, launch {folder / 'spec.yaml'}",
        f"  serve's own log: {folder / 'serve.log'}",
    ]
    if prometheus is not None:
        lines.append(f"  Prometheus: {prometheus}")
    typer.echo("\n".join([*lines, "Ctrl-C ends it and removes everything."]))
    sys.stdout.flush()


def _own_command() -> str:
    beside = Path(sys.executable).with_name("rayslurm")
    return str(beside) if beside.is_file() else "rayslurm"


def _keep_going(config: Config, store: Store, process: subprocess.Popen[bytes]) -> None:
    for spec in itertools.chain([_STAY_UP], itertools.cycle(_SPECS)):
        _launch(config, store, spec)
        time.sleep(LAUNCH_SECONDS)
        if process.poll() is not None:
            raise RayslurmError("serve ended by itself")


def _launch(config: Config, store: Store, wanted: tuple[str, str, str, dict[str, Any]]) -> None:
    site, name, partition, cluster = wanted
    spec = {"site": site, "name": name, "cluster": {**cluster, "partition": partition, "time": "15m"}}
    payload = {"spec": yaml.safe_dump(spec), "name": f"{name}.yaml"}
    outcome, _ = ask(config, store, "launch", site, payload)
    typer.echo(f"{time.strftime('%H:%M:%S')}  {site}/{outcome['job_id']}  {name} on {partition}")
    sys.stdout.flush()


def _check(config: Config, store: Store, sites: dict[str, PracticeSite], url: str) -> None:
    """Launches jobs, waits until all is on /metrics, and compares.

    Raises:
        RayslurmError: something differs, or did not come in time.
    """
    started = time.monotonic()
    for spec in itertools.islice(itertools.chain([_STAY_UP], itertools.cycle(_SPECS)), CHECK_JOBS):
        _launch(config, store, spec)
        time.sleep(CHECK_LAUNCH_SECONDS)
    result, watch = Checked(), TunnelWatch()
    while time.monotonic() - started < CHECK_SECONDS:
        result = compare(url, sites, watch)
        if result.complete:
            break
        time.sleep(1)
    for line in result.differences:
        typer.echo(f"differs: {line}", err=True)
    typer.echo(result.summary())
    if not result.complete:
        raise RayslurmError("not everything on /metrics is what the practice sites know to be true")


def _free(wanted: int, *, another: bool = True) -> int:
    """Returns a port of loopback where it is free, else another if that will do.

    Raises:
        RayslurmError: it isn't free, or none is.
    """
    for port in (wanted, 0) if another else (wanted,):
        with suppress(OSError), closing(socket.create_server(("127.0.0.1", port))) as listener:
            found: int = listener.getsockname()[1]
            return found
    raise RayslurmError(f"port {wanted} is taken on 127.0.0.1" if not another else "no port is free on 127.0.0.1")
