#!/usr/bin/env python3
"""Runs one Ray cluster inside a Slurm job and ends with it.

This file travels alone: it is copied to the job's folder next to `plan.json` and started by the batch script with
whatever `python3` the site has. Hence one file, the standard library only, and nothing newer than Python 3.6.

    ray_job.py [PLAN]           the supervisor: the batch script becomes it, on the first node of the job
    ray_job.py --node NAME ...  one node: the supervisor starts it with `srun` on every node, it starts `ray start`

The supervisor starts the head and then the workers, asks Ray until every node is alive, writes `ready.json`, keeps the
reverse tunnels up and runs the entrypoint if there is one. It logs to standard output and keeps `status.json`, which it
writes anew once a minute at least. At the end it writes `summary.json` and packs its logs and Ray's into one file.

Exit status:
    the entrypoint's own (128 + n where signal n ended it), where there is one and it ended
    0      a cluster without entrypoint, ended by USR1 (the warning before the time limit)
    64     the plan or the surroundings are not usable; nothing was started
    69     the cluster did not come up; the reason and the last lines of the log are printed
    70     the head ended while the cluster was in use
    75     the time limit came before the entrypoint ended, or before the cluster was ready
    77     refused: this Ray has no token authentication, or the token file is open to others
    130, 143  ended by INT or TERM
    1      a fault in this program
"""

import argparse
import collections
import contextlib
import glob
import http.client
import ipaddress
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
from types import SimpleNamespace
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Set, Tuple

PLAN_VERSION = 1
EXIT_UNUSABLE, EXIT_START, EXIT_HEAD, EXIT_LIMIT, EXIT_REFUSED = 64, 69, 70, 75, 77
TICK = 0.25  # seconds between two looks at the children
POLL = 0.5  # seconds between two questions to Ray while it comes up
QUICK_END = 3.5  # seconds for all to end after TERM: Slurm kills what is left after KillWait, maybe as little as 5
STEP_END = 12.0  # seconds for the workers, and then for the head, to end where there is time
HEARTBEAT = 60.0  # seconds between two writes of status.json at most
SAMPLE = 5.0  # seconds between two looks at what the processes of a node use
FIRST_LISTENERS, NEXT_LISTENERS = 5.0, 300.0  # seconds until the first look at who listens, and between two at most
PACK, QUICK_PACK = 4.0, 1.0  # seconds for packing Ray's logs of a node; where Slurm ends the job
TUNNEL_END = 2.0
START_ATTEMPTS = 3  # how often a node is started when somebody takes one of its ports in between
START_WATCH = 120.0  # seconds after its start in which a node looks whether that has happened
SYSTEM_LOGS = (
    *("gcs_server.err", "raylet.err", "dashboard_agent.log", "dashboard_agent.err", "runtime_env_agent.err"),
    "ray_client_server.err",
)
PORT_TAKEN = re.compile(r"(?i)address already in use|port \S+ (is )?(already )?(in use|taken)|failed to bind")
FIRST_TOKEN_VERSION, SAFE_TOKEN_VERSION = (2, 52), (2, 54)
# Frames of a stack, Ray's dump of its state, what srun says of every end, and what nodes tell the supervisor.
SAYS_NOTHING = re.compile(
    r"\[0x[0-9a-f]+\]|\*\*\* StackTrace|^\[state-dump\]|^rayslurm-node: |^srun: launch/slurm: |^srun: Job step aborted"
    r"|^srun: error: \S+: task \S+: (Exited|Terminated|Killed)|^slurmstepd\S*: error: \*\*\* STEP"
)
# What tells of a cause in a node's log, the most telling first: what Slurm says, a process of Ray's that ended, an
# exception, an error that Ray has logged.
CAUSES = (
    re.compile(r"(?m)^srun: error: (.*)"),
    re.compile(r"(?m)\sERR \S+ -- -+ END (\S+)\.(?:out|err) tail \((exit code).*?=(.*)\) -+$"),
    re.compile(r"(?m)^((?:\w+\.)*\w*(?:Error|Exception):(?: .*|\n.*))"),
    re.compile(r"(?m)^\[[^\]]* [EF] \d+ \d+\] (?:\(\w+\) )?\S+:\d+: (.*)"),
)
VERSIONS = re.compile(r"(?s)Version mismatch: .*?Ray: (\S+)\s+Python: (\S+).*?Ray: (\S+)\s+Python: (\S+)")
SESSION_SOCKET = "/r/session_2000-01-01_00-00-00_000000_0000000/sockets/plasma_store.00"
SOCKET_PATH_LIMIT = 107
NODE_LINE = "rayslurm-node: "  # before what a node tells the supervisor, in its log
MIB = 1024 * 1024
LEAST_ROOM = 32 * MIB  # free bytes in the temporary folder without which Ray is not started: it waits for minutes then
FULLEST = 0.95  # part of its disk in use above which Ray writes no objects there
LOG_LIMIT = 16 * MIB  # a log that is longer begins anew; the one before it is kept
RAY_LOG_TAIL, RAY_LOGS = MIB, 64 * MIB  # what is kept of each of Ray's own logs, and of all those of a node
RESULTS, RESULTS_BYTES, RESULTS_SECONDS = 1000, 128 * 1024, 10.0  # what is listed of results at most
LISTENERS, LISTENER_PORTS, ALL_LISTENERS = 10, 10, 100  # what is told of open listeners at most: a node, each, a job
FIRST_PORT, LAST_PORT = 10000, 65535
SLOT = 1000  # ports that a job keeps to: the first for Ray itself, the rest for its workers
NODE_PORTS = {
    "metrics": "--metrics-export-port",
    "node_manager": "--node-manager-port",
    "object_manager": "--object-manager-port",
    "runtime_env_agent": "--runtime-env-agent-port",
    "dashboard_agent": "--dashboard-agent-listen-port",
    "dashboard_agent_grpc": "--dashboard-agent-grpc-port",
    "min_worker": "--min-worker-port",
    "max_worker": "--max-worker-port",
}
HEAD_PORTS = {"gcs": "--port", "dashboard": "--dashboard-port", "client": "--ray-client-server-port"}
VARIABLE_PORTS = {"autoscaler_metrics": "AUTOSCALER_METRIC_PORT", "dashboard_metrics": "DASHBOARD_METRIC_PORT"}
FIGURES = ("metrics", *VARIABLE_PORTS)  # these tell names and numbers to everybody, by Ray's design
LIBC: Any = None
with contextlib.suppress(ImportError, OSError):
    import ctypes

    LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


OUTCOMES = {
    EXIT_UNUSABLE: "unusable",
    EXIT_START: "start_failed",
    EXIT_HEAD: "head_lost",
    EXIT_LIMIT: "limit",
    EXIT_REFUSED: "refused",
}


class End(Exception):  # noqa: N818 - it is no error: every job ends with one
    """The job ends: with an exit status, for a reason, and in one word how.

    The word is `succeeded`, `failed` (the entrypoint), `limit`, `terminated` (by INT or TERM), `head_lost`,
    `start_failed`, `refused`, `unusable` or `fault`.
    """

    def __init__(self, code: int, reason: str, outcome: Optional[str] = None) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason
        self.outcome = outcome or OUTCOMES[code]
        self.failed = self.outcome not in ("succeeded", "terminated") and code != 0


def put(text: str) -> None:
    """Writes a line to standard output: at once, in any locale, and where its disk is full, not at all."""
    with contextlib.suppress(OSError):
        os.write(1, (text + "\n").encode("utf-8", "backslashreplace"))


def say(text: str) -> None:
    """Writes a line to the job's log."""
    put(time.strftime("%Y-%m-%dT%H:%M:%SZ ", time.gmtime()) + text)


def tell(record: Dict[str, Any]) -> None:
    """Tells the supervisor something, in a node's log."""
    put(NODE_LINE + json.dumps(record))


def write_json(path: str, content: Dict[str, Any]) -> None:
    """Writes a file that is there whole or not at all."""
    with open(path + ".part", "w") as stream:
        json.dump(content, stream, indent=1, sort_keys=True)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(path + ".part", path)


