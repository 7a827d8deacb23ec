"""A practice site as a whole: its jobs, its login node, what it says of projects, and the Rays that its jobs run."""

from __future__ import annotations

import itertools
import json
import os
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import paramiko

from exporter.practice import prints, slurm, supervisor
from exporter.practice.prints import Area
from exporter.practice.ray import Dashboard, Endpoint, Node, NodeMetrics
from exporter.practice.slurm import ZONE, Called, Said
from exporter.practice.sshd import Host, SshServer
from exporter.practice.world import GIB, Job, World

PROJECT = "project_2001234"
LOOK_SECONDS = 0.5

# As if the project had begun eight weeks ago, with its first grant.
_TODAY = datetime.now(ZONE).date()
_ABOUT: dict[str, Any] = {
    "owner": slurm.USER,
    "title": "Practice",
    "start": f"{_TODAY - timedelta(days=56)}",
    "end": f"{_TODAY + timedelta(days=400)}",
    "status": "open",
    "latest_grant": f"{_TODAY - timedelta(days=56)}",
    "csc": {"CPU": (60000, 18250), "GPU": (1000, 230), "Storage": (300000, 92400), "Cloud": (400, 110)},
    "lumi": {
        "cpu_hours": (10000, 3250),
        "gpu_hours": (300, 86),
        "storage_hours": (100, 22),
        "qpu_secs": (0, 0),
    },
}
_QUOTAS = {"home": (10 * GIB, 100_000), "projappl": (50 * GIB, 100_000), "scratch": (1024 * GIB, 1_000_000)}
_PROJECT_FILES = "/var/lib/project_info/users"

# Sent to the site by each of the login node's commands; the answer is printed. Only what starts quickly is imported.
# The socket is named by its folder's descriptor: its whole path may be longer than the 107 bytes that one may have.
_SHIM = """\
import json, os, socket, sys
call = {"name": sys.argv[1], "arguments": sys.argv[2:], "folder": os.getcwd(), "environment": dict(os.environ)}
path, name = os.path.split(os.environ["RAYSLURM_PRACTICE"])
with socket.socket(socket.AF_UNIX) as site:
    site.connect(f"/proc/self/fd/{os.open(path, os.O_PATH)}/{name}")
    site.sendall(json.dumps(call).encode())
    site.shutdown(socket.SHUT_WR)
    out, err, status = json.loads(b"".join(iter(lambda: site.recv(65536), b"")))
sys.stdout.write(out)
sys.stderr.write(err)
sys.exit(status)
"""

_WHOLE_NODES = {
    "roihu": {"medium": (384, 720 * GIB), "large": (384, 720 * GIB)},
    "lumi": {"standard": (128, 224 * GIB), "standard-g": (56, 480 * GIB)},
}


