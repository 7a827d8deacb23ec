"""The days before a stack test, written by it: how the practice projects' balances rose, as Prometheus would have it.

What is worked out per day needs hours to days of balances, and no test waits for these. Only the balances are written,
and when they were read; all that is recorded from them is worked out by Prometheus with the rules that are shipped.
"""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

from tests.prometheus_server import program

DAYS = 8
STEP_SECONDS = 600
MADE_DAYS = 56
"""For how many days a practice project has used its units."""

_USED = re.compile(r"^rayslurm_allocation_used\{(.*)\} (\S+)$", re.MULTILINE)
_PROJECT = re.compile(r'(?:provider|project)="[^"]*"')
READ = "rayslurm_allocation_read_timestamp_seconds"


def write_history(page: str, instance: str, database: Path, scratch: Path) -> int:
    """Writes blocks with the balances of the days before, which end with those of the page.

    Args:
        page: what the exporter says now.
        instance: its address, as Prometheus names it.
        database: Prometheus's, which must not run.
        scratch: a folder.

    Returns:
        How many balances have a history.
    """
    balances = [(match[1], float(match[2])) for match in _USED.finditer(page)]
    now = int(time.time())
    moments = range((now - DAYS * 86400) // STEP_SECONDS * STEP_SECONDS, now - STEP_SECONDS, STEP_SECONDS)
    used, read = ["# TYPE rayslurm_allocation_used gauge"], [f"# TYPE {READ} gauge"]
    for labels, amount in balances:
        whole = f'{{instance="{instance}",job="rayslurm",{labels}}}'
        for moment in moments:
            part = amount * (1 - (now - moment) / (MADE_DAYS * 86400))
            used.append(f"rayslurm_allocation_used{whole} {part} {moment}")
    for labels in dict.fromkeys(",".join(_PROJECT.findall(labels)) for labels, _ in balances):
        read += [f'{READ}{{instance="{instance}",job="rayslurm",{labels}}} {moment} {moment}' for moment in moments]
    text = scratch / "history.txt"
    text.write_text("\n".join([*used, *read, "# EOF"]) + "\n", encoding="utf-8")
    database.mkdir(parents=True)
    subprocess.run(
        [program("promtool"), "tsdb", "create-blocks-from", "openmetrics", "-q", text, database],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    return len(balances)