def last_lines(path: str, count: int = 25) -> str:
    """Returns the end of a log, without what says nothing, or why there is none."""
    try:
        with open(path, "rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - 65536))
            text = stream.read().decode("utf-8", "replace")
    except OSError as error:
        return f"(no log: {error})"
    lines = [line.rstrip()[:500] for line in text.splitlines() if not SAYS_NOTHING.search(line)]
    lines = [line for number, line in enumerate(lines) if line not in lines[max(0, number - 1) : number]]
    return "\n".join(lines[-count:]).strip("\n") or "(empty log)"


def cause(path: str) -> str:
    """Returns what a node's log names as the cause of its end, in one line; nothing where it names none."""
    log = last_lines(path, 300)
    versions = VERSIONS.search(log)
    if versions:
        return "it has Ray {2} and Python {3}, the head has Ray {0} and Python {1}".format(*versions.groups())
    for pattern in CAUSES:
        found = list(pattern.finditer(log))
        if found:
            return " ".join(" ".join(found[-1].groups()).split())[:300].rstrip(" .")
    return ""


def output(argv: List[str], env: Optional[Dict[str, str]] = None) -> str:
    """Returns what a command prints; one that fails ends the job."""
    try:
        done = subprocess.check_output(argv, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=300, env=env)
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode("utf-8", "replace").strip()
        ours = [line[len("rayslurm: ") :] for line in said.splitlines() if line.startswith("rayslurm: ")]
        raise End(EXIT_UNUSABLE, "\n".join([*ours, f"{error} {said}"])) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise End(EXIT_UNUSABLE, f"{argv[0]} could not be run: {error}") from error
    return str(done.decode("utf-8", "replace"))


# --- the plan: name -> type, value where it is null or missing (MUST: none), least number or pattern ------------------

Fields = Dict[str, Tuple[Any, Any, Any]]
MUST: Any = object()
ANY = r"[^\0]*"
PLAN: Fields = {
    "version": (int, MUST, 1),
    "token": (str, MUST, r"[A-Za-z0-9]+"),
    "job_name": (str, MUST, ANY),
    "nodes": (int, MUST, 1),
    "cpus_per_node": (int, MUST, 1),
    "gpus_per_node": (int, 0, 0),
    "memory_bytes_per_node": (int, MUST, 1024 * MIB),
    "object_store_bytes_per_node": (int, None, 80 * MIB),
    "ray": (dict, MUST, None),
    "entrypoint": (str, None, ANY),
    "container": (str, "", ANY),  # the words before a command that run it in the container; `ray.command` has them too
    "work_dir": (str, "work", r".+"),  # where the entrypoint runs
    "results": (list, [], None),  # patterns of files below it that are listed in the summary
    "continuation": (int, 0, 0),  # how many jobs ran before this one for the same thing
    "grace_seconds": (float, 20.0, 0),  # for the entrypoint to end in, after TERM
    "vm": (dict, None, None),
    "tunnels": (list, [], None),
}
RAY: Fields = {
    "command": (str, "ray", r".*\S.*"),
    "temp_dir": (str, "/tmp", r"[/$].*"),  # may name variables, such as $TMPDIR
    "allow_unauthenticated": (bool, False, None),
    "auth_token_file": (str, "ray_auth_token", r".+"),
    "ready_timeout_seconds": (float, 300.0, 1),
    "env": (dict, {}, None),
}
VM: Fields = {
    "host": (str, MUST, r"[A-Za-z0-9:._][A-Za-z0-9:._-]*"),
    "port": (int, 22, 1),
    "user": (str, MUST, r"[A-Za-z0-9._][A-Za-z0-9._-]*"),
    "identity_file": (str, MUST, r".+"),
    "known_hosts": (str, MUST, r"\S+"),
}
TUNNEL: Fields = {
    "name": (str, MUST, r"[A-Za-z0-9_][A-Za-z0-9_-]*"),
    "vm_port": (int, MUST, 1),
    "bind": (str, "127.0.0.1", r"[A-Za-z0-9.:*\[\]-]+"),
    "target": (str, MUST, r"dashboard|client|metrics(:\d+)?|[A-Za-z0-9._-]+:\d+"),  # metrics:N is the N-th node's
}


def checked(data: Any, fields: Fields, where: str = "") -> SimpleNamespace:
    """Returns the values of one object of the plan.

    Raises:
        ValueError: says which value is wrong.
    """
    if not isinstance(data, dict):
        raise ValueError(f"{where or 'the plan'} must be an object")  # noqa: TRY004 - one error for any fault
    values = {}
    for key, (kind, default, limit) in fields.items():
        value = values[key] = default if data.get(key) is None else data[key]
        if value is MUST:
            raise ValueError(f"{where}{key} is missing")
        if value is default:
            continue
        kinds = (int, float) if kind is float else (kind,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"{where}{key} must be {kind.__name__}, not {value!r}")
        if kind in (int, float) and (value < limit or (key.endswith("port") and value > LAST_PORT)):
            raise ValueError(f"{where}{key} cannot be {value!r}")
        if kind is str and not re.fullmatch(limit, str(value)):
            raise ValueError(f"{where}{key} is not usable: {value!r}")
    return SimpleNamespace(**values)


def read_plan(path: str) -> SimpleNamespace:
    """Reads the plan; files that it names are relative to it.

    Raises:
        ValueError: the plan cannot be read or is wrong; says where.
    """
    folder = os.path.dirname(os.path.abspath(path))
    try:
        with open(path) as stream:
            plan = checked(json.load(stream), PLAN)
    except OSError as error:
        raise ValueError(str(error)) from error
    if plan.version != PLAN_VERSION:
        raise ValueError(f"version is {plan.version}, this supervisor reads {PLAN_VERSION}")
    plan.ray = checked(plan.ray, RAY, "ray.")
    plan.ray.command, plan.container = shlex.split(plan.ray.command), shlex.split(plan.container)
    plan.work_dir = os.path.join(folder, plan.work_dir)
    for pattern in plan.results:
        if not isinstance(pattern, str) or os.path.isabs(pattern) or ".." in pattern.split("/"):
            raise ValueError(f"results: {pattern!r} is no pattern of files below the working folder")
    plan.ray.temp_dir = os.path.expandvars(plan.ray.temp_dir)
    plan.ray.auth_token_file = os.path.join(folder, plan.ray.auth_token_file)
    for name, value in plan.ray.env.items():
        if not isinstance(value, str) or name.startswith("RAY_AUTH_"):
            raise ValueError(f"ray.env.{name} must be a text, and none of Ray's own RAY_AUTH_*")
    check_tunnels(plan, folder)
    return plan


def check_tunnels(plan: SimpleNamespace, folder: str) -> None:
    """Reads where the tunnels of a plan come from and lead to.

    Raises:
        ValueError: says what is wrong.
    """
    if plan.vm is not None:
        plan.vm = checked(plan.vm, VM, "vm.")
        plan.vm.identity_file = os.path.join(folder, os.path.expanduser(plan.vm.identity_file))
        plan.vm.known_hosts = os.path.join(folder, plan.vm.known_hosts)
    plan.tunnels = [checked(item, TUNNEL, f"tunnels[{number}].") for number, item in enumerate(plan.tunnels)]
    if plan.tunnels and plan.vm is None:
        raise ValueError("vm is missing, and there are tunnels")
    if len({tunnel.name for tunnel in plan.tunnels}) < len(plan.tunnels):
        raise ValueError("tunnels: two have one name")
    for tunnel in plan.tunnels:
        if tunnel.target.startswith("metrics:") and int(tunnel.target[8:]) >= plan.nodes:
            raise ValueError(f"tunnels: {tunnel.name} leads to a node that the job does not have")


# --- processes --------------------------------------------------------------------------------------------------------


class Child:
    """A process group of our own, which is told to end when we end, however we end."""

    end_signal = signal.SIGTERM

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        env: Dict[str, str],
        log: Optional[str] = None,
        cwd: Optional[str] = None,
    ) -> None:
        self.name = name
        with contextlib.ExitStack() as stack:
            self.process = subprocess.Popen(
                # As bytes: an old Python in a plain locale could not encode what is no ASCII.
                [word.encode("utf-8", "surrogateescape") for word in argv],
                env={os.fsencode(key): value.encode("utf-8", "surrogateescape") for key, value in env.items()},
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=stack.enter_context(open(log, "ab")) if log else None,
                stderr=subprocess.STDOUT if log else None,
                start_new_session=True,
                preexec_fn=lambda: LIBC and LIBC.prctl(PR_SET_PDEATHSIG, self.end_signal),  # noqa: PLW1509 - no threads
            )

    def status(self) -> Optional[int]:
        """Returns the exit status as a shell has it, or None while the process runs."""
        code = self.process.poll()
        return 128 - code if code is not None and code < 0 else code

    def send(self, number: int) -> None:
        """Signals the group while its leader is there."""
        if self.status() is None:
            with contextlib.suppress(OSError):
                os.killpg(self.process.pid, number)


