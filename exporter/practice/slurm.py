"""Slurm's commands at a practice site, as they print: sbatch, squeue, sacct, scancel, scontrol, seff, sinfo."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from exporter.practice.prints import seff_bill, seff_gpus
from exporter.practice.world import GIB, LAG_SECONDS, Job, World

ZONE = ZoneInfo("Europe/Helsinki")
USER = "maija"

_NODE_WATTS = 600

_DIRECTIVE = re.compile(r"#SBATCH --([a-z-]+)(?:=(.*))?")
_UNITS = {"K": 1024, "M": 1024**2, "G": GIB}


@dataclass(frozen=True)
class Called:
    """A command as a user called it.

    Attributes:
        arguments: what stood after its name.
        folder: where it was called.
        environment: the variables that matter to Slurm.
    """

    arguments: Sequence[str]
    folder: Path
    environment: Mapping[str, str]


Said = tuple[str, str, int]
"""What a command printed, what it said on standard error, and its exit status."""


def sbatch(world: World, called: Called) -> Said:
    """Takes the script that is named last."""
    path = called.folder / called.arguments[-1]
    options: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if match := _DIRECTIVE.fullmatch(line):
            options[match[1]] = match[2] or ""
    if options["partition"] not in {row[0] for row in _PARTITIONS[world.site]}:
        error = "sbatch: error: "
        said = [f"invalid partition specified: {options['partition']}"]
        said.append("Batch job submission failed: Invalid partition name specified")
        return "", "".join(f"{error}{line}\n" for line in said), 1
    job = world.submit(
        options["job-name"],
        options["account"],
        options["partition"],
        nodes=int(options.get("nodes", 1)),
        cpus=int(options.get("cpus-per-task", 1)),
        memory=_bytes(options.get("mem", "1G")),
        gpus=int(options.get("gpus-per-node", 0)),
        limit=_seconds(options["time"]),
        folder=called.folder,
    )
    return f"{job.job_id}\n", "", 0


def squeue(world: World, called: Called) -> Said:
    """Prints the queue in the columns that `-O` asks for, each with the suffix that it names."""
    now = time.time()
    columns = [item.partition(":") for item in _option(called.arguments, "-O").split(",")]
    names = _option(called.arguments, "--name")
    lines = ["".join(_QUEUE_HEADS[name.lower()] + suffix for name, _, suffix in columns)]
    for job in world.jobs():
        if (job.end > now and not names) or job.name in names.split(","):  # by name ended ones too
            row = _in_queue(job, now, called.environment)
            lines.append("".join(row[name.lower()] + suffix for name, _, suffix in columns))
    return "\n".join(lines) + "\n", "", 0


def sacct(world: World, called: Called) -> Said:
    """Prints jobs with their steps, in the columns that `-o` asks for."""
    if "--helpformat" in called.arguments:
        return " ".join(_FIELDS) + "\n", "", 0
    fields = _option(called.arguments, "-o").split(",")
    for field in fields:
        if field not in _FIELDS:
            return "", f'sacct: error: Invalid field requested: "{field}"\n', 1
    delimiter = _option(called.arguments, "--delimiter") or "|"
    wanted, names = _option(called.arguments, "-j").split(","), _option(called.arguments, "--name").split(",")
    whole = "-X" in called.arguments
    now = time.time() - LAG_SECONDS
    lines = [delimiter.join(fields)]
    for job in world.jobs():
        if str(job.job_id) not in wanted and job.name not in names:
            continue
        for step in ("", ".batch") if job.ran(now) and not whole else ("",):
            row = _in_accounting(job, step, now, called.environment)
            lines.append(delimiter.join(row[field] for field in fields))
    return "\n".join(lines) + "\n", "", 0


def scancel(world: World, called: Called) -> Said:
    """Ends the jobs that are named."""
    for argument in called.arguments:
        world.cancel(int(argument))
    return "", "", 0


def scontrol(world: World, called: Called) -> Said:
    """Prints the reservations, of which a practice site has none; knows nothing else."""
    del world
    if called.arguments[-2:] != ["show", "reservation"]:
        return "", f"invalid keyword: {called.arguments[-1:]}\n", 1
    return "No reservations in the system\n", "", 0


def sinfo(world: World, called: Called) -> Said:
    """Prints the partitions in the columns of the format that `-o` gives."""
    form = _option(called.arguments, "-o")
    rows = [_SINFO_HEADS, *(dict(zip(_SINFO_HEADS, row, strict=True)) for row in _PARTITIONS[world.site])]
    return "".join(_filled(form, row) + "\n" for row in rows), "", 0


def seff(world: World, called: Called) -> Said:
    """Prints CSC's report on a job."""
    now = time.time() - LAG_SECONDS
    job = world.job(int(called.arguments[-1]))
    if job is None:
        return "", "Job not found.\n", 2
    cores, per_node = job.cpus // job.nodes, _size(job.memory // job.nodes)
    walltime = job.cpus * job.elapsed(now)
    used, peak = job.cpu_seconds(now), 0 if job.fate == "NODE_FAIL" else job.peak
    lines = [
        f"Job ID: {job.job_id}",
        f"Cluster: {world.site}",
        f"Partition: {job.partition}",
        f"User/Group: {USER}/{USER}",
        f"State: {job.state(now)} (exit code {job.exit_code.partition(':')[0]})",
        f"Nodes: {job.nodes}",
        f"Cores per node: {cores}",
        f"CPU Utilized: {clock(used)}",
        f"CPU Efficiency: {cpu_percent(used, walltime)}% of {clock(walltime)} core-walltime",
        f"Job Wall-clock time: {clock(job.elapsed(now))}",
        f"Memory Utilized: {_size(peak)}",
        f"Memory Efficiency: {100 * peak / job.memory:.2f}% of {_size(job.memory)} ({per_node}/node)",
        *seff_bill(world.site, job.project, world.bill(job, now)),
        *(seff_gpus(job.node_names, job.gpus // job.nodes, job.memory_share) if job.fate != "NODE_FAIL" else ()),
    ]
    return "\n".join(lines) + "\n", "", 0


def cpu_percent(used: int, walltime: int) -> str:
    """Returns CPU efficiency as seff prints it, in percent."""
    return f"{100 * used / walltime:.2f}" if walltime else "0.00"


def clock(seconds: float) -> str:
    """Returns a length of time as Slurm prints it: `[D-]HH:MM:SS`."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return (f"{days}-" if days else "") + f"{hour:02}:{minute:02}:{second:02}"


def _filled(form: str, row: Mapping[str, str]) -> str:
    """Returns a format such as `%R|%a` with the cells of a row."""
    return re.sub(r"%([a-zA-Z])", lambda letter: row[letter[1]], form)


def _option(arguments: Sequence[str], name: str) -> str:
    for number, argument in enumerate(arguments):
        if argument == name:
            return arguments[number + 1]
        if argument.startswith(f"{name}="):
            return argument.partition("=")[2]
    return ""


def _bytes(text: str) -> int:
    return int(text[:-1]) * _UNITS[text[-1]]


def _seconds(text: str) -> int:
    days, _, rest = text.rpartition("-")
    hours, minutes, seconds = (int(part) for part in rest.split(":"))
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def _size(amount: int) -> str:
    if amount < GIB:
        return f"{amount / 1024**2:.2f} MB"
    return f"{amount / GIB:.2f} GB"


def _moment(epoch: float, environment: Mapping[str, str]) -> str:
    if environment.get("SLURM_TIME_FORMAT") == "%s":
        return str(int(epoch))
    return f"{datetime.fromtimestamp(epoch, ZONE):%Y-%m-%dT%H:%M:%S}"


def _tres(job: Job) -> str:
    gpus = f",gres/gpu={job.gpus}" if job.gpus else ""
    return f"billing={job.cpus},cpu={job.cpus}{gpus},mem={job.memory // 1024**2}M,node={job.nodes}"


_SINFO_HEADS = {
    "R": "PARTITION",
    "l": "TIMELIMIT",
    "s": "JOB_SIZE",
    "D": "NODES",
    "c": "CPUS",
    "m": "MEMORY",
    "G": "GRES",
    "h": "OVERSUBSCRIBE",
    "a": "AVAIL",
    "B": "MAX_CPUS_PER_NODE",
}
"""What `sinfo -o` writes over each of its columns."""

_UP = ("up", "UNLIMITED")
_PARTITIONS = {
    "roihu": (
        ("test", "15:00", "1-2", "4", "384", "768000", "(null)", "NO", *_UP),
        ("small", "3-00:00:00", "1", "300", "384", "768000", "(null)", "NO", *_UP),
        ("medium", "1-12:00:00", "1-6", "200", "384", "768000", "(null)", "EXCLUSIVE", *_UP),
        ("large", "1-12:00:00", "6-60", "200", "384", "768000", "(null)", "EXCLUSIVE", *_UP),
        ("gpumedium", "1-12:00:00", "1-4", "100", "288", "860000", "gpu:gh200:4(S:0-3)", "NO", *_UP),
    ),
    "lumi": (
        ("debug", "30:00", "1-4", "8", "256", "229376", "(null)", "NO", *_UP),
        ("small", "3-00:00:00", "1-4", "200", "256", "1032192", "(null)", "NO", *_UP),
        ("standard", "2-00:00:00", "1-512", "1400", "256", "229376", "(null)", "EXCLUSIVE", *_UP),
        ("small-g", "3-00:00:00", "1-4", "400", "128", "491520", "gpu:mi250:8", "NO", *_UP),
        ("standard-g", "2-00:00:00", "1-1K", "2000", "128", "491520", "gpu:mi250:8", "EXCLUSIVE", *_UP),
    ),
}
"""The partitions of the sites that are played, made up where no page was read, in the order of `_SINFO_HEADS`."""

_QUEUE_HEADS = {
    "jobarrayid": "JOBID",
    "arrayjobid": "ARRAY_JOB_ID",
    "state": "STATE",
    "reason": "REASON",
    "restartcnt": "RESTART_COUNT",
    "timeused": "TIME",
    "timelimit": "TIME_LIMIT",
    "numnodes": "NODES",
    "numcpus": "CPUS",
    "tres-alloc": "TRES_ALLOC",
    "partition": "PARTITION",
    "account": "ACCOUNT",
    "username": "USER",
    "submittime": "SUBMIT_TIME",
    "starttime": "START_TIME",
    "endtime": "END_TIME",
    "nodelist": "NODELIST",
    "name": "NAME",
}
"""What `squeue -O` writes over each of its columns."""


def _in_queue(job: Job, now: float, environment: Mapping[str, str]) -> dict[str, str]:
    waits = now < job.start
    return {
        "jobarrayid": str(job.job_id),
        "arrayjobid": str(job.job_id),
        "state": job.state(now),
        "reason": job.reason if waits else "None",
        "restartcnt": "0",
        "timeused": clock(job.elapsed(now)),
        "timelimit": clock(job.limit),
        "numnodes": str(job.nodes),
        "numcpus": str(job.cpus),
        "tres-alloc": _tres(job),
        "partition": job.partition,
        "account": job.project,
        "username": USER,
        "submittime": _moment(job.submit, environment),
        "starttime": _moment(job.start, environment),
        "endtime": _moment(job.start + job.limit, environment),
        "nodelist": "" if waits else job.hosts,
        "name": job.name,
    }


def _in_accounting(job: Job, step: str, now: float, environment: Mapping[str, str]) -> dict[str, str]:
    ended, ran = job.end <= now, job.ran(now)
    used = job.cpu_seconds(now) if ended and ran else 0
    begun = ran and job.start <= now
    state = job.state(now)
    row = dict.fromkeys(_FIELDS, "")
    row |= {
        "JobID": f"{job.job_id}{step}",
        "Account": job.project,
        "State": "CANCELLED" if step and state == "NODE_FAIL" else state,
        "ExitCode": job.exit_code if ended else "0:0",
        "ReqCPUS": str(job.cpus),
        "AllocCPUS": str(job.cpus if ran else 0),
        "ReqNodes": str(job.nodes),
        "AllocNodes": str(job.nodes if ran else 0),
        "Submit": _moment(job.submit, environment),
        "Start": _moment(job.start, environment) if begun else "None" if ended else "Unknown",
        "End": _moment(job.end, environment) if ended else "Unknown",
        "ElapsedRaw": str(job.elapsed(now)),
        "CPUTimeRAW": str(job.cpus * job.elapsed(now)),
        "TotalCPU": clock(used),
        "ConsumedEnergyRaw": str(_NODE_WATTS * job.nodes * job.elapsed(now) if ended and ran else 0),
        "AllocTRES": _tres(job) if ran else "",
        "JobName": "batch" if step else job.name,
    }
    if not step:
        return row | {
            "User": USER,
            "Partition": job.partition,
            "State": "CANCELLED by 20001" if state == "CANCELLED" else state,
            "Timelimit": clock(job.limit),
            "Planned": clock(job.start - job.submit),
            "PlannedCPURAW": str((job.start - job.submit) * job.cpus),
            "ReqMem": f"{job.memory // 1024**2}M",
            "Restarts": "0",
        }
    if ended and job.fate != "NODE_FAIL":
        row |= {
            "AveCPU": clock(used),
            "AveCPUFreq": "2.45G",
            "AveDiskRead": "12.50M",
            "AveDiskWrite": "3.25M",
            "MaxRSS": f"{job.peak // 1024}K",
            "TRESUsageInTot": f"cpu={clock(used)},mem={job.peak // 1024}K",
        }
    return row


_FIELDS = [
    "JobID",
    "User",
    "Account",
    "Partition",
    "State",
    "ExitCode",
    "ReqCPUS",
    "AllocCPUS",
    "ReqNodes",
    "AllocNodes",
    "Submit",
    "Start",
    "End",
    "ElapsedRaw",
    "Timelimit",
    "Planned",
    "PlannedCPURAW",
    "CPUTimeRAW",
    "TotalCPU",
    "AveCPU",
    "AveCPUFreq",
    "AveDiskRead",
    "AveDiskWrite",
    "MaxRSS",
    "TRESUsageInTot",
    "ReqMem",
    "ConsumedEnergyRaw",
    "AllocTRES",
    "Restarts",
    "JobName",
]
"""The fields that this Slurm's sacct knows."""