class PracticeSite:
    """A site that runs in this process until `stop`.

    Args:
        name: which site it plays, `roihu` or `lumi`.
        folder: where its files go.
        key: what opens it.
    """

    def __init__(self, name: str, folder: Path, key: paramiko.PKey) -> None:
        self.name = name
        self.world = World(name, 2 if name == "lumi" else 1, _WHOLE_NODES[name])
        self._folder = folder
        self._rays: dict[int, list[Endpoint]] = {}
        self._tunnels: dict[int, list[tuple[float, str]]] = {}
        self._broken: dict[int, str] = {}
        self._saying: dict[str, Said] = {}
        self._told: list[tuple[float, dict[str, float]]] = []
        self._lock = threading.Lock()
        home, self._bin = folder / "home", folder / "bin"
        self._files = folder / "project_info"
        for made in (home, self._bin, self._files / PROJECT):
            made.mkdir(parents=True)
        self._commands: dict[str, Callable[[Called], Said]] = {
            command: self._of_slurm(command)
            for command in ("sbatch", "squeue", "sacct", "scancel", "scontrol", "sinfo")
        }
        if name == "lumi":
            self._commands |= {"lumi-allocations": self._lumi_allocations, "lumi-workspaces": self._workspaces}
        else:
            self._commands |= {
                "seff": self._of_slurm("seff"),
                "csc-projects": self._csc_projects,
                "csc-workspaces": self._workspaces,
            }
        self._offer()
        call = folder / "site.sock"
        environment = {
            "HOME": str(home),
            "USER": slurm.USER,
            "PATH": f"{self._bin}:/usr/local/bin:/usr/bin:/bin",
            "RAYSLURM_PRACTICE": str(call),
        }
        self.ssh = SshServer(Host(slurm.USER, key, home, environment, {_PROJECT_FILES: self._files}))
        self._calls = _Calls(call, self._answer)
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._calls.serve_forever, name=f"practice-{name}", daemon=True),
            threading.Thread(target=self._live, name=f"practice-life-{name}", daemon=True),
        ]

    def start(self) -> None:
        """Lets people log in, and lets its jobs live."""
        self._write_balances()
        for thread in self._threads:
            thread.start()
        self.ssh.start()

    def stop(self) -> None:
        """Ends everything."""
        self._stopping.set()
        self.ssh.stop()
        self._calls.shutdown()
        self._calls.server_close()
        self._threads[1].join(5)
        for endpoint in [one for ray in self._rays.values() for one in ray]:
            endpoint.stop()

    def recently_used(self, seconds: float) -> dict[str, set[float]]:
        """Returns what it told of the project's use within so many seconds, by kind."""
        since = time.time() - seconds
        with self._lock:
            told = [used for at, used in self._told if at >= since]
        return {kind: {used[kind] for used in told} for kind in ("cpu", "gpu")}

    def tunnel_states(self, job_id: int, since: float, until: float) -> set[str]:
        """Returns how a job's tunnel was at some moment from `since` until `until`, epoch seconds.

        What changes counts as changed a moment before it does.
        """
        with self._lock:
            changes = [(at, state) for at, state in self._tunnels.get(job_id, ()) if at <= until]
        before = ["refused", *(state for at, state in changes if at <= since)]
        return {before[-1], *(state for at, state in changes if at > since)}

    def break_command(self, name: str, said: Said) -> None:
        """Has a command of the login node say something else, until it is mended."""
        with self._lock:
            self._saying[name] = said

    def mend_command(self, name: str) -> None:
        """Lets a command of the login node say what it should."""
        with self._lock:
            self._saying.pop(name, None)

    def break_tunnel(self, job_id: int, state: str = "refused") -> None:
        """Has a running job's tunnels `refused` or `target_down`, whatever they should be, until they are mended."""
        with self._lock:
            self._broken[job_id] = state

    def mend_tunnel(self, job_id: int) -> None:
        """Lets a job's tunnels be as they should be."""
        with self._lock:
            self._broken.pop(job_id, None)

    def _used(self) -> dict[str, float]:
        if self.name == "lumi":
            billing = json.loads(self._balances.read_text(encoding="utf-8"))["billing"]
            return {"cpu": billing["cpu_hours"]["used"], "gpu": billing["gpu_hours"]["used"]}
        spent = self.world.spent(time.time())
        return {kind.lower(): round(_ABOUT["csc"][kind][1] + spent[kind]) for kind in spent}

    def _of_slurm(self, command: str) -> Callable[[Called], Said]:
        run: Callable[[World, Called], Said] = getattr(slurm, command)
        return lambda called: run(self.world, called)

    def _offer(self) -> None:
        """Puts the login node's commands where its shell finds them."""
        shim = self._folder / "shim.py"
        shim.write_text(_SHIM, encoding="utf-8")
        for command in self._commands:
            path = self._bin / command
            path.write_text(f"#!/bin/sh\nexec '{sys.executable}' -S -E '{shim}' {command} \"$@\"\n", encoding="utf-8")
            path.chmod(0o755)

    def _answer(self, call: Mapping[str, Any]) -> Said:
        called = Called(call["arguments"], Path(call["folder"]), call["environment"])
        with self._lock:
            said = self._saying.get(call["name"])
        if said is not None:
            return said
        return self._commands[call["name"]](called)

    def _csc_projects(self, called: Called) -> Said:
        project = called.arguments[-1]
        if project != PROJECT:
            return "", f"csc-projects: {project}: you are not a member of it\n", 1
        now = datetime.now(ZONE)
        lines = prints.csc_projects(project, _ABOUT, self.world.spent(now.timestamp()), now)
        return "\n".join(lines) + "\n", "", 0

    def _lumi_allocations(self, called: Called) -> Said:
        project = called.arguments[-1]
        if project != PROJECT:
            return "", f"Error: You do not have permissions to access {project}\n", 0
        written = datetime.fromtimestamp(self._balances.stat().st_mtime, ZONE)
        billing = json.loads(self._balances.read_text(encoding="utf-8"))["billing"]
        return "\n".join(prints.lumi_allocations({project: billing}, written)) + "\n", "", 0

    def _workspaces(self, called: Called) -> Said:
        del called
        home = self._folder / "home"
        sizes = [Path(top, name).lstat().st_size for top, _, names in os.walk(home) for name in names]
        areas = [
            Area(f"/projappl/{PROJECT}", 24 * GIB, 36_000, _QUOTAS["projappl"]),
            Area(f"/scratch/{PROJECT}", 103 * GIB, 389_000, _QUOTAS["scratch"], "180d"),
        ]
        own = Area(f"/users/{slurm.USER}", sum(sizes), len(sizes), _QUOTAS["home"])
        return "\n".join(prints.workspaces(self.name, own, [(PROJECT, _ABOUT["title"], areas)])) + "\n", "", 0

    @property
    def _balances(self) -> Path:
        return self._files / PROJECT / f"{PROJECT}.json"

    def _write_balances(self) -> None:
        new = self._balances.with_suffix(".new")
        new.write_text(json.dumps(prints.lumi_billing(_ABOUT, self.world.spent(time.time()))), encoding="utf-8")
        new.replace(self._balances)

    def _live(self) -> None:
        """Starts and ends the Rays of its jobs, and writes balances anew."""
        while not self._stopping.wait(LOOK_SECONDS):
            now = time.time()
            for job in self.world.jobs():
                self._tend_tunnel(job, now)
                _print(job, now)
                supervisor.write(job, now, self._restarts(job.job_id))
            self._write_balances()
            with self._lock:
                self._told.append((now, self._used()))

    def _tend_tunnel(self, job: Job, now: float) -> None:
        """Makes a job's tunnel what it should be, where it isn't."""
        wanted = job.tunnel(now)
        with self._lock:
            if wanted != "refused":
                wanted = self._broken.get(job.job_id, wanted)
            changes = self._tunnels.setdefault(job.job_id, [(0.0, "refused")])
            if changes[-1][1] == wanted:
                return
            changes.append((time.time(), wanted))
        if wanted == "refused":
            for endpoint in self._rays.pop(job.job_id, ()):
                endpoint.stop()
            return
        try:
            if job.job_id not in self._rays:
                self._start_ray(job)
            for endpoint in self._rays[job.job_id]:
                endpoint.gone = wanted == "target_down"
        except OSError:  # something else has one of the ports: then this job's Ray can't be seen
            for endpoint in self._rays.pop(job.job_id, ()):
                endpoint.stop()
            with self._lock:
                changes.append((time.time(), "refused"))

    def _restarts(self, job_id: int) -> int:
        """Returns how often a job's tunnels came back."""
        with self._lock:
            states = [state for _, state in self._tunnels.get(job_id, ())]
        returns = sum(before == "refused" and after != "refused" for before, after in itertools.pairwise(states))
        return max(0, returns - 1)

    def _start_ray(self, job: Job) -> None:
        plan = json.loads((job.folder / "plan.json").read_text(encoding="utf-8"))
        token = (job.folder / "ray_auth_token").read_text(encoding="utf-8").strip()
        node = Node(plan["cpus_per_node"], job.gpus // job.nodes, job.memory // job.nodes, job.idle)
        session = f"session_{job.start}_{job.job_id}"
        opened = self._rays.setdefault(job.job_id, [])
        for tunnel in plan["tunnels"]:
            port = tunnel["vm_port"]
            if tunnel["name"] == "dashboard":
                opened.append(Dashboard(port, nodes=job.nodes, node=node, session=session, token=token))
            elif tunnel["name"].startswith("metrics-"):
                number = int(tunnel["name"].removeprefix("metrics-"))
                opened.append(NodeMetrics(port, node=node, session=session, number=number))


def _print(job: Job, now: float) -> None:
    """Writes what a job has printed to its file in the run folder."""
    if not job.ran(now):
        return
    lines = [
        f"practice site: job {job.job_id} began on {job.hosts}",
        "practice site: nothing of its spec is run here; how it goes and ends is made up",
    ]
    if job.end <= now:
        lines.append(f"practice site: it ended {job.fate}, exit code {job.exit_code}")
    text = "\n".join(lines) + "\n"
    path = job.folder / f"slurm-{job.job_id}.out"
    with suppress(OSError):  # its folder is gone
        if not path.exists() or path.stat().st_size != len(text):
            path.write_text(text, encoding="utf-8")


class _Calls(socketserver.ThreadingUnixStreamServer):
    """Takes the calls of the login node's commands."""

    daemon_threads = True

    def __init__(self, path: Path, answer: Callable[[Mapping[str, Any]], Said]) -> None:
        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self.wfile.write(json.dumps(answer(json.load(self.rfile))).encode())

        parent = os.open(path.parent, os.O_PATH)
        try:
            super().__init__(f"/proc/self/fd/{parent}/{path.name}", Handler)
        finally:
            os.close(parent)
