"""`rayslurm connect`."""

from __future__ import annotations

import asyncio
import shlex
import sqlite3
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import typer

from exporter.cli.context import ConfigOption, JsonOption, add_command, peek_store, print_json, read_config, say
from exporter.cli.job_argument import JobArgument, find_job
from exporter.cli.table import age
from exporter.config import Config
from exporter.config_files import own_name
from exporter.errors import ConfigError, InputError
from exporter.store import chains, jobs, leases, runs, submissions, supervised, tunnels
from exporter.store.jobs import JobRow
from exporter.store.leases import DASHBOARD
from exporter.store.runs import Run
from exporter.store.submissions import Submission
from exporter.store.tunnels import Health
from exporter.tunnels.secrets import secret_path
from exporter.tunnels.versions import python_version
from exporter.vm_settings import VmSettings

_DRIVER = "python my_script.py"
_SSH_PORT = 22
_WIDTH = 18


def register(app: typer.Typer) -> None:
    """Adds the command."""
    add_command(app, connect)


@dataclass(frozen=True, slots=True)
class Way:
    """How to reach the Ray of a running job.

    Attributes:
        ports: of its tunnels on this machine.
        health: how those that are probed were found a short while ago.
        token_file: where Ray's token is on this machine.
        run: what its supervisor said; None where nothing was read.
        vm: this machine, as it is reached.
        python_version: of the job's Ray; None where it isn't known.
    """

    submission: Submission
    ports: dict[str, int]
    health: dict[str, Health]
    run: Run | None
    token_file: Path
    vm: VmSettings
    python_version: str | None = None

    @property
    def open_to_all(self) -> bool:
        """Whether the spec allows a Ray that asks for no token."""
        return bool((self.submission.spec.get("ray") or {}).get("allow_unauthenticated_ray"))

    def url(self, tunnel: str) -> str | None:
        """Returns the address of a tunnel; None where the job has none of that name."""
        scheme = "ray" if tunnel == "client" else "http"
        return f"{scheme}://127.0.0.1:{self.ports[tunnel]}" if tunnel in self.ports else None

    @property
    def metrics(self) -> dict[str, int]:
        """The ports of Ray's own metrics, by node, counted from the head's 0."""
        found = {name.partition("-")[2]: port for name, port in self.ports.items() if name.startswith("metrics-")}
        return dict(sorted(found.items(), key=lambda item: int(item[0])))

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which Ray's commands and clients show the token."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token_file)}

    @property
    def ssh(self) -> str:
        """What brings the tunnels that people use to a laptop."""
        forwards = [
            f"-L {port}:127.0.0.1:{port}"
            for name in (DASHBOARD, "client", "serve")
            if (port := self.ports.get(name)) is not None
        ]
        options = [] if self.vm.port == _SSH_PORT else [f"-p {self.vm.port}"]
        return " ".join(["ssh -N", *options, *forwards, f"{self.vm.user}@{self.vm.host}"])

    @property
    def job_submit(self) -> str | None:
        """What submits a driver to this Ray, on this machine; None where there is no tunnel to its dashboard."""
        url = self.url(DASHBOARD)
        variables = " ".join(f"{name}={shlex.quote(value)}" for name, value in self.environment.items())
        return None if url is None else f"{variables} ray job submit --address {url} -- {_DRIVER}"


