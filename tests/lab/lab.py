"""The lab as tests see it: a real Slurm site and a cloud VM, made by the scripts beside this file."""

from __future__ import annotations

import ctypes
import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

HERE = Path(__file__).resolve().parent
CLONE_NEWNET = 0x40000000
COMPUTE = ("c1", "c2", "c3")

T = TypeVar("T")
Completed = subprocess.CompletedProcess[str]


def root() -> Path:
    """Where the lab lives, as the scripts see it."""
    return Path(os.environ.get("RAYSLURM_LAB") or "/var/tmp/rayslurm-lab")


def read_facts() -> dict[str, str]:
    """What `up` and `node` wrote down; nothing where there is no lab."""
    try:
        text = (root() / "run/lab.env").read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    return dict(line.split("=", 1) for line in text.splitlines())


def is_up() -> bool:
    """Is the process alive that holds the namespaces."""
    try:
        cmdline = Path("/proc", read_facts().get("LAB_PID") or "none", "cmdline").read_bytes()
    except OSError:
        return False
    return str(root() / "run/inside/fabric").encode() in cmdline.split(b"\0")


def why_not() -> str | None:
    """Why this machine cannot run the lab, or None where it can."""
    if os.geteuid() != 0:
        return "the lab needs root: it makes namespaces and control groups"
    if not Path("/etc/debian_version").exists():
        return "the lab needs Debian: it takes Slurm and MariaDB from there"
    return None


