"""Jobs that are made to end: how they are launched, what is told of their end, and what they leave behind."""

from __future__ import annotations

import json
import shutil
import socket
import tarfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.lab.lab import COMPUTE, Lab
from tests.lab.serving import SITE, Rayslurm

NODES = (*COMPUTE, "l1", "l2")
UID = "20001"  # the researcher's
SEEN_AS = "/home/researcher/ends"  # what nodes call the folder of the jobs' programs

# What a user has on a node, told as JSON; run there as root.
_LOOK = r"""
import json, os, re, sys
uid = int(sys.argv[1])

def read(*path):
    with open(os.path.join(*path), errors="replace") as stream:
        return stream.read()

processes = []
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        owners = re.search(r"^Uid:(.*)", read("/proc", pid, "status"), re.M)[1].split()
        state = read("/proc", pid, "stat").rpartition(")")[2].split()[0]
        if str(uid) not in owners or state == "Z":
            continue
        places = read("/proc", pid, "cgroup") + "\0" + read("/proc", pid, "environ")
        arguments = read("/proc", pid, "cmdline").replace("\0", " ").strip()
    except OSError:
        continue  # it has ended
    job = re.search(r"/job_(\d+)", places) or re.search(r"\0SLURM_JOB_ID=(\d+)", places)
    processes.append({"pid": int(pid), "arguments": arguments, "job_id": job and job[1]})
sockets = [line.split() for name in ("tcp", "tcp6") for line in read("/proc/net", name).splitlines()[1:]]
ports = {int(words[1].rpartition(":")[2], 16) for words in sockets if words[3] == "0A" and int(words[7]) == uid}
files = [entry.path for folder in ["/dev/shm", *sys.argv[2:]] if os.path.isdir(folder)
         for entry in os.scandir(folder) if entry.stat(follow_symlinks=False).st_uid == uid]
groups = [os.path.join(top, name) for top, names, _ in os.walk("/sys/fs/cgroup") for name in names
          if re.fullmatch(r"job_\d+", name)]
print(json.dumps({"processes": processes, "ports": sorted(ports), "files": files, "groups": groups}))
"""


@dataclass
class Job:
    """A job that `rayslurm launch` made.

    Attributes:
        name: of the spec.
        job_id: Slurm's.
        folder: its folder at the site, as this machine sees it.
        temp_dir: where Ray's temporary folder is on its nodes.
        dashboard_port: the port on the VM that its tunnel may take.
        facts: what was seen of it while it ran.
    """

    name: str
    job_id: str
    folder: Path
    temp_dir: str
    dashboard_port: int
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> dict[str, Any]:
        """What its supervisor has written last; empty before it has."""
        try:
            return dict(json.loads((self.folder / "status.json").read_text()))
        except FileNotFoundError:
            return {}

    @property
    def output(self) -> str:
        """What it has printed."""
        return "".join(path.read_text() for path in self.folder.glob("slurm-*.out"))

    def logs(self) -> dict[str, str]:
        """Returns the logs of its nodes and tunnels by their names; at the end they are in one file."""
        found = {path.name: path.read_text(errors="replace") for path in (self.folder / "logs").glob("*.log")}
        with suppress(FileNotFoundError), tarfile.open(self.folder / "logs.tar.gz") as packed:
            for name in filter(lambda name: name.endswith(".log"), packed.getnames()):
                stream = packed.extractfile(name)
                assert stream is not None
                found[name] = stream.read().decode(errors="replace")
        return found

    def starts(self) -> list[dict[str, Any]]:
        """Returns each start of a node: its name, attempt and ports."""
        lines = [line for text in self.logs().values() for line in text.splitlines()]
        told = [json.loads(line.partition(": ")[2]) for line in lines if line.startswith("rayslurm-node: ")]
        return [one for one in told if "ports" in one]


@dataclass(frozen=True)
class End:
    """How a job ended.

    Attributes:
        job: which.
        run: what `rayslurm status --json` says that its supervisor said; empty where that said nothing.
        row: its line in `rayslurm status`.
        slurm: its state and exit code in accounting.
        left: what there is of it afterwards.
    """

    job: Job
    run: Mapping[str, Any]
    row: str
    slurm: tuple[str, str]
    left: list[str]

    @property
    def reason(self) -> str:
        return str(self.run["reason"])