class Step(Child):
    """An `srun` of our own. TERM makes srun kill its step at once; USR2 it passes on, so that a node can clear up."""

    end_signal = signal.SIGUSR2


def note_signals() -> Set[int]:
    """Returns a set in which the signals stand that have come."""
    came: Set[int] = set()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda number, _frame: came.add(number))
    return came


def adopt_orphans() -> None:
    """Makes this process the parent of its descendants' orphans, so that none escapes `kill_descendants`."""
    if LIBC is not None:
        LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1)


def descendants(without: Sequence[int] = ()) -> Dict[int, List[str]]:
    """Returns the processes below this one that run, each with its fields of /proc/N/stat from the state on.

    Args:
        without: children which are left out, with all below them.
    """
    children = collections.defaultdict(list)
    told: Dict[int, List[str]] = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{entry}/stat", errors="replace") as stream:
            told[int(entry)] = stream.read().rpartition(")")[2].split()
            children[int(told[int(entry)][1])].append(int(entry))
    below = [process_id for process_id in children[os.getpid()] if process_id not in without]
    for process_id in below:
        below += children[process_id]
    return {process_id: told[process_id] for process_id in below if told[process_id][0] != "Z"}


def kill_descendants() -> None:
    """Kills whatever this process and its children left running."""
    until = time.monotonic() + 2
    while time.monotonic() < until:
        below = descendants()
        if not below:
            return
        for process_id in below:
            with contextlib.suppress(OSError):
                os.kill(process_id, signal.SIGKILL)
        time.sleep(0.05)


class Use:
    """What the processes below this one use at most, by /proc.

    Memory is what each has for itself, and once what they share: Ray's object store is in all of them.
    """

    def __init__(self) -> None:
        self.memory = 0
        self.cpus: Optional[float] = None  # it takes two looks
        self.before: Dict[Tuple[int, str], int] = {}
        self.at = 0.0
        self.told = (0, 0.0)

    def sample(self, now: float) -> None:
        """Looks once."""
        ticks: Dict[Tuple[int, str], int] = {}
        own = shared = 0
        for process_id, fields in descendants().items():
            ticks[process_id, fields[19]] = int(fields[11]) + int(fields[12])  # by start: numbers are used again
            with contextlib.suppress(OSError, ValueError), open(f"/proc/{process_id}/status") as stream:
                pages = {line.split()[0]: int(line.split()[1]) for line in stream if line.startswith("Rss")}
                own += pages.get("RssAnon:", 0)
                shared = max(shared, pages.get("RssShmem:", 0))
        self.memory = max(self.memory, (own + shared) * 1024)
        spent = sum(max(0, used - self.before.get(key, 0)) for key, used in ticks.items())
        if self.at and now > self.at:
            self.cpus = max(self.cpus or 0.0, spent / os.sysconf("SC_CLK_TCK") / (now - self.at))
        self.before, self.at = ticks, now

    def tell(self, attempt: int, *, last: bool = False) -> None:
        """Tells the supervisor, where it has grown by a tenth since it was last told, or at the end.

        Of what was looked at only once, before Ray was up, nothing is told: it would be far too little.
        """
        memory, cpus = self.told
        if self.cpus is not None and (last or self.memory > 1.1 * memory or self.cpus > 1.1 * cpus):
            self.told = (self.memory, self.cpus)
            use = {"attempt": attempt, "peak_memory_bytes": self.memory, "peak_cpus": round(self.cpus, 2)}
            tell(use)


def network_sockets(folder: str = "/proc/net") -> Dict[str, Tuple[str, int]]:
    """Returns who listens where other machines reach it: address and port by the socket's number, as /proc/net has it.

    The addresses are words of 32 bits, each in the byte order of the machine (the kernel's net/ipv4/tcp_ipv4.c).
    """
    found = {}
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError), open(os.path.join(folder, name)) as stream:
            for fields in map(str.split, itertools.islice(stream, 1, None)):
                if len(fields) < 10 or fields[3] != "0A":  # noqa: PLR2004 - TCP_LISTEN; the number is the tenth field
                    continue
                words, _, port = fields[1].partition(":")
                packed = [struct.pack("=I", int(words[at : at + 8], 16)) for at in range(0, len(words), 8)]
                address = ipaddress.ip_address(b"".join(packed))
                address = getattr(address, "ipv4_mapped", None) or address
                if not address.is_loopback:
                    found[fields[9]] = (str(address), int(port, 16))
    return found


def program_of(process_id: int) -> Tuple[str, bool]:
    """Returns what a process is called, and whether it is one of Ray's servers for clients, which choose their port.

    Nothing else of its command line: a secret could stand there.
    """
    with contextlib.suppress(OSError), open(f"/proc/{process_id}/comm", errors="replace") as stream:
        name = stream.read().strip()
        with open(f"/proc/{process_id}/cmdline", "rb") as words:
            return name, b"ray.util.client.server" in words.read()
    return "", False


class Listeners:
    """At what ports the processes below this one listen for the site's network, and ask for no token.

    Ray's own ports are closed where it has tokens. Those that tell figures alone are never named, nor are those of
    `srun`, which are Slurm's affair.
    """

    def __init__(self, ports: Dict[str, int], *, closed: bool) -> None:
        self.figures = {ports[name] for name in FIGURES if name in ports}
        self.rays = set(ports.values()) | set(range(ports.get("min_worker", 0), ports.get("max_worker", -1) + 1))
        self.closed = closed
        self.pause = FIRST_LISTENERS
        self.next = time.monotonic() + self.pause
        self.open: Optional[List[Dict[str, Any]]] = None  # not looked yet

    def look(self, now: float, without: Sequence[int] = ()) -> bool:
        """Looks where it is time, ever more rarely, but for some children; returns whether it is otherwise than before.

        Args:
            now: by the monotonic clock.
            without: children which are left out, with all below them.
        """
        if now < self.next:
            return False
        self.pause = min(2 * self.pause, NEXT_LISTENERS)
        self.next = now + self.pause
        before, self.open = self.open, self.found(without)
        return self.open != before

    def found(self, without: Sequence[int] = ()) -> List[Dict[str, Any]]:
        """Returns programs, each with an address and its ports there."""
        sockets = network_sockets()
        ports: Dict[Tuple[str, str], Set[int]] = collections.defaultdict(set)
        for process_id in descendants(without) if sockets else ():
            files = set()
            with contextlib.suppress(OSError):  # it has ended
                for name in os.listdir(f"/proc/{process_id}/fd"):
                    with contextlib.suppress(OSError):
                        files.add(os.readlink(f"/proc/{process_id}/fd/{name}"))
            here = [sockets[number] for number in sockets if f"socket:[{number}]" in files]
            program, serves_clients = program_of(process_id) if here else ("", False)
            for address, port in here:
                is_rays = port in self.rays or serves_clients
                if port not in self.figures and program != "srun" and not (is_rays and self.closed):
                    ports["Ray" if is_rays else program, address].add(port)
        rows = [
            {"program": program, "address": address, "ports": sorted(ports[program, address])[:LISTENER_PORTS]}
            for program, address in sorted(ports)
        ]
        return rows[:LISTENERS]


def for_hip(env: Dict[str, str]) -> Dict[str, str]:
    """Moves AMD's devices to the variable that Ray reads: with the other one set it does not start.

    Slurm sets it anew for each task, so this is done in each.
    """
    devices = env.pop("ROCR_VISIBLE_DEVICES", None)
    if devices is not None:
        env.setdefault("HIP_VISIBLE_DEVICES", devices)
    return env


# --- logs -------------------------------------------------------------------------------------------------------------


def pack(archive: str, paths: Sequence[str], root: str, *, seconds: float, tail: int = 0, limit: int = 0) -> bool:
    """Packs files into one; returns whether all are in it.

    Args:
        archive: where it goes; there whole or not at all.
        paths: what is packed, named by its place below `root`.
        root: the folder above them.
        seconds: how long it may take; what is not packed by then is left out.
        tail: how many bytes from the end of each are kept, and
        limit: of all; 0 for all of them.
    """
    until = time.monotonic() + seconds
    room = limit
    complete = True
    try:
        with tarfile.open(archive + ".part", "w:gz", compresslevel=1) as packed:
            for path in paths:
                with contextlib.suppress(FileNotFoundError), open(path, "rb") as stream:
                    facts = packed.gettarinfo(arcname=os.path.relpath(path, root), fileobj=stream)
                    if not facts.isreg():
                        continue
                    if tail and facts.size > tail:
                        stream.seek(facts.size - tail)
                        facts.size = tail
                    if time.monotonic() > until or (limit and facts.size > room):
                        complete = False
                        continue
                    room -= facts.size
                    packed.addfile(facts, stream)
        os.replace(archive + ".part", archive)
    except (OSError, tarfile.TarError) as error:
        say(f"{archive} could not be written: {error}")
        with contextlib.suppress(OSError):
            os.unlink(archive + ".part")
        return False
    return complete


