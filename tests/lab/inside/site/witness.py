"""What the sites that this lab plays know of a job: what it was allocated, and what that costs there.

An independent witness: nothing here comes from rayslurm. Rates: CSC's and LUMI's billing pages of 2026.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

SITE = os.environ.get("LAB_SITE", "")
RUN = Path("/srv/lab/run")
PROJECT_FILES = Path("/var/lib/project_info/users")
ZONE = ZoneInfo("Europe/Helsinki")
Row = dict[str, str]
Bill = tuple[str, dict[str, float]]
CSC = ("roihu", "mahti", "puhti")


def roihu(partition: str, job: dict[str, Any]) -> Bill | None:
    """Returns the kind and, by what it is for, the units an hour."""
    storage = 0.02 * job["nvme"]
    if partition in ("test", "small", "longrun", "interactive"):
        cpu, memory = 0.75 * job["cores"], 0.375 * job["memory"]
        return "CPU", {"CPU": cpu if cpu >= memory else 0.0, "Mem": memory if memory > cpu else 0.0, "NVMe": storage}
    if partition in ("medium", "large"):
        return "CPU", {"CPU": 288.0 * job["nodes"], "Mem": 0.0, "NVMe": storage}
    if partition in ("gputest", "gpumedium", "gpularge"):
        return "GPU", {"GPU": 200.0 * job["gpus"], "NVMe": storage}
    return None


def mahti(partition: str, job: dict[str, Any]) -> Bill | None:
    """As `roihu`."""
    if partition in ("medium", "large"):
        return "CPU", {"Non-Interactive": 100.0 * job["nodes"]}
    if partition == "small":
        return "CPU", {"CPU": 1.0 * job["cores"], "NVMe": 0.01 * job["nvme"]}
    if partition in ("gpusmall", "gpumedium", "gputest"):
        slices = job["gres"].get("gpu:a100_1g.5gb", 0)
        return "GPU", {"GPU": 100.0 * (job["gpus"] - slices) + 15.0 * slices, "NVMe": 0.01 * job["nvme"]}
    return None


def puhti(partition: str, job: dict[str, Any]) -> Bill | None:
    """As `roihu`."""
    shared = {"CPU": 1.0 * job["cores"], "Mem": 0.1 * job["memory"], "NVMe": 0.006 * job["nvme"]}
    if partition in ("test", "interactive", "small", "large", "longrun", "hugemem"):
        return "CPU", shared
    if partition in ("gpu", "gputest"):
        return "GPU", {**shared, "GPU": 60.0 * job["gpus"]}
    return None


def lumi(partition: str, job: dict[str, Any]) -> Bill | None:
    """As `roihu`; the units are core-hours and GPU-hours."""
    cores = job["cores"] / 2  # allocated are hardware threads
    if partition == "standard":
        return "CPU", {"CPU": 128.0 * job["nodes"]}
    if partition in ("small", "debug"):
        return "CPU", {"CPU": max(cores, math.ceil(job["memory"] / 2))}
    if partition == "standard-g":
        return "GPU", {"GPU": 4.0 * job["nodes"]}
    if partition in ("small-g", "dev-g"):
        return "GPU", {"GPU": 0.5 * max(math.ceil(cores / 8), math.ceil(job["memory"] / 64), job["gpus"])}
    return None


RATES = {"roihu": roihu, "mahti": mahti, "puhti": puhti, "lumi": lumi}


def rows(*options: str) -> list[Row]:
    """Returns sacct's rows of whole jobs, as dictionaries."""
    fields = ("JobID", "AllocTRES", "ElapsedRaw", "Partition", "Account", "Comment")
    command = ["/usr/bin/sacct", "-X", "-n", "-P", *options, "-o", ",".join(fields)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [dict(zip(fields, line.split("|"), strict=True)) for line in text.splitlines()]


def bill(site: str, row: Row) -> Bill | None:
    """Returns the kind of units that a job is paid in, and the units by what they are for; None without a rate."""
    if not row["AllocTRES"]:
        return None
    amounts = dict(item.split("=") for item in row["AllocTRES"].split(","))
    gres = {name[len("gres/") :]: int(amount) for name, amount in amounts.items() if name.startswith("gres/")}
    rate = RATES[site](
        row["Partition"],
        {
            "nodes": int(amounts["node"]),
            "cores": int(amounts["cpu"]),
            "memory": gibibytes(amounts["mem"]),
            "gpus": gres.get("gpu", 0),
            "nvme": gres.get("nvme", 0),
            "gres": gres,
        },
    )
    if rate is None:
        return None
    kind, hourly = rate
    return kind, {name: units * int(row["ElapsedRaw"]) / 3600 for name, units in hourly.items()}


def gibibytes(text: str) -> float:
    """Reads a size such as 1000M."""
    return float(text[:-1]) * {"K": 1 / 1024**2, "M": 1 / 1024, "G": 1.0, "T": 1024.0}[text[-1]]


def spent(project: str, sites: Sequence[str], kind: str) -> float:
    """Returns what a project's jobs cost at these sites, in units of a kind; jobs carry the site in their comment."""
    bills = [
        bill(row["Comment"], row)
        for row in rows("-a", "--duplicates", "-A", project, "-S", "2026-01-01")
        if row["Comment"] in sites
    ]
    return sum(sum(parts.values()) for paid, parts in filter(None, bills) if paid == kind)


def projects() -> dict[str, Any]:
    """Returns what tests may set about projects: budgets and quotas."""
    known: dict[str, Any] = json.loads((RUN / "projects.json").read_text())
    return known


def mine(project: str) -> bool:
    """Tells whether a project is that of the user who asks."""
    return bool(projects().get(project, {}).get("owner") == os.environ.get("USER"))


def project_option() -> str:
    """Returns what stands after -p."""
    if len(sys.argv) != 3 or sys.argv[1] != "-p":
        sys.exit(f"usage: {Path(sys.argv[0]).name} -p PROJECT")
    return sys.argv[2]


def now() -> datetime:
    """Returns the time on the site's clocks on the wall."""
    return datetime.now(ZONE)