def script(name: str, *arguments: str, timeout: float = 120, check: bool = True) -> Completed:
    """Run one of the lab's scripts; a failure carries what it said."""
    done = subprocess.run(
        [str(HERE / name), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if check and done.returncode != 0:
        raise RuntimeError(f"{name} {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def _setns(file_descriptor: int) -> None:
    """Move this thread, and what it starts from now on, to another network namespace."""
    if ctypes.CDLL(None, use_errno=True).setns(file_descriptor, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "setns")


def _signal(pid: int, number: signal.Signals) -> None:
    """A session may end while we go through the list."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


@dataclass(frozen=True)
class LoggedCommand:
    """A command that a user ran on the login node.

    Attributes:
        time: when it began, epoch seconds.
        address: as which site the node was asked; `login` for none.
    """

    time: float
    address: str
    user: str
    program: str
    arguments: tuple[str, ...]

    @classmethod
    def read(cls, line: str) -> LoggedCommand:
        """Reads a line of the log."""
        moment, address, user, rest = line.split(" ", 3)
        program, *arguments = shlex.split(rest)
        return cls(float(moment), address, user, program, tuple(arguments))


@dataclass
class Lab:
    """A lab that is up. While joined, this process sits in the cloud VM's network: its loopback is the VM's."""

    _home: int | None = field(default=None, init=False, repr=False)

    # --- where things are -------------------------------------------------------------------------------------------
    def fact(self, key: str) -> str:
        """One value of lab.env. Read anew each time: a node that was switched on again has another pid."""
        return read_facts()[key]

    def path(self, key: str) -> Path:
        """A fact that is a path of this machine."""
        return Path(self.fact(key))

    def address(self, node: str) -> str:
        return self.fact(f"ADDR_{node.upper()}")

    def pid(self, node: str) -> int:
        """The node's first process, by its number on this machine."""
        return int(self.fact(f"PID_{node.upper()}"))

    @property
    def client_key(self) -> Path:
        return self.path("KEY_CLIENT")

    @property
    def certified_key(self) -> Path:
        """Opens login only together with `certificate`, which lies beside it."""
        return self.path("KEY_CERT")

    @property
    def certificate(self) -> Path:
        return self.path("CERT")

    @property
    def known_hosts(self) -> Path:
        return self.path("KNOWN_HOSTS")

    @property
    def ssh_config(self) -> Path:
        return self.path("SSH_CONFIG")

    @property
    def researcher_home(self) -> Path:
        return self.path("HOME_RESEARCHER")

    @property
    def cloud_home(self) -> Path:
        """The home of cloudsvc, with the authorized_keys that jobs come in by."""
        return self.path("HOME_CLOUDSVC")

    @property
    def logs(self) -> Path:
        return self.path("LOGS")

    # --- the network ------------------------------------------------------------------------------------------------
    def join(self) -> None:
        """Enter the cloud VM's network. Call from the main thread, before the threads that shall be there too."""
        if self._home is None:
            self._home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        there = os.open(f"/proc/{self.pid('cloud')}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(there)
        finally:
            os.close(there)

    def leave(self) -> None:
        """Back to the network that this process came from."""
        if self._home is not None:
            _setns(self._home)
            os.close(self._home)
            self._home = None

    def cut(self) -> None:
        """Part site and world: packets between them vanish, kept connections included."""
        self.on("fabric", "nft", "add rule ip site cut drop")

    def mend(self) -> None:
        """The end of `cut`."""
        self.on("fabric", "nft", "flush chain ip site cut")

    # --- commands ---------------------------------------------------------------------------------------------------
    def sh(self, command: str, user: str = "researcher", *, timeout: float = 60, check: bool = False) -> Completed:
        """Run a command on the login node, over ssh; as `researcher@roihu` where it plays Roihu."""
        return script("as", user, command, timeout=timeout, check=check)

    def site_log(self) -> list[LoggedCommand]:
        """Every command that users ran on the login node, and every file that they read from it over SFTP."""
        text = (self.logs / "commands.log").read_text(encoding="utf-8")
        return [LoggedCommand.read(line) for line in text.splitlines()]

    @contextmanager
    def fault(self, command: str, kind: str) -> Iterator[None]:
        """Has a command of the login node answer wrongly meanwhile.

        `empty`, `half`, `huge` or `unknown-field`; or `late-start 2`, `late-reply 2`: so many seconds before it does
        what it should, or between that and its answer.
        """
        path = root() / "run/faults" / command
        path.write_text(kind)
        path.chmod(0o644)
        try:
            yield
        finally:
            path.unlink()

    def refresh_balances(self) -> None:
        """Write LUMI's files of the projects anew, as the site does about once an hour."""
        self.on("login", "/srv/lab/run/inside/site/refresh-balances")

    def change_projects(self, change: Callable[[dict[str, Any]], object]) -> None:
        """Change what the site knows of its projects: budgets and quotas; see projects.json."""
        path = root() / "run/projects.json"
        known = json.loads(path.read_text())
        change(known)
        path.write_text(json.dumps(known))

    def on(self, node: str, *command: str, timeout: float = 60, check: bool = True) -> Completed:
        """Run a command as root on a node, or on the "fabric" between them."""
        return script("on", node, *command, timeout=timeout, check=check)

    def sbatch(self, *options: str, wrap: str, user: str = "researcher") -> str:
        """Submit one command line as a job; its id. Output goes to out-%j in the home directory."""
        quoted = wrap.replace("'", "'\\''")
        done = self.sh(f"sbatch --parsable -o out-%j {' '.join(options)} --wrap '{quoted}'", user, check=True)
        return done.stdout.strip().split(";")[0]

    def sacct(
        self, job_ids: str | Iterable[str], fields: Iterable[str], *options: str, user: str = "researcher"
    ) -> list[dict[str, str]]:
        """What accounting says about jobs, one mapping a line; `-X` among the options leaves the steps out."""
        ids = job_ids if isinstance(job_ids, str) else ",".join(job_ids)
        names = list(fields)
        done = self.sh(
            f"SLURM_TIME_FORMAT=%s LC_ALL=C sacct -nP {' '.join(options)} -j {ids} -o {','.join(names)}",
            user,
            check=True,
        )
        return [dict(zip(names, line.split("|"), strict=True)) for line in done.stdout.splitlines()]

    def state(self, job_id: str) -> str:
        """A job's state in accounting; empty where it is not known yet."""
        rows = self.sacct(job_id, ["state"], "-X")
        return rows[0]["state"] if rows else ""

    def wait(self, predicate: Callable[[], T], timeout: float, what: str, *, every: float = 0.2) -> T:
        """Ask until the answer is true, and hand it out; say what was waited for when it never is."""
        end = time.monotonic() + timeout
        while not (answer := predicate()):
            if time.monotonic() > end:
                raise TimeoutError(f"{what}: not within {timeout:g} s (last answer: {answer!r})")
            time.sleep(every)
        return answer

    # --- power and daemons ------------------------------------------------------------------------------------------
    def kill_node(self, node: str) -> None:
        """Cut a node's power."""
        script("node", "kill", node)

    def start_node(self, node: str, timeout: float = 60) -> None:
        """Switch a node on. A compute node is waited for until Slurm would use it again."""
        joined = self._home is not None
        script("node", "start", node)
        if node == "cloud" and joined:
            self.join()  # the old network went with the old machine
        if node in COMPUTE:
            usable = ("idle", "mixed", "allocated")
            self.wait(lambda: self.node_state(node) in usable, timeout, f"{node} in service")

    def node_state(self, node: str) -> str:
        """What Slurm thinks of a compute node."""
        return self.on("ctl", "sinfo", "-h", "-p", "small", "-n", node, "-o", "%T", check=False).stdout.strip()

    def service(self, node: str, action: str, name: str) -> None:
        """Start, stop or restart one daemon of a node: munged mariadbd slurmdbd slurmctld slurmd sshd."""
        self.on(node, "/srv/lab/run/inside/service", action, name)

    def sshd_pids(self, node: str = "login") -> list[int]:
        """All sshd of a node, listener and sessions, by their numbers on this machine."""
        namespace = Path(f"/proc/{self.pid(node)}/ns/pid").readlink()
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if (
                    entry.name.isdigit()
                    and (entry / "comm").read_text() == "sshd\n"
                    and (entry / "ns/pid").readlink() == namespace
                ):
                    found.append(int(entry.name))
            except (FileNotFoundError, ProcessLookupError):
                continue  # ended while we looked
        return sorted(found)

    @contextmanager
    def silent_sshd(self, node: str = "login") -> Iterator[None]:
        """Stops every sshd of a node meanwhile, listener and sessions; packets still arrive, answers do not."""
        try:
            for pid in self.sshd_pids(node):
                _signal(pid, signal.SIGSTOP)
            yield
        finally:
            for pid in self.sshd_pids(node):
                _signal(pid, signal.SIGCONT)

    def sshd_log(self, node: str = "login") -> str:
        """What sshd of login (or cloud) logged since `up`: each connection, each key, each session."""
        return (self.logs / f"sshd_{node}.log").read_text(encoding="utf-8")

    def ray(self, *version: str) -> Path:
        """The venv with Ray that all nodes see under this path; built on the first call. `2.47` is another one."""
        joined = self._home is not None
        self.leave()  # pip needs the world
        try:
            return Path(script("ray-venv", *version, timeout=900).stdout.strip())
        finally:
            if joined:
                self.join()