def connect(job: JobArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show how to reach the Ray of a running job.

    Raises:
        ConfigError: there is no such site, or no `vm`.
        InputError: rayslurm didn't launch that job, or it doesn't run, or it has no tunnel.
    """
    _, settings = read_config(config)
    with peek_store(settings) as store:
        if store is None:
            raise InputError(f"{job}: nothing has been launched yet; see `rayslurm launch --help`")
        site, job_id = find_job(job, settings, store)
        with store.snapshot() as connection:
            way = _way(connection, settings, site, job_id, now=time.time())
    way = replace(way, python_version=_python(way))
    if as_json:
        print_json(_way_json(way))
    else:
        _tell(way)


def _way(connection: sqlite3.Connection, config: Config, site: str, job_id: str, *, now: float) -> Way:
    name = f"{site}/{job_id}"
    followed = jobs.tracked(connection, site, jobs.root_of(job_id))
    if followed is None:
        raise InputError(f"{name}: rayslurm doesn't know this job; `rayslurm status` shows those that it follows")
    if followed.token is None:
        raise InputError(f"{name}: rayslurm follows this job but didn't launch it, so it has no tunnel of it")
    submission = submissions.get(connection, followed.token)
    rows = jobs.find(connection, job_id, site)
    if not rows:
        raise InputError(f"{name}: nothing has been seen of this job yet; try again in a minute")
    _check_runs(connection, name, rows[0])
    ports = {lease.tunnel: lease.port for lease in leases.of_submission(connection, submission.token)}
    if not ports:
        raise InputError(
            f"{name}: this job opens no tunnel; write ray.dashboard_tunnel: true in the spec and launch it again"
        )
    if config.vm is None:
        raise ConfigError("vm: is missing, though this job was launched with it; put it back")
    health = [one for one in tunnels.current(connection, now=now) if (one.site, one.job_id) == (site, job_id)]
    return Way(
        submission=submission,
        ports=ports,
        health={one.tunnel: one for one in health},
        run=runs.of_job(connection, site, job_id),
        token_file=secret_path(config.state_dir, submission.token).absolute(),
        vm=config.vm,
    )


def _python(way: Way) -> str | None:
    """Asks the job's Ray for its Python, through the tunnel, where that was found to be ours a short while ago."""
    health = way.health.get(DASHBOARD)
    if health is None or not health.up:
        return None
    try:
        secret = way.token_file.read_text(encoding="ascii").strip() or None
    except (OSError, ValueError):
        secret = None
    return asyncio.run(python_version(way.ports[DASHBOARD], secret))


def _check_runs(connection: sqlite3.Connection, name: str, job: JobRow) -> None:
    """Does nothing for a job that runs.

    Raises:
        InputError: it doesn't; with what became of it.
    """
    if job.state == "running":
        return
    if job.final:
        ending = runs.ending(job, runs.of_job(connection, job.site, job.job_id)).partition("\n")[0]
        chain = chains.of_job(connection, job.site, job.job_id)
        newest = chain.last.submission.job_id if chain else None
        follows = f"; it goes on as {job.site}/{newest}" if newest not in {None, job.job_id} else ""
        raise InputError(f"{name}: has ended, {job.state}" + (f": {ending}" if ending else "") + follows)
    if job.state == "pending":
        reason = f" ({job.pending_reason})" if job.pending_reason else ""
        raise InputError(f"{name}: hasn't started, it is pending{reason}; `rayslurm status` shows when it runs")
    raise InputError(f"{name}: doesn't run as far as is known, it is {job.state}; `rayslurm status` says more")


def _way_json(way: Way) -> dict[str, Any]:
    run = way.run
    return {
        "site": way.submission.site,
        "job_id": way.submission.job_id,
        "name": way.submission.name,
        "dashboard_url": way.url(DASHBOARD),
        "client_address": way.url("client"),
        "serve_url": way.url("serve"),
        "metrics_ports": way.metrics,
        "token_file": str(way.token_file),
        "environment": way.environment,
        "unauthenticated_ray_allowed": way.open_to_all,
        "ssh": way.ssh,
        "ray_job_submit": way.job_submit,
        "ray_version": None if run is None else run.ray_version,
        "python_version": way.python_version,
        "ready_time": None if run is None else run.ready_time,
        "open_listeners": None if run is None or run.open_listeners is None else list(map(asdict, run.open_listeners)),
        "tunnels": [
            {"tunnel": name, "port": port, "health": asdict(way.health[name]) if name in way.health else None}
            for name, port in way.ports.items()
        ],
    }


def _tell(way: Way) -> None:
    run, job = way.run, f"{way.submission.site}/{way.submission.job_id}"
    lines = [
        ("dashboard", way.url(DASHBOARD)),
        ("Ray client", way.url("client")),
        ("Ray Serve", way.url("serve")),
        ("metrics", ", ".join(f"node {node}: 127.0.0.1:{port}" for node, port in way.metrics.items())),
        ("token file", str(way.token_file)),
        ("tunnels", ", ".join(f"{name} {_state(way.health.get(name))}" for name in way.ports)),
        ("Ray", (run and run.ray_version) or "version unknown yet"),
        ("Python", way.python_version or "version unknown; it is told when the dashboard's tunnel is up"),
        ("from a laptop", way.ssh),
        ("submit a driver", way.job_submit),
    ]
    typer.echo(f"{job}: {way.submission.name}")
    for what, value in lines:
        if value:
            typer.echo(f"  {what.ljust(_WIDTH)}{value}")
    for note in _notes(way):
        say(note)


def _state(health: Health | None) -> str:
    if health is None:
        return "not probed"
    return f"{health.state} {age(time.time() - health.at)} ago"


def _notes(way: Way) -> list[str]:
    notes = []
    if way.run is None or way.run.ready_time is None:
        phase = f" (phase {way.run.phase})" if way.run is not None and way.run.phase else ""
        notes.append(f"it isn't known to be ready yet{phase}: its tunnels open when every node is in the cluster")
    if way.open_to_all:
        notes.append("its spec allows a Ray that asks for no token; one of 2.52 or newer asks all the same")
    notes += supervised.warnings(way.run.open_listeners if way.run is not None else None)
    if not way.token_file.exists():
        notes.append(f"{way.token_file} is missing: without it a Ray that wants its token can't be used")
    notes.append(
        "the dashboard asks for the token: paste what is in the token file. On a laptop take a copy for its owner "
        "alone, and name that one in RAY_AUTH_TOKEN_PATH"
    )
    if "client" in way.ports:
        notes.append("who connects to ray:// must have the same Ray and the same Python, to the last digit")
    me = own_name()
    if way.vm.user != me:
        notes.append(f"where {way.vm.user} takes tunnels alone, log in from the laptop as {me}")
    return notes
