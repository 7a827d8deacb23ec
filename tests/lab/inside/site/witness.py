"""What the sites that this lab plays know of their jobs and projects, from the real accounting.

An independent witness: rates and prints are the practice site's, nothing comes from what rayslurm reads sites with.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from exporter.practice import rates
from exporter.practice.prints import Area

SITE = os.environ.get("LAB_SITE", "")
RUN = Path("/srv/lab/run")
PROJECT_FILES = Path("/var/lib/project_info/users")
ZONE = ZoneInfo("Europe/Helsinki")
Row = dict[str, str]
CSC = ("roihu", "mahti", "puhti")


def rows(*options: str) -> list[Row]:
    """Returns sacct's rows of whole jobs, as dictionaries."""
    fields = ("JobID", "AllocTRES", "ElapsedRaw", "Partition", "Account", "Comment")
    command = ["/usr/bin/sacct", "-X", "-n", "-P", *options, "-o", ",".join(fields)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [dict(zip(fields, line.split("|"), strict=True)) for line in text.splitlines()]


def bill(site: str, row: Row) -> rates.Bill | None:
    """Returns what a job of these rows cost at a site; None without a rate."""
    if not row["AllocTRES"]:
        return None
    amounts = dict(item.split("=") for item in row["AllocTRES"].split(","))
    slices = int(amounts.get("gres/gpu:a100_1g.5gb", 0))
    allocated = rates.Allocated(
        nodes=int(amounts["node"]),
        cpus=int(amounts["cpu"]),
        memory=gibibytes(amounts["mem"]),
        gpus=int(amounts.get("gres/gpu", 0)) - slices,
        slices=slices,
        nvme=int(amounts.get("gres/nvme", 0)),
    )
    return rates.bill(site, row["Partition"], allocated, int(row["ElapsedRaw"]))


def gibibytes(text: str) -> float:
    """Reads a size such as 1000M."""
    return float(text[:-1]) * {"K": 1 / 1024**2, "M": 1 / 1024, "G": 1.0, "T": 1024.0}[text[-1]]


def spent(project: str, sites: Sequence[str]) -> dict[str, float]:
    """Returns what a project's jobs cost at these sites, by kind of units; jobs carry the site in their comment."""
    found = {"CPU": 0.0, "GPU": 0.0}
    for row in rows("-a", "--duplicates", "-A", project, "-S", "2026-01-01"):
        paid = bill(row["Comment"], row) if row["Comment"] in sites else None
        if paid is not None:
            found[paid[0]] += sum(paid[1].values())
    return found


def projects() -> dict[str, Any]:
    """Returns what tests may set about projects: budgets and quotas."""
    known: dict[str, Any] = json.loads((RUN / "projects.json").read_text())
    return known


def mine() -> dict[str, Any]:
    """Returns the projects of the user who asks."""
    return {name: about for name, about in projects().items() if about["owner"] == os.environ.get("USER")}


def area(path: str, folder: Path, quota: Sequence[int], cleanup: str = "n/a") -> Area:
    """Returns an area with what is really used of it."""
    found = [Path(top, name).lstat().st_size for top, _, names in os.walk(folder) for name in names]
    return Area(path, sum(found), len(found), (quota[0], quota[1]), cleanup)


def project_option() -> str:
    """Returns what stands after -p."""
    if len(sys.argv) != 3 or sys.argv[1] != "-p":
        sys.exit(f"usage: {Path(sys.argv[0]).name} -p PROJECT")
    return sys.argv[2]


def now() -> datetime:
    """Returns the time on the site's clocks on the wall."""
    return datetime.now(ZONE)