def files_below(folder: str) -> List[str]:
    """Returns the files in a folder and those below it, without links."""
    found = (os.path.join(where, name) for where, _, names in os.walk(folder) for name in names)
    return sorted(path for path in found if not os.path.islink(path))


def named_files(root: str, patterns: Sequence[str], until: float) -> Iterator[str]:
    """Yields the files below a folder that match one of the patterns, or lie in a folder that does, once each.

    As a shell has it with `globstar`: `*` and `?` stay within a name, `**` crosses folders, none begins with a dot.

    Args:
        root: the folder.
        patterns: relative to it.
        until: when to give up, by the monotonic clock; an empty name says that there may be more.
    """
    seen: Set[str] = set()
    for pattern in patterns:
        parts = [part for part in pattern.split("/") if part not in ("", ".")]
        matches = re.compile("".join(map(part_regex, [*parts, "**"])), re.DOTALL).fullmatch
        plain = itertools.takewhile(lambda part: not re.search(r"[*?\[]", part), parts)
        start = os.path.join(root, *plain)
        for where, _, names in itertools.chain([(os.path.dirname(start), [], [start])], os.walk(start)):
            if time.monotonic() > until:
                yield ""
                return
            for path in (os.path.join(where, name) for name in names):
                name = os.path.relpath(path, root)
                if name not in seen and matches(name + "/") and os.path.isfile(path) and not os.path.islink(path):
                    seen.add(name)
                    yield name


def part_regex(part: str) -> str:
    """Returns a regular expression for one part of a pattern, with the slash after it."""
    if part == "**":
        return r"(?:(?!\.)[^/]+/)*"
    words = []
    for word in re.split(r"(\*|\?|\[!?[^\]]+\])", part):
        if word in ("*", "?"):
            words.append("[^/]*" if word == "*" else "[^/]")
        elif word.startswith("[") and word.endswith("]"):
            inside = re.sub(r"([\\\[&~|])", r"\\\1", word[1:-1])
            words.append("[^/" + inside[1:] + "]" if inside[0] == "!" else "[" + inside.replace("^", "\\^") + "]")
        else:
            words.append(re.escape(word))
    return (r"(?!\.)" if part[0] in "*?[" else "") + "".join(words) + "/"


def keep_short(path: str) -> bool:
    """Begins a log anew that has grown too long, and says whether; its writers append, so they go on at its new end."""
    with contextlib.suppress(OSError):
        if os.stat(path).st_size > LOG_LIMIT:
            shutil.copyfile(path, path + ".1")
            os.truncate(path, 0)
            return True
    return False


# --- one node ---------------------------------------------------------------------------------------------------------


def is_free(port: int, address: str = "") -> bool:
    """Says whether the address is ours and nobody listens on its port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do; connections that are over don't count then.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


def node_address(name: str) -> str:
    """Returns the IPv4 address at which the other nodes reach this one.

    It is what the node's name stands for, if that is an address of this node and not loopback (Debian's 127.0.1.1);
    otherwise the first that `hostname -I` names.
    """
    known: List[str] = []
    with contextlib.suppress(OSError):
        known = [str(item[4][0]) for item in socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)]
    for address in [one for one in known if is_free(0, one)] + output(["hostname", "-I"]).split():
        if ":" not in address and not address.startswith("127."):
            return address
    raise End(EXIT_START, f"{name} has no address that other nodes can reach (its name stands for {known})")


def pick_ports(offset: int, ephemeral: Tuple[int, int], free: Callable[[int], bool] = is_free) -> Dict[str, int]:
    """Picks ports out of the kernel's way.

    The room below the ephemeral range (above it, where there is none below) is cut into slots of a thousand ports. The
    job takes the slot that its number gives, so that two jobs on one node rarely meet, and the next where that is full.
    The first free ports of the slot are for Ray itself, the rest is for its workers, which look for themselves.

    Args:
        offset: what the choice hangs on: the job's number and the attempt.
        ephemeral: the first and the last port that the kernel hands out.
        free: says whether a port is free.

    Raises:
        End: no slot is free.
    """
    names = [name for name in [*HEAD_PORTS, *NODE_PORTS, *VARIABLE_PORTS] if not name.endswith("_worker")]
    slots: List[int] = []
    for low, high in ((FIRST_PORT, ephemeral[0] - 1), (ephemeral[1] + 1, LAST_PORT), (FIRST_PORT, LAST_PORT)):
        slots = slots or list(range(low, high - SLOT + 2, SLOT))
    for turn in range(len(slots)):
        first = slots[(offset + turn) % len(slots)]
        found = list(itertools.islice(filter(free, range(first, first + SLOT // 2)), len(names)))
        if len(found) == len(names):
            ports = dict(zip(names, found))  # noqa: B905 - Python 3.6 has no strict=
            return dict(ports, min_worker=found[-1] + 1, max_worker=first + SLOT - 1)
    raise End(EXIT_START, f"no free ports from {slots[0]} to {slots[-1] + SLOT - 1}")


def split_memory(total: int, object_store: Optional[int], shm: str = "/dev/shm") -> Tuple[int, int]:
    """Splits a node's memory into what Ray's workers and what its object store may use.

    Ray's own processes keep a tenth of it, between 256 MiB and 4 GiB. The store gets 30 % and no more than fits into
    /dev/shm, unless the plan says how much.
    """
    room = os.statvfs(shm)
    store = object_store or max(80 * MIB, min(total * 3 // 10, room.f_bavail * room.f_frsize * 9 // 10))
    own = min(max(total // 10, 256 * MIB), 4096 * MIB)
    if total - store - own < 64 * MIB:
        told = f"{store // MIB} go to the object store and {own // MIB} to Ray itself"
        raise End(EXIT_START, f"{total // MIB} MiB of memory a node are too few: {told}")
    return total - store - own, store


def session_dir(temp_dir: str, job_id: str) -> str:
    """Returns the folder of this job below the site's temporary folder.

    Raises:
        End: the path is not absolute, or too long for Ray's sockets.
    """
    path = os.path.join(temp_dir, "rs-" + job_id)
    if not os.path.isabs(path) or "$" in path:
        raise End(EXIT_UNUSABLE, f"ray.temp_dir is not an absolute path: {temp_dir!r}")
    excess = len(os.fsencode(path + SESSION_SOCKET)) - SOCKET_PATH_LIMIT
    if excess > 0:
        raise End(EXIT_UNUSABLE, f"ray.temp_dir is {excess} bytes too long for the paths of sockets: {temp_dir!r}")
    return path


def make_session_dir(folder: str) -> None:
    """Makes the folder for Ray's session.

    Ray opens its own folders to everybody; below one that is ours alone nobody gets there.

    Raises:
        End: it cannot be made or written to, is somebody else's, or its disk is full.
    """
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o700)
        found = os.lstat(folder)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise End(EXIT_START, f"{folder} is there and is not ours")
        os.chmod(folder, 0o700)
        free, total = room(folder)
        if free < LEAST_ROOM:
            told = f"its disk is full, {free // MIB} of {total // MIB} MiB are free and Ray needs {LEAST_ROOM // MIB}"
            raise OSError(told)
        with tempfile.TemporaryFile(dir=folder) as stream:  # a quota is not told, it is felt
            stream.write(bytes(MIB))
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        told = f"the temporary folder {folder} cannot be used: {error}"
        raise End(EXIT_START, told + "; make room there, or set another temp_dir") from error


def room(folder: str) -> Tuple[int, int]:
    """Returns how many bytes are free on a folder's disk, and how many there are."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize


class Disk:
    """The disk of Ray's temporary folder. It is told once when it has become too full for Ray's objects."""

    def __init__(self, folder: str, attempt: int) -> None:
        self.folder, self.attempt, self.told = folder, attempt, False

    def look(self) -> None:
        """Looks once."""
        try:
            free, total = room(self.folder)
        except OSError:
            return
        if not self.told and free < (1 - FULLEST) * total:
            self.told = True
            full = f"the disk of {self.folder} was too full for Ray: {free // MIB} of {total // MIB} MiB free"
            say(full)
            tell({"attempt": self.attempt, "full": full})


