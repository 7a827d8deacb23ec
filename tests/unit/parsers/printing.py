"""Prints jobs as sacct does, after the rules of its source: what the parsers' tests read back.

Nothing here is shared with the parsers. A job is drawn as numbers, printed by Slurm's rules, and the record that must
come out is made from the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from hypothesis import strategies as st

KIB, MIB, GIB = 1024, 1024**2, 1024**3


@dataclass(frozen=True)
class Printed:
    """A row: its cells by column, and the fields of the record that must come of each column."""

    cells: dict[str, str]
    fields: dict[str, dict[str, object]]


_NO_VALUES = frozenset({2**32 - 1, 2**32 - 2})
"""What Slurm keeps where it has no value."""


def clock(seconds: int) -> str:
    """Slurm's secs2time_str as sacct calls it."""
    days, rest = divmod(seconds, 86400)
    text = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days}-{text}" if days else text


def cpu_clock(milliseconds: int) -> tuple[str, float]:
    """Slurm's _elapsed_time, which drops the milliseconds from an hour on; with what is left of the value."""
    seconds, rest = divmod(milliseconds, 1000)
    if seconds >= 3600 or not rest:
        return clock(seconds), float(seconds)
    return f"{seconds // 60:02}:{seconds % 60:02}.{rest:03}", float(f"{seconds}.{rest:03}")


def local(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def size(amount: int, unit: str) -> str:
    return f"{amount}{unit}"


COLUMNS_TOLD = """
    JobIDRaw JobName User Account Partition State ExitCode ReqCPUS AllocCPUS ReqNodes AllocNodes Submit Start End
    Elapsed ElapsedRaw Timelimit TimelimitRaw Planned CPUTime CPUTimeRAW TotalCPU AveCPU AveCPUFreq AveDiskRead MaxRSS
    TRESUsageInTot ReqMem ConsumedEnergyRaw AllocTRES NotKnownToUs
"""
UNITS = {"": 1, "K": KIB, "M": MIB, "G": GIB, "T": GIB * KIB}
TIMES = st.integers(1_400_000_000, 2_000_000_000)
SIZES = st.tuples(st.integers(0, 9999), st.sampled_from(sorted(UNITS)))
NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Zl", "Zp", "Zs")) | st.just(" "), min_size=1
).filter(lambda name: name == name.strip() and name not in {"(null)", ""})
STATES = [
    "PENDING",
    "RUNNING",
    "COMPLETED",
    "FAILED",
    "TIMEOUT",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "COMPLETING",
    "REQUEUED",
]


