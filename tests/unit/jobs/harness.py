"""A job without Slurm: its folder, the programs it finds on PATH, and what became of it.

`fake/` holds srun, scontrol, ray, ssh and hostname as far as the supervisor uses them. They are real processes, on this
one machine; only the addresses that they name are made up.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[3]
SUPERVISOR = ROOT / "jobs" / "ray_job.py"
FAKES = Path(__file__).parent / "fake"
SECRET = "5ecret" * 8

# Names that stand for loopback, as a host's own name often does in /etc/hosts, and that need no name server.
NODES = ["127.0.1.1", "127.0.1.2", "127.0.1.3"]
ADDRESSES = ["10.9.0.1", "10.9.0.2", "10.9.0.3"]


def load_supervisor() -> ModuleType:
    """Imports jobs/ray_job.py, which is in no package."""
    spec = importlib.util.spec_from_file_location("ray_job", SUPERVISOR)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def plan(nodes: int = 1, **changes: Any) -> dict[str, Any]:
    """A plan as the launcher writes it; `ray` is changed key by key."""
    whole: dict[str, Any] = {
        "version": 1,
        "token": "k3j2h1g4f5d6",
        "job_name": "demo",
        "nodes": nodes,
        "cpus_per_node": 2,
        "gpus_per_node": 0,
        "memory_bytes_per_node": 3_145_728_000,
        "object_store_bytes_per_node": 200_000_000,
        "ray": {
            "command": "ray",
            "temp_dir": "/tmp",
            "allow_unauthenticated": False,
            "auth_token_file": "ray_auth_token",
            "ready_timeout_seconds": 20,
            "env": {},
        },
        "entrypoint": None,
        "vm": None,
        "tunnels": [],
    }
    whole["ray"].update(changes.pop("ray", {}))
    whole.update(changes)
    return whole


VM = {"host": "192.0.2.10", "port": 22, "user": "tunnel", "identity_file": "/keys/id_vm", "known_hosts": "known_hosts"}
DASHBOARD = {"name": "dashboard", "vm_port": 8100, "bind": "127.0.0.1", "target": "dashboard"}


def pythons() -> list[str]:
    """Every Python from 3.6 on that there is here: on PATH, and where pyenv keeps them."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    found = {}
    for minor in range(6, 15):
        kept = pyenv.glob(f"3.{minor}.*/bin/python") if os.access(pyenv, os.R_OK) else ()
        for path in [shutil.which(f"python3.{minor}"), *map(str, kept)]:
            if path and subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0:
                found[f"3.{minor}"] = path
    return list(found.values())


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 20) -> Any:
    """Waits for something to be true and returns it."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"not in {seconds} s: {what}")


class Job:
    """One run of the supervisor."""

    def __init__(self, folder: Path, temp_dir: Path) -> None:
        self.folder = folder / "run"
        self.fake = folder / "fake"
        self.temp_dir = temp_dir
        self.id = str(random.randrange(1, 10**6))
        self.process: subprocess.Popen[bytes] | None = None
        self.folder.mkdir()
        self.fake.mkdir()
        shutil.copy(SUPERVISOR, self.folder)
        (self.folder / "known_hosts").write_text("192.0.2.10 ssh-ed25519 AAAA\n")
        self.secret = self.folder / "ray_auth_token"
        self.secret.write_text(SECRET)
        self.secret.chmod(0o600)

    def wrong(self, name: str, content: str = "") -> None:
        """Tells a fake what to do wrong."""
        (self.fake / name).write_text(content)

    def start(
        self,
        nodes: int = 1,
        *,
        python: str = sys.executable,
        listed: int | None = None,
        env: dict[str, str] | None = None,
        **changes: Any,
    ) -> None:
        """Writes the plan and starts the supervisor, as the batch script does. `listed`: how many nodes Slurm names."""
        changes["ray"] = {"temp_dir": str(self.temp_dir), **changes.get("ray", {})}
        (self.folder / "plan.json").write_text(json.dumps(plan(nodes, **changes)))
        whole_env = {
            "PATH": f"{FAKES}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "FAKE": str(self.fake),
            "SLURM_JOB_ID": self.id,
            "SLURM_JOB_NODELIST": ",".join(NODES[: listed or nodes]),
            "SLURMD_NODENAME": NODES[0],
            "RAY_ADDRESS": "somewhere.else:6379",
            "RAY_AUTH_TOKEN": "not-this-one",
            **(env or {}),
        }
        with (self.folder / "slurm.out").open("wb") as log:
            self.process = subprocess.Popen(
                [python, "ray_job.py"], cwd=self.folder, env=whole_env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def send(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def end(self, seconds: float = 30) -> int:
        """Waits for the end and returns the exit status. The log is printed, for pytest to show where a test fails."""
        assert self.process is not None
        code = self.process.wait(seconds)
        print(self.log)
        return code

    def run(self, nodes: int = 1, **changes: Any) -> int:
        self.start(nodes, **changes)
        return self.end()

    def reach(self, phase: str) -> None:
        """Waits until the job is in a phase."""

        def there() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.log
            return self.status.get("phase") == phase

        wait_until(there, f"phase {phase}")

    @property
    def log(self) -> str:
        return (self.folder / "slurm.out").read_text()

    @property
    def status(self) -> dict[str, Any]:
        return self._json("status.json")

    @property
    def ready(self) -> dict[str, Any]:
        return self._json("ready.json")

    @property
    def summary(self) -> dict[str, Any]:
        return self._json("summary.json")

    def packed(self) -> dict[str, str]:
        """The job's logs by name, as they were packed at its end."""
        with tarfile.open(self.folder / "logs.tar.gz") as archive:
            return {
                member.name: stream.read().decode(errors="replace")
                for member in archive
                if (stream := archive.extractfile(member)) is not None
            }

    def _json(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def starts(self) -> list[dict[str, Any]]:
        """What `ray start` was told, time by time."""
        return [json.loads(line) for line in (self.fake / "ray-starts").read_text().splitlines()]

    def lines(self, name: str) -> list[str]:
        """What a fake has noted."""
        path = self.fake / name
        return path.read_text().splitlines() if path.exists() else []

    def processes(self) -> dict[int, str]:
        """The processes that this job has started, by anything below it, and that run."""
        mark = f"FAKE={self.fake}".encode()
        found = {}
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
        return found

    def clear(self) -> None:
        """Ends whatever a failed test has left."""
        for process_id in self.processes():
            try:
                os.kill(process_id, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if self.process is not None:
            self.process.kill()
            self.process.wait()