class Watch:
    """What is looked at on a node while Ray runs there: its disk, what it uses, and who listens."""

    def __init__(self, folder: str, ports: Dict[str, int], attempt: int) -> None:
        self.attempt = attempt
        self.disk, self.use = Disk(folder, attempt), Use()
        self.listeners = Listeners(ports, closed=os.environ.get("RAY_AUTH_MODE") == "token")

    def look(self) -> None:
        """Looks at what it is time for, and tells the supervisor what is new."""
        now = time.monotonic()
        if now >= self.use.at + SAMPLE:
            self.disk.look()
            self.use.sample(now)
            self.use.tell(self.attempt)
        if self.listeners.look(now):
            tell({"attempt": self.attempt, "open": self.listeners.open})

    def end(self) -> None:
        """Looks and tells for the last time."""
        self.disk.look()
        self.use.tell(self.attempt, last=True)


def ray_start(plan: SimpleNamespace, ip: str, head: Optional[str], ports: Dict[str, int], temp: str) -> List[str]:
    """Returns the command that starts Ray on this node. `head` is the address of the head, None on the head itself."""
    memory, store = split_memory(plan.memory_bytes_per_node, plan.object_store_bytes_per_node)
    argv = [*plan.ray.command, "start", "--block", "--disable-usage-stats", "--log-color=false"]
    argv += [f"--node-ip-address={ip}", f"--num-cpus={plan.cpus_per_node}", f"--num-gpus={plan.gpus_per_node}"]
    argv += [f"--memory={memory}", f"--object-store-memory={store}"]
    argv += [f"{flag}={ports[name]}" for name, flag in NODE_PORTS.items()]
    if head is not None:
        return [*argv, f"--address={head}"]
    argv += [f"{flag}={ports[name]}" for name, flag in HEAD_PORTS.items()]
    # The dashboard is for the tunnel, which starts on this node. Workers learn the temporary folder from the head.
    return [*argv, "--head", "--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--temp-dir={temp}"]


def taken_port(logs: str) -> Optional[str]:
    """Returns what Ray's own processes say about a port they did not get. `ray start` itself waits for minutes then."""
    for name in SYSTEM_LOGS:
        found = PORT_TAKEN.search(last_lines(os.path.join(logs, name), 200))
        if found:
            return f"{found.group()} ({name})"
    return None


def run_node(
    plan: SimpleNamespace, job_id: str, name: str, *, head: Optional[str], attempt: int, logs: Optional[str]
) -> int:
    """Starts Ray on this node, waits for its end, packs Ray's logs into `logs` and clears up after it."""
    came = note_signals()
    adopt_orphans()
    ip = node_address(name)
    with open("/proc/sys/net/ipv4/ip_local_port_range") as stream:
        low, high = map(int, stream.read().split())
    ports = pick_ports(int(re.sub(r"\D.*", "", job_id) or 0) + attempt, (low, high))
    folder = session_dir(plan.ray.temp_dir, job_id)
    make_session_dir(folder)
    watch = Watch(folder, ports, attempt)
    try:
        argv = ray_start(plan, ip, head, ports, os.path.join(folder, "r"))
        tell({"name": name, "ip": ip, "attempt": attempt, "ports": ports})
        say("+ " + " ".join(map(shlex.quote, argv)))
        env = for_hip(dict(os.environ, **{variable: str(ports[one]) for one, variable in VARIABLE_PORTS.items()}))
        if env.get("TMPDIR", "/tmp") == plan.ray.temp_dir:
            env["TMPDIR"] = folder  # so that what Ray's helpers leave there goes with the rest
        try:
            ray = Child("ray", argv, env)
        except OSError as error:
            raise End(EXIT_START, f"{argv[0]} could not be run: {error}") from error
        began = time.monotonic()
        taken = None
        while ray.status() is None and not taken and not came - {signal.SIGUSR1}:
            time.sleep(TICK)
            watch.look()
            if time.monotonic() < began + START_WATCH:
                taken = taken_port(os.path.join(folder, "r", "session_latest", "logs"))
        if taken:
            raise End(EXIT_START, taken)
        status = ray.status()
        if status is not None:
            say(f"ray start ended with exit status {status}")
            return status or 1
        ray.send(signal.SIGTERM)
        until = time.monotonic() + QUICK_END - (2.0 if signal.SIGTERM in came else 0.5)
        while ray.status() is None and time.monotonic() < until:
            time.sleep(0.05)
        return 0
    finally:
        watch.end()
        kill_descendants()
        if logs is not None:
            keep_ray_logs(
                folder, os.path.join(logs, f"ray-{name}.tar.gz"), QUICK_PACK if signal.SIGTERM in came else PACK
            )
        shutil.rmtree(folder, ignore_errors=True)


def keep_ray_logs(folder: str, archive: str, seconds: float) -> None:
    """Packs what Ray's own processes and workers have logged on this node."""
    for session in glob.glob(os.path.join(folder, "r", "session_2*")):
        for name in os.listdir(session):  # first what takes room: it may be memory
            if name != "logs":
                shutil.rmtree(os.path.join(session, name), ignore_errors=True)
        logs = os.path.join(session, "logs")
        pack(archive, files_below(logs), logs, seconds=seconds, tail=RAY_LOG_TAIL, limit=RAY_LOGS)


# --- tunnels ----------------------------------------------------------------------------------------------------------


class Tunnel:
    """Keeps one `ssh -R` running; a tunnel that fails never ends the job."""

    FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
    OPTIONS = (
        "BatchMode=yes ConnectTimeout=15 ControlMaster=no ControlPath=none ExitOnForwardFailure=yes IdentitiesOnly=yes "
        "ServerAliveInterval=15 ServerAliveCountMax=3 UpdateHostKeys=no StrictHostKeyChecking=yes "
        "GlobalKnownHostsFile=/dev/null UserKnownHostsFile="
    )

    def __init__(self, plan: SimpleNamespace, vm: SimpleNamespace, target: str, logs: str) -> None:
        self.plan, self.target = plan, target
        self.log = os.path.join(logs, f"tunnel-{plan.name}.log")
        self.argv = ["ssh", "-F", "/dev/null", "-N", "-T", "-n", "-p", str(vm.port), "-l", vm.user]
        self.argv += [word for option in (self.OPTIONS + vm.known_hosts).split() for word in ("-o", option)]
        self.argv += ["-i", vm.identity_file, "-R", f"{plan.bind}:{plan.vm_port}:{target}", vm.host]
        self.child: Optional[Child] = None
        self.restarts = self.failures = 0
        self.started = self.next_start = 0.0
        self.reason = ""

    def tend(self, now: float) -> bool:
        """Starts ssh where it does not run and its pause is over. Returns whether it has ended, or could not be run."""
        if self.child is None:
            return now >= self.next_start and not self.start(now)
        status = self.child.status()
        if status is None:
            return False
        self.child = None
        self.note_end(now, f"ssh ended with exit status {status}: " + last_lines(self.log, 3).replace("\n", " | "))
        return True

    def start(self, now: float) -> bool:
        """Starts ssh; returns whether it could be run: its log, its program and a process for it are to be had."""
        self.started = now
        try:
            open(self.log, "wb").close()
            self.child = Child("tunnel " + self.plan.name, self.argv, dict(os.environ), self.log)
        except (OSError, subprocess.SubprocessError) as error:
            self.note_end(now, f"ssh could not be run: {error}")
        return self.child is not None

    def note_end(self, now: float, reason: str) -> None:
        """Settles when ssh is started again, and tells why that is needed."""
        self.failures = 0 if now - self.started > self.LONGEST_PAUSE else self.failures
        doublings = min(self.failures, 10)  # after a thousand of them it would be no number any more
        pause = min(self.FIRST_PAUSE * 2**doublings, self.LONGEST_PAUSE)
        self.next_start = now + pause
        self.failures += 1
        self.restarts += 1
        # A new reason is told, and of the same one the 2nd, 4th, 8th ... time: no flood.
        if reason != self.reason or self.failures & (self.failures - 1) == 0:
            say(f"tunnel {self.plan.name}: {reason}; again in {pause:g} s, restart {self.restarts}")
        self.reason = reason


# --- the supervisor ---------------------------------------------------------------------------------------------------