@st.composite
def rows(draw: st.DrawFn, identity: str, *, array: str | None, step: bool, epoch: bool) -> Printed:
    """One row of a job or a step with every column."""
    submit = draw(TIMES)
    start = submit + draw(st.integers(0, 10**6))
    elapsed = draw(st.integers(0, 10**6))
    cpus, nodes = draw(st.integers(1, 10**5)), draw(st.integers(1, 9999))
    nodes += nodes % 512 == 0  # Slurm prints 1024 as 1K: its own test
    cancelled = draw(st.none() | st.integers(0, 2**32 - 3))
    state = "CANCELLED" if cancelled is not None else draw(st.sampled_from(STATES))
    code, signal = draw(st.integers(0, 127)), draw(st.integers(0, 126))
    total, total_seconds = cpu_clock(draw(st.integers(0, 10**10)))
    rss, rss_unit = draw(SIZES)
    peak, peak_unit = draw(SIZES)
    disk = draw(st.integers(0, 99999))
    requested, requested_unit = draw(st.tuples(st.integers(1, 999), st.sampled_from(["M", "G"])))
    limit = draw(st.integers(1, 10**5))
    joules = draw(st.integers(0, 10**12).filter(lambda joules: joules not in _NO_VALUES))
    hertz = draw(st.integers(1, 999))
    planned = start - submit
    gpus = draw(st.integers(0, 8))
    memory = draw(st.integers(1, 9999))
    tres = {"billing": cpus, "cpu": cpus, "mem": memory * MIB, "node": nodes}
    printed_tres = f"billing={cpus},cpu={cpus},mem={memory}M,node={nodes}"
    if gpus:
        tres["gres/gpu"] = gpus
        printed_tres = f"billing={cpus},cpu={cpus},gres/gpu={gpus},mem={memory}M,node={nodes}"
    name, user, project = draw(NAMES), draw(st.from_regex(r"[a-z][a-z0-9]{0,9}", fullmatch=True)), "project_1"
    moment = str if epoch else local
    cells = {
        "JobID": identity,
        "JobIDRaw": "999999",
        "JobName": name,
        "User": "" if step else user,
        "Account": project,
        "Partition": "" if step else "standard",
        "State": state if cancelled is None else f"CANCELLED by {cancelled}",
        "ExitCode": f"{code}:{signal}",
        "ReqCPUS": str(cpus),
        "AllocCPUS": str(cpus + 1),
        "ReqNodes": str(nodes),
        "AllocNodes": str(nodes),
        "Submit": moment(submit),
        "Start": moment(start),
        "End": "Unknown" if state == "RUNNING" else moment(start + elapsed),
        "Elapsed": clock(elapsed),
        "ElapsedRaw": str(elapsed),
        "Timelimit": "" if step else clock(limit * 60),
        "TimelimitRaw": "" if step else str(limit),
        "Planned": "" if step else clock(planned),
        "CPUTime": clock(elapsed * cpus),
        "CPUTimeRAW": str(elapsed * cpus),
        "TotalCPU": total,
        "AveCPU": clock(elapsed) if step else "",
        "AveCPUFreq": f"{hertz}K" if step else "",
        "AveDiskRead": f"{disk}M" if step else "",
        "MaxRSS": size(rss, rss_unit) if step else "",
        "TRESUsageInTot": f"cpu={clock(elapsed)},energy=0,fs/disk=5,mem={peak}{peak_unit},pages=0" if step else "",
        "ReqMem": "" if step else f"{requested}{requested_unit}",
        "ConsumedEnergyRaw": str(joules),
        "AllocTRES": printed_tres,
        "NotKnownToUs": "x y",
    }
    job_only: dict[str, dict[str, object]] = {
        "User": {"user": user},
        "Partition": {"partition": "standard"},
        "Timelimit": {"time_limit_seconds": limit * 60.0},
        "TimelimitRaw": {"time_limit_seconds": limit * 60.0},
        "Planned": {"planned_seconds": float(planned)},
        "ReqMem": {"memory_requested_bytes": float(requested * UNITS[requested_unit])},
    }
    step_only: dict[str, dict[str, object]] = {
        "AveCPU": {"ave_cpu_seconds": float(elapsed)},
        "AveCPUFreq": {"ave_cpu_freq_hertz": hertz * 1000.0},
        "AveDiskRead": {"ave_disk_read_bytes": float(disk * MIB)},
        "MaxRSS": {"max_rss_bytes": float(rss * UNITS[rss_unit])},
        "TRESUsageInTot": {"memory_peak_bytes": float(peak * UNITS[peak_unit])},
    }
    fields: dict[str, dict[str, object]] = {
        "JobID": {"job_id": identity, "array_id": array},
        "JobName": {"job_name": name},
        "Account": {"project": project},
        "State": {"state": state, "cancelled_by_uid": cancelled},
        "ExitCode": {"exit_code": code, "signal": signal or None},
        "ReqCPUS": {"req_cpus": cpus},
        "AllocCPUS": {"alloc_cpus": cpus + 1},
        "ReqNodes": {"req_nodes": nodes},
        "AllocNodes": {"alloc_nodes": nodes},
        "Submit": {"submit_time": submit},
        "Start": {"start_time": start},
        "End": {"end_time": None if state == "RUNNING" else start + elapsed},
        "Elapsed": {"elapsed_seconds": float(elapsed)},
        "ElapsedRaw": {"elapsed_seconds": float(elapsed)},
        "CPUTime": {"cpu_time_seconds": float(elapsed * cpus)},
        "CPUTimeRAW": {"cpu_time_seconds": float(elapsed * cpus)},
        "TotalCPU": {"total_cpu_seconds": total_seconds},
        "ConsumedEnergyRaw": {"energy_joules": float(joules) or None},
        "AllocTRES": {
            "billing_tres": float(cpus),
            "tres_allocated": {key: float(value) for key, value in tres.items()},
        },
        **(step_only if step else job_only),
    }
    return Printed(cells, fields)


COLUMNS = COLUMNS_TOLD.split()
JOB_IDS = st.one_of(
    st.integers(1, 10**9).map(str),
    st.builds("{}_{}".format, st.integers(1, 10**8), st.integers(0, 4000)),
    st.builds("{}_[{}-{}%3]".format, st.integers(1, 10**8), st.integers(0, 9), st.integers(10, 99)),
    st.builds("{}+{}".format, st.integers(1, 10**8), st.integers(0, 9)),
)


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[str], list[list[Printed]]]:
    """Some columns in some order, and jobs, each with its steps."""
    columns = draw(st.lists(st.sampled_from(COLUMNS), unique=True, min_size=1))
    columns.insert(draw(st.integers(0, len(columns))), "JobID")
    epoch = draw(st.booleans())
    jobs = []
    for identity in draw(st.lists(JOB_IDS, unique=True, max_size=4)):
        array = identity.split("_")[0] if "_" in identity else None
        job = [draw(rows(identity, array=array, step=False, epoch=epoch))]
        steps = draw(
            st.lists(st.sampled_from(["batch", "extern", "interactive", "0", "1", "2+1"]), unique=True, max_size=3)
        )
        job += [draw(rows(f"{identity}.{step}", array=array, step=True, epoch=epoch)) for step in steps]
        jobs.append(job)
    return columns, jobs


def delimited(columns: list[str], jobs: list[list[Printed]], delimiter: str, *, ends: bool) -> str:
    last = delimiter if ends else ""
    lines = [delimiter.join(columns) + last]
    lines += [delimiter.join(row.cells[column] for column in columns) + last for job in jobs for row in job]
    return "\n".join(lines) + "\n"


def fixed(columns: list[str], jobs: list[list[Printed]], spare: int) -> str:
    """sacct's table, each column wide enough for what is in it; widths are in bytes."""
    rows = [row for job in jobs for row in job]
    widths = {}
    for column in columns:
        cells = [column, *(row.cells[column] for row in rows)]
        widths[column] = max(len(cell.encode()) for cell in cells) + spare

    def line(cells: dict[str, str]) -> str:
        text = ""
        for column in columns:
            padding = " " * (widths[column] - len(cells[column].encode()))
            text += cells[column] + padding if column == "JobID" else padding + cells[column]
            text += " "
        return text

    header = line({column: column for column in columns})
    rule = " ".join("-" * widths[column] for column in columns)
    return "\n".join([header, rule, *(line(row.cells) for row in rows)]) + "\n"