class Ends:
    """A site where jobs end, and the rayslurm that launches and follows them."""

    def __init__(self, lab: Lab, rayslurm: Rayslurm, ray: Path) -> None:
        self.lab, self.rayslurm, self.ray = lab, rayslurm, ray
        self.home = lab.researcher_home / "ends"
        shutil.rmtree(self.home, ignore_errors=True)  # of an earlier run in a lab that stays up
        self.home.mkdir()
        self.jobs: list[Job] = []
        self._one_launch = threading.Lock()

    def launch(self, name: str, *nodes: str, path: str | None = None, temp_dir: str = "/tmp", **keys: Any) -> Job:
        """Launches a cluster.

        Args:
            name: of the job.
            *nodes: where; the first becomes the head.
            path: where its programs are found; Ray's place before the usual ones.
            temp_dir: where Ray's temporary folder goes.
            **keys: more of the spec; `cluster` is joined with the usual one.
        """
        cluster = {
            "nodes": len(nodes),
            "cpus_per_node": 2,
            "memory_per_node": "1900M",
            "object_store_per_node": "100M",
            "time": "10m",
            "partition": "small" if nodes[0] in COMPUTE else "small-g",
            **keys.pop("cluster", {}),
        }
        spec = {
            "site": SITE,
            "name": name,
            "cluster": cluster,
            "environment": [f"export PATH={path or f'{self.ray}/bin:$PATH'} SCRATCH={temp_dir}"],
            "directives": [f"--nodelist={','.join(nodes)}"],
            **keys,
        }
        file = self.rayslurm.folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(spec))
        with self._one_launch:  # `serve` does one at a time; waiting here is no part of a command's deadline
            told = self.rayslurm.json("launch", str(file))
            assert told["state"] == "submitted", told
            folder = self.lab.researcher_home.parent / Path(told["run_dir"]).relative_to("/home")
            job = Job(name, told["job_id"], folder, temp_dir, told["dashboard_port"])
            self.jobs.append(job)
        return job

    def wait(self, job: Job, condition: Callable[[], object], what: str) -> None:
        """Waits for something while a job runs."""

        def come() -> object:
            assert "exit_code" not in job.status, f"{job.name} has ended before: {what}\n{job.output}"
            return condition()

        self.lab.wait(come, 150, f"{job.name}: {what}")

    def reach(self, job: Job, phase: str) -> None:
        """Waits until a job is in a phase."""
        self.wait(job, lambda: job.status.get("phase") == phase, f"phase {phase}")

    def queue(self) -> set[str]:
        """Returns the jobs that Slurm has not done with."""
        return set(self.lab.on("ctl", "squeue", "-h", "-o", "%A").stdout.split())

    def await_gone(self, job: Job) -> None:
        """Waits until Slurm has done with a job on all nodes."""
        self.lab.wait(lambda: job.job_id not in self.queue(), 150, f"the end of {job.name}", every=0.5)

    def await_end(self, job: Job) -> End:
        """Waits until Slurm has done with a job, looks at once what is left of it, and then what is told of it."""
        self.await_gone(job)
        left = self.left(job)
        told = self.lab.wait(lambda: self._told(job), 60, f"what is told of {job.name}", every=1)
        assert told is not None  # it is awaited
        told_of = f"{SITE}/{job.job_id} "  # and not of the 1/2 alive of another
        rows = [line for line in self.rayslurm.run("status").stdout.splitlines() if line.startswith(told_of)]
        (slurm,) = self.lab.sacct(job.job_id, ["state", "exitcode"], "-X")
        return End(job, told["run"], rows[0], (slurm["state"], slurm["exitcode"]), left)

    def _told(self, job: Job) -> dict[str, Any] | None:
        """Returns what `rayslurm status` tells of a job, when it is all that will ever be told."""
        jobs = {one["job_id"]: one for one in self.rayslurm.json("status")["jobs"]}
        told = dict(jobs[job.job_id])
        return told if told["final"] and told["run"] and told["run"]["settled"] else None

    def look(self, node: str, *folders: str) -> dict[str, Any]:
        """Returns what the researcher has on a node: processes, ports, files in folders; nothing where it is off."""

        def come() -> dict[str, Any] | None:
            done = self.lab.on(node, "/usr/bin/python3", "-c", _LOOK, UID, *folders, check=False)
            if done.returncode == 0:
                return dict(json.loads(done.stdout))
            if not self.lab.fact(f"PID_{node.upper()}"):
                return {"processes": [], "ports": [], "files": [], "groups": []}
            print(done.stderr)
            return None  # another scenario may be switching the node off

        found = self.lab.wait(come, 30, f"a look at {node}", every=0.5)
        assert found is not None  # it is awaited
        return found

    def left(self, job: Job) -> list[str]:
        """Returns what there is of an ended job anywhere.

        Slurm's own clearing up and the VM's sshd get some seconds; nothing else does.
        """
        found = []
        ports = {
            (one["name"], port)
            for one in job.starts()
            for name, port in one["ports"].items()
            if not name.endswith("_worker")  # the ends of a range from which workers choose
        }
        before = self.queue()
        for node in NODES:
            look = self.look(node, job.temp_dir)
            others = before | self.queue()
            found += [
                f"{node}: {one}"
                for one in look["processes"]
                if one["job_id"] not in others or f"rs-{job.job_id}/" in one["arguments"]
            ]
            found += [f"{node}: port {port}" for port in look["ports"] if (node, port) in ports]
            found += [
                f"{node}: {path}"
                for path in look["files"]
                if path.endswith(f"rs-{job.job_id}") or path.startswith("/dev/shm")
            ]
        until = time.monotonic() + 10
        while (late := self._leaving(job)) and time.monotonic() < until:
            time.sleep(0.2)
        return found + late

    def _leaving(self, job: Job) -> list[str]:
        # All nodes are in the one kernel.
        groups = [path for path in self.look("ctl")["groups"] if path.endswith(f"/job_{job.job_id}")]
        taken = False
        # Where the job is known to have ended, its port may be another's already.
        if not any(one is not job and one.dashboard_port == job.dashboard_port for one in self.jobs):
            with socket.socket() as tunnel:
                taken = tunnel.connect_ex(("127.0.0.1", job.dashboard_port)) == 0
        return groups + [f"the tunnel's port {job.dashboard_port}"] * taken