class Node:
    """One node of the job as the supervisor sees it."""

    def __init__(self, name: str, logs: str, *, is_head: bool) -> None:
        self.name, self.is_head = name, is_head
        self.role = "head" if is_head else "worker"
        self.log = os.path.join(logs, "head.log" if is_head else f"worker-{name}.log")
        self.child: Optional[Step] = None
        self.attempt = 0
        self.about: Dict[str, Any] = {}
        self.use: Dict[str, Any] = {}
        self.open: Optional[List[Dict[str, Any]]] = None
        self.earlier: List[Dict[str, Any]] = []
        self.lost_time: Optional[float] = None

    def status(self) -> Optional[int]:
        """Returns the exit status of the node's step, where it was started and has ended."""
        return self.child.status() if self.child else None

    def listen(self) -> bool:
        """Reads from the log where the node is; returns whether it has told."""
        if not self.about:
            self.about = next((one for one in self.told() if "ports" in one), {})
        return bool(self.about)

    def told(self) -> List[Dict[str, Any]]:
        """Returns what the node has told about itself in this attempt."""
        with contextlib.suppress(OSError), open(self.log, errors="replace") as stream:
            lines = [line for line in stream if line.startswith(NODE_LINE) and line[-1] == "\n"]
            told = list(self.earlier)
            for line in lines:
                with contextlib.suppress(ValueError):  # cut by a full disk
                    told.append(json.loads(line[len(NODE_LINE) :]))
            return [one for one in told if one["attempt"] == self.attempt]
        return self.earlier

    def keep_log_short(self) -> None:
        """Begins the node's log anew where it has grown too long, and keeps what the node has told in it."""
        told = self.told()
        self.note_open(told)
        if keep_short(self.log):
            self.earlier = told

    def note_open(self, told: List[Dict[str, Any]]) -> None:
        """Notes what the node last told of its open listeners."""
        self.open = next((one["open"] for one in reversed(told) if "open" in one), self.open)

    def summary(self) -> Dict[str, Any]:
        """Returns what the job's summary says of it."""
        told = self.told()
        self.note_open(told)
        self.use = next((one for one in reversed(told) if "peak_cpus" in one), self.use)
        known = {key: self.use.get(key) for key in ("peak_memory_bytes", "peak_cpus")}
        about = {"name": self.name, "role": self.role, "ip": self.about.get("ip"), "lost_time": self.lost_time}
        return dict(known, exit_code=self.status(), **about)

    def ending(self, how: str) -> str:
        """Returns what there is to say where the node's step has ended: the cause in the first line, then its log."""
        status = f"exit status {self.status()}"
        why = next((one["reason"] for one in self.told() if "reason" in one), None) or cause(self.log) or status
        return f"the {self.role} on {self.name} {how}: {why}\n{status}; its log ends:\n{last_lines(self.log)}"

    def address(self, port: str) -> str:
        """Returns the node's address with one of the ports that it chose."""
        return f"{self.about['ip']}:{self.about['ports'][port]}"


class Supervisor:
    """Starts the cluster, watches over it and ends it."""

    def __init__(self, plan_path: str, plan: SimpleNamespace, job_id: str) -> None:
        self.plan, self.job_id = plan, job_id
        self.plan_path = os.path.abspath(plan_path)
        self.folder = os.path.dirname(self.plan_path)
        self.logs = os.path.join(self.folder, "logs")
        self.came = note_signals()
        self.phase = ""
        self.env: Dict[str, str] = {}
        self.headers = {"User-Agent": "rayslurm"}  # a Ray of 2025 answers 500 to whoever has none
        self.nodes: List[Node] = []  # the head is the first
        self.tunnels: List[Tunnel] = []
        self.driver: Optional[Child] = None
        self.listeners: Optional[Listeners] = None
        self.phases: List[Dict[str, Any]] = []
        self.written = 0.0
        self.ray: Dict[str, Any] = {}
        self.answer = "nothing asked yet"
        self.killed = False  # whether a node did not end when it was told to

    def run(self) -> int:
        """Does it all and returns the exit status."""
        adopt_orphans()
        try:
            self.prepare()
            self.start()
            self.serve()
        except End as reached:
            end = reached
        except Exception:  # noqa: BLE001 - whatever it is, the children must not stay
            end = End(1, "a fault in the supervisor:\n" + traceback.format_exc(), "fault")
        say("ending: " + end.reason)
        self.guarded(lambda: self.enter("ending", reason=end.reason, outcome=end.outcome))
        self.guarded(lambda: self.summarize(end))  # Slurm may not leave the time for it later
        self.guarded(self.stop)
        kill_descendants()
        self.guarded(lambda: self.explain(end))
        about = {"reason": end.reason, "exit_code": end.code, "outcome": end.outcome}
        self.guarded(lambda: self.enter("failed" if end.failed else "ended", **about))
        self.guarded(lambda: self.summarize(end, results=self.results()))
        self.guarded(self.pack_logs)
        return end.code

    @staticmethod
    def guarded(work: Callable[[], None]) -> None:
        """Does something whose failure must not keep the rest from being done."""
        try:
            work()
        except Exception:  # noqa: BLE001 - whatever it is
            say("a fault in the supervisor:\n" + traceback.format_exc())

    def explain(self, end: End) -> None:
        """Adds to the reason what only the nodes' logs tell when all is over."""
        full = [f"{one['full']} on {node.name}" for node in self.nodes for one in node.told() if "full" in one]
        if end.failed and full:
            first, *more = end.reason.split("\n")
            end.reason = "\n".join(["; ".join([first, *full]), *more])
        failed = [node for node in self.nodes if "srun: error: Node failure on " in last_lines(node.log)]
        if end.outcome == "terminated" and failed:
            for node in failed:
                node.lost_time = node.lost_time or time.time()
            end.reason = "Slurm ended the job: failure of " + ", ".join(node.name for node in failed)
            say(end.reason)

    def enter(self, phase: str, **more: Any) -> None:
        """Enters a phase: into the log and into status.json."""
        if phase != self.phase:
            say("phase " + phase)
            self.phases.append({"phase": phase, "time": time.time()})
        self.phase = phase
        self.write("status.json", time=time.time(), phase_time=self.phases[-1]["time"], **more)
        self.written = time.monotonic()

    def beat(self) -> None:
        """Shows once a minute that the supervisor lives, and looks after its logs meanwhile."""
        if time.monotonic() < self.written + HEARTBEAT:
            return
        for node in self.nodes:
            node.keep_log_short()
        for tunnel in self.tunnels:
            keep_short(tunnel.log)
        self.enter(self.phase)

    def write(self, name: str, **more: Any) -> None:
        """Writes one of the files that tell about the job."""
        about = {
            "version": PLAN_VERSION,
            "job_id": self.job_id,
            "token": self.plan.token,
            "phase": self.phase,
            "node_names": [node.name for node in self.nodes],
            "nodes_lost": [node.name for node in self.nodes if node.lost_time],
            "open_listeners": self.open_listeners(),
            "tunnels": [
                {"name": one.plan.name, "restarts": one.restarts, "reason": one.reason} for one in self.tunnels
            ],
        }
        try:
            write_json(os.path.join(self.folder, name), dict(about, **self.ray, **more))
        except OSError as error:
            say(f"{name} could not be written: {error}")

    def open_listeners(self) -> Optional[List[Dict[str, Any]]]:
        """Returns what listens without a token where other nodes reach it; None where nobody has looked yet."""
        looked = [(node, node.open) for node in self.nodes if node.open is not None]
        if self.listeners is not None and self.listeners.open is not None:
            looked.append((self.nodes[0], self.listeners.open))
        rows = [dict(one, node=node.name) for node, found in looked for one in found]
        return rows[:ALL_LISTENERS] if looked else None

    def summarize(self, end: End, results: Optional[List[Dict[str, Any]]] = None) -> None:
        """Writes what there is to say of the job at its end."""
        driver = self.driver.status() if self.driver else None
        self.write(
            "summary.json",
            outcome=end.outcome,
            reason=end.reason,
            exit_code=end.code,
            entrypoint_exit_code=driver,
            phases=self.phases,
            nodes=[node.summary() for node in self.nodes],
            end_time=time.time(),
            continuation=self.plan.continuation,
            results=results,
        )

    def results(self) -> List[Dict[str, Any]]:
        """Lists the files that the plan names as results, with their sizes in bytes and when they were last written.

        It takes seconds at most, and lists no more than `RESULTS`: a folder may hold millions of files.
        """
        root = self.plan.work_dir
        until = time.monotonic() + (RESULTS_SECONDS if self.told_to_end() is None else 1.0)
        listed: List[Dict[str, Any]] = []
        room = RESULTS_BYTES
        for name in named_files(root, self.plan.results, until):
            # As text that any program can print: names are bytes.
            path = os.fsencode(name).decode("utf-8", "backslashreplace")
            room -= len(json.dumps(path))
            if not name or room < 0 or len(listed) == RESULTS:
                say(f"there may be more results; {len(listed)} are listed")
                break
            with contextlib.suppress(OSError):
                facts = os.lstat(os.path.join(root, name))
                listed.append({"path": path, "size": facts.st_size, "modified_time": facts.st_mtime})
        return sorted(listed, key=lambda one: str(one["path"]))

    def pack_logs(self) -> None:
        """Makes one file of the logs: many small ones are a burden to a shared file system.

        Not where a node had to be killed: it may still write there.
        """
        paths = [path for path in files_below(self.logs) if not path.endswith(".part")]
        if not self.killed and pack(self.logs + ".tar.gz", paths, self.logs, seconds=60):
            shutil.rmtree(self.logs, ignore_errors=True)

    def prepare(self) -> None:
        """Looks whether all is there, and settles names and authentication."""
        plan = self.plan
        say(f"job {self.job_id} {plan.job_name}: {plan.nodes} node(s), Python {sys.version.split()[0]}")
        for name in ("ready.json", "summary.json"):  # of an earlier attempt
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self.folder, name))
        session_dir(plan.ray.temp_dir, self.job_id)
        try:
            os.makedirs(plan.work_dir, mode=0o700, exist_ok=True)
            os.makedirs(self.logs, mode=0o700, exist_ok=True)
        except OSError as error:
            raise End(EXIT_UNUSABLE, f"the job's folders could not be made: {error}") from error
        names = output(["scontrol", "show", "hostnames", os.environ.get("SLURM_JOB_NODELIST", "")]).split()
        if len(names) != plan.nodes:
            raise End(EXIT_UNUSABLE, f"the job has the node(s) {names}, the plan wants {plan.nodes}")
        here = os.environ.get("SLURMD_NODENAME", names[0])
        names.sort(key=lambda name: name != here)  # this node first, the others in their order
        told = output([*plan.ray.command, "--version"], for_hip(dict(os.environ))).strip()
        version = re.search(r"version (\d+)\.(\d+)", told)
        if version is None:
            raise End(EXIT_UNUSABLE, f"the version of Ray is not to be seen in {told!r}")
        say(told)
        self.ray["ray_version"] = told.rpartition(" ")[2]
        self.env = {key: value for key, value in os.environ.items() if not re.match(r"RAY_ADDRESS$|RAY_AUTH_", key)}
        self.env.update(RAY_USAGE_STATS_ENABLED="0", RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S="0")
        self.env.update(plan.ray.env)
        self.env.update(self.authentication((int(version.group(1)), int(version.group(2)))))
        self.nodes = [Node(name, self.logs, is_head=number == 0) for number, name in enumerate(names)]
        for node in self.nodes:
            open(node.log, "wb").close()

    def authentication(self, version: Tuple[int, int]) -> Dict[str, str]:
        """Returns the environment that turns token authentication on, or refuses where that cannot be.

        Processes get the path of the token, never the token: it would be seen in their environment.
        """
        path = self.plan.ray.auth_token_file
        if version < FIRST_TOKEN_VERSION:
            if not self.plan.ray.allow_unauthenticated:
                told = f"Ray {version[0]}.{version[1]} has no token authentication (2.52 is the first)"
                cure = "use a newer one, or allow_unauthenticated_ray on exclusive nodes"
                raise End(EXIT_REFUSED, f"{told}: whoever reaches its ports could use it; {cure}")
            say("Ray runs WITHOUT authentication, as the plan allows")
            return {"RAY_AUTH_MODE": "disabled"}
        if version < SAFE_TOKEN_VERSION:
            say("Ray before 2.54 has a known hole in its token authentication (CVE-2026-27482): use a newer one")
        try:
            with open(path) as stream:
                found = os.fstat(stream.fileno())
                token = stream.read().strip()
        except OSError as error:
            raise End(EXIT_REFUSED, f"no token for Ray's authentication: {error}") from error
        if found.st_mode & 0o077 or found.st_uid != os.getuid() or not token:
            raise End(EXIT_REFUSED, f"{path} must be ours, with mode 0600, and not empty")
        self.headers["Authorization"] = "Bearer " + token
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": path}

    def start(self) -> None:
        """Starts head and workers and waits until Ray says that all nodes are alive."""
        until = time.monotonic() + self.plan.ray.ready_timeout_seconds
        self.start_head()
        version: Optional[Dict[str, Any]] = None
        while True:
            self.heed_signals()
            self.beat()
            for node in self.nodes:
                self.heed_early_end(node)
            if self.phase == "waiting_head":
                version = self.ask_version()
                if version:
                    self.start_workers()
            elif version and self.all_alive():
                return self.become_ready(version)
            if time.monotonic() > until:
                raise End(EXIT_START, self.what_is_missing())
            time.sleep(POLL)

    def start_head(self) -> None:
        """Starts the head."""
        self.enter("starting_head")
        self.launch(self.nodes[0])
        self.enter("waiting_head")

    def start_workers(self) -> None:
        """Starts the workers."""
        self.enter("starting_workers")
        for node in self.nodes[1:]:
            self.launch(node)
        self.enter("waiting_workers")

    def launch(self, node: Node) -> None:
        """Starts a node's step."""
        node.attempt += 1
        argv = ["srun", "--overlap", "--export=ALL", "--nodes=1", "--ntasks=1", "--nodelist=" + node.name]
        argv += [f"--cpus-per-task={self.plan.cpus_per_node}", "--cpu-bind=none", "--kill-on-bad-exit=1"]
        argv += [sys.executable, "-I", os.path.abspath(__file__), "--node", node.name, "--attempt", str(node.attempt)]
        argv += ["--logs", self.logs]
        argv += [] if node.is_head else ["--head", self.nodes[0].address("gcs")]
        node.about, node.open = {}, None
        try:
            # Ray's tasks run where the entrypoint does.
            name, argv = f"{node.role} {node.name}", [*argv, self.plan_path]
            node.child = Step(name, argv, self.env, node.log, cwd=self.plan.work_dir)
        except OSError as error:
            raise End(EXIT_START, f"srun could not be run: {error}") from error

    def heed_early_end(self, node: Node) -> None:
        """Ends the job where a step ended while it should come up; tries again if only a port was taken."""
        status = node.status()
        if status is None:
            return
        if node.attempt >= START_ATTEMPTS or not PORT_TAKEN.search(last_lines(node.log)):
            raise End(EXIT_START, node.ending("did not start"))
        say(f"{node.role} {node.name}: a port was taken; trying others")
        if node.is_head:
            self.finish([worker.child for worker in self.nodes[1:] if worker.child], STEP_END)
            for worker in self.nodes:
                worker.child = None
            self.start_head()
        else:
            self.launch(node)

    def what_is_missing(self) -> str:
        """Says which nodes are not there after the time for it."""
        missing = self.nodes[:1]
        if self.phase != "waiting_head":
            alive = self.ask_alive() or set()
            missing = [node for node in self.nodes if node.about.get("ip") not in alive] or self.nodes
        names = ", ".join(node.name for node in missing)
        parts = [f"not ready after {self.plan.ray.ready_timeout_seconds:g} s: {names} missing (Ray: {self.answer})"]
        return "\n".join(parts + [f"log of {node.name} ends:\n{last_lines(node.log)}" for node in missing[:3]])

    def is_closed(self) -> bool:
        """Says whether Ray refuses who shows no token."""
        self.ask("/api/version", {"User-Agent": self.headers["User-Agent"]})
        return self.answer.startswith(("401 ", "403 "))

    def ask(self, path: str, headers: Optional[Dict[str, str]] = None) -> Any:
        """Asks Ray's dashboard; returns None, and remembers why, where it does not answer."""
        if not self.nodes[0].listen():
            self.answer = "the head has not told its ports"
            return None
        connection = http.client.HTTPConnection("127.0.0.1", self.nodes[0].about["ports"]["dashboard"], timeout=5)
        try:
            connection.request("GET", path, headers=headers or self.headers)
            response = connection.getresponse()
            self.answer = f"{response.status} {response.reason} for {path}"
            body = response.read().decode("utf-8", "replace")
            return json.loads(body) if response.status == http.client.OK else None
        except (OSError, ValueError, http.client.HTTPException) as error:
            self.answer = f"{type(error).__name__} {error} for {path}"
            return None
        finally:
            connection.close()

    def ask_version(self) -> Optional[Dict[str, Any]]:
        """Returns Ray's version and session, once the head answers."""
        found = self.ask("/api/version")
        return found if isinstance(found, dict) and "session_name" in found else None

    def ask_alive(self) -> Optional[Set[str]]:
        """Returns the addresses of the nodes which Ray calls alive."""
        found = self.ask("/api/v0/nodes?limit=10000")
        try:
            rows = found["data"]["result"]["result"] if found else []
            alive = {row["node_ip"] for row in rows if row["state"] == "ALIVE"}
        except (KeyError, TypeError) as error:
            self.answer = f"nodes not understood: {error!r}"
            return None
        self.answer = f"{len(alive)} of {len(self.nodes)} nodes alive" if found else self.answer
        return alive

    def all_alive(self) -> bool:
        """Says whether Ray calls every node of the job alive."""
        alive = self.ask_alive() or set()
        return all(node.listen() and node.about["ip"] in alive for node in self.nodes)

    def become_ready(self, version: Dict[str, Any]) -> None:
        """Writes ready.json, and starts tunnels and entrypoint."""
        plan, head = self.plan, self.nodes[0]
        if "Authorization" in self.headers and not self.is_closed():
            told = "Ray answers to who has no token, though it was started with one"
            raise End(EXIT_REFUSED, f"{told}: does something clean its environment, such as a container's option?")
        self.tunnels = [Tunnel(one, plan.vm, self.target(one.target), self.logs) for one in plan.tunnels]
        self.ray.update(ready_time=time.time(), session_name=version["session_name"])
        self.ray["ray_version"] = version.get("ray_version") or self.ray["ray_version"]
        ready = {
            "version": PLAN_VERSION,
            "job_id": self.job_id,
            "restarts": int(os.environ.get("SLURM_RESTART_COUNT") or 0),
            "token": plan.token,
            "authentication": "token" if "Authorization" in self.headers else "none",
            "head_node": head.name,
            "head_ip": head.about["ip"],
            "address": head.address("gcs"),
            "ports": head.about["ports"],
            "nodes": [{key: node.about[key] for key in ("name", "ip", "ports")} for node in self.nodes],
            "tunnels": [dict(vars(one.plan), address=one.target) for one in self.tunnels],
        }
        ready.update(self.ray)
        write_json(os.path.join(self.folder, "ready.json"), ready)
        self.enter("ready")
        if plan.entrypoint is not None:
            self.enter("driver")
            self.listeners = Listeners(head.about["ports"], closed="Authorization" in self.headers)
            env = for_hip(dict(self.env, RAY_ADDRESS=head.address("gcs")))
            env.update(RAYSLURM_RUN_DIR=self.folder, RAYSLURM_CONTINUATION=str(plan.continuation))
            argv = [*plan.container, "bash", "-c", plan.entrypoint]
            try:
                self.driver = Child("entrypoint", argv, env, cwd=plan.work_dir)
            except OSError as error:
                raise End(EXIT_UNUSABLE, f"the entrypoint could not be started: {error}") from error

    def target(self, name: str) -> str:
        """Returns where a tunnel leads, as ssh wants it."""
        if name == "dashboard":
            return f"127.0.0.1:{self.nodes[0].about['ports']['dashboard']}"
        kind, _, number = name.partition(":")
        return self.nodes[int(number or 0)].address(kind) if kind in ("client", "metrics") else name

    def serve(self) -> None:
        """Watches over everything until there is a reason to end."""
        while True:
            self.heed_signals()
            self.beat()
            for node in self.nodes:
                self.heed_loss(node)
            now = time.monotonic()
            if any([tunnel.tend(now) for tunnel in self.tunnels]):  # noqa: C419 - tend all of them
                self.enter(self.phase)
            steps = [node.child.process.pid for node in self.nodes if node.child]
            if self.listeners is not None and self.listeners.look(now, without=steps):
                self.enter(self.phase)
            status = self.driver.status() if self.driver else None
            if status is not None:
                told = f"the entrypoint ended with exit status {status}"
                raise End(status, told, "failed" if status else "succeeded")
            time.sleep(TICK)

    def heed_loss(self, node: Node) -> None:
        """Notices that a node's step ended: the head's end is the cluster's, a worker's is not."""
        status = node.status()
        if status is None or node.lost_time or self.told_to_end():
            return
        told = node.ending("ended")
        if node.is_head:
            raise End(EXIT_HEAD, told)
        say("the cluster goes on without a node: " + told)
        node.lost_time = time.time()
        self.enter(self.phase)

    def told_to_end(self) -> Optional[int]:
        """Returns TERM or INT, where one of them has come."""
        return next((number for number in (signal.SIGTERM, signal.SIGINT) if number in self.came), None)

    def heed_signals(self) -> None:
        """Turns a signal into the end that it asks for."""
        number = self.told_to_end()
        if number is not None:
            told = f"{signal.Signals(number).name} came: the job was cancelled, or Slurm ended it"
            raise End(128 + number, told, "terminated")
        if signal.SIGUSR1 in self.came:
            near = "the time limit is near"
            if self.phase == "ready":
                raise End(0, near, "limit")
            raise End(EXIT_LIMIT, f"{near}, and the job was still in phase {self.phase}", "limit")

    def stop(self) -> None:
        """Ends what was started: entrypoint, workers, head, tunnels; what does not end in time is killed.

        With TERM there are only seconds left for all of it, so then all are told at once, in that order.
        """
        driver = [self.driver] if self.driver else []
        steps = [node.child for node in self.nodes if node.child]
        tunnels = [tunnel.child for tunnel in self.tunnels if tunnel.child]
        in_order: List[Tuple[Sequence[Child], float]] = [(driver, self.plan.grace_seconds), (steps[1:], STEP_END)]
        for children, seconds in [*in_order, (steps[:1], STEP_END), (tunnels, TUNNEL_END)]:
            if self.told_to_end() is None:
                self.finish(children, seconds)
        self.finish([*driver, *steps[1:], *steps[:1], *tunnels], QUICK_END)

    def finish(self, children: Sequence[Child], seconds: float) -> None:
        """Ends some children together. Returns early where TERM comes meanwhile."""
        before = self.told_to_end()
        for child in children:
            child.send(child.end_signal)
        until = time.monotonic() + seconds
        while any(child.status() is None for child in children) and time.monotonic() < until:
            if self.told_to_end() != before:
                return
            time.sleep(0.05)
        for child in children:
            if child.status() is None:
                say(f"{child.name} did not end in {seconds:g} s and is killed")
                self.killed = self.killed or isinstance(child, Step)
                child.send(signal.SIGKILL)


def main() -> int:
    """Runs the supervisor, or one node for it."""
    beside = os.path.join(os.path.dirname(os.path.abspath(__file__)), "plan.json")
    parser = argparse.ArgumentParser(description="Runs one Ray cluster inside a Slurm job.")
    parser.add_argument("plan", nargs="?", default=beside)
    parser.add_argument("--node", help="start Ray on this node (what the supervisor uses)")
    parser.add_argument("--head", help="with --node: the head's address; without it this node is the head")
    parser.add_argument("--attempt", type=int, default=0)
    parser.add_argument("--logs", help="with --node: where Ray's logs are packed at the end")
    told = parser.parse_args()
    job_id = os.environ.get("SLURM_JOB_ID", "")
    try:
        if not job_id:
            raise ValueError("SLURM_JOB_ID is not set: this runs inside a Slurm job")
        plan = read_plan(told.plan)
    except ValueError as error:
        reason = f"{told.plan}: {error}"
        say(reason)
        about = {"phase": "failed", "time": time.time(), "job_id": job_id, "reason": reason, "exit_code": EXIT_UNUSABLE}
        with contextlib.suppress(OSError):
            write_json(os.path.join(os.path.dirname(os.path.abspath(told.plan)), "status.json"), about)
        return EXIT_UNUSABLE
    if told.node is None:
        return Supervisor(told.plan, plan, job_id).run()
    try:
        return run_node(plan, job_id, told.node, head=told.head, attempt=told.attempt, logs=told.logs)
    except End as end:
        say(end.reason)
        tell({"attempt": told.attempt, "reason": end.reason})
        return end.code


if __name__ == "__main__":
    sys.exit(main())
