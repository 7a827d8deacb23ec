"""Parsers take time in proportion to the text, also to a text made to slow them down."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from exporter.errors import InputError
from exporter.parsers import sacct, squeue

SMALL, LARGE = 5_000, 20_000
PROPORTION = LARGE / SMALL
SLACK = 2
"""Work that grows with the square would take 16 times as long, not 4."""
PAIRS = 5

COLUMNS = (
    "JobID|User|Account|Partition|State|ExitCode|ReqCPUS|AllocCPUS|ReqNodes|AllocNodes|Submit|Start|End|ElapsedRaw|"
    "TimelimitRaw|Planned|CPUTimeRAW|TotalCPU|AveCPUFreq|AveDiskRead|MaxRSS|TRESUsageInTot|ReqMem|AllocTRES|JobName"
)
JOB = (
    "{0}|alice|project_1|standard|COMPLETED|0:0|256|512|2|2|2026-06-01T10:00:00|2026-06-01T10:05:00|2026-06-01T11:05:00|3600|"
    "1440|00:05:00|1843200|10-02:03:04|||||448G|billing=512,cpu=512,mem=448G,node=2|train"
)
STEP = (
    "{0}.{1}||project_1||COMPLETED|0:0|256|512|2|2|2026-06-01T10:05:00|2026-06-01T10:05:00|2026-06-01T11:05:00|3600|"
    "||1843200|10-02:03:04|2.45G|98.40M|150G|cpu=00:00:08,mem=150G|448G|cpu=512,mem=448G,node=2|work"
)


def accounting(rows: int) -> str:
    lines = [COLUMNS]
    for job in range(rows // 4):
        lines.append(JOB.format(job + 1))
        lines += [STEP.format(job + 1, step) for step in ("batch", "extern", "0")]
    return "\n".join(lines)


def queue(rows: int) -> str:
    header = "             JOBID PARTITION     NAME     USER ST       TIME  NODES NODELIST(REASON)"
    return "\n".join(
        [header, *(f"{row:18}     small     work    alice  R 1-02:03:04      2 n[01-02]" for row in range(1, rows))]
    )


SLOWING: dict[str, Callable[[int], str]] = {
    "steps without jobs": lambda rows: "JobID|State\n" + "".join(f"{row}.0|FAILED\n" for row in range(rows)),
    "attempts of one job": lambda rows: "JobID|Submit\n" + "".join(f"5|{row + 1}\n" for row in range(rows)),
    "short rows": lambda rows: "JobID|SubmitLine|State\n" + "5|x\n" * rows,
    "line breaks": lambda rows: "JobID|SubmitLine|State\n5|x" + "\n" * rows,
    "words": lambda rows: "JobID|State|JobName\n5|FAILED|x\n" + "word\n" * rows,
    "headers": lambda rows: "JobID|State\n" * rows,
    "almost headers": lambda rows: "JobID|State\n" + "JobID|State|=\n" * rows,
    "one long header": lambda rows: "JobID|" * rows,
    "rules": lambda rows: "JobID\n" + "-----\n" * rows,
    "long lines of dashes": lambda rows: "JobID\n" + "- " * rows + "x",
    "escape codes": lambda rows: "\x1b]0;" * rows + "JobID\n5\n",
}


def ratio(parse: Callable[[str], object], make: Callable[[int], str]) -> tuple[float, float]:
    """How much longer the large text takes, and how long that is.

    The median over pairs that are measured one right after the other: another program that takes the processor for a
    while hits one pair, not the verdict.
    """
    small, large = make(SMALL), make(LARGE)
    pairs = [(seconds(parse, small), seconds(parse, large)) for _ in range(PAIRS)]
    return statistics.median(long / short for short, long in pairs), min(long for _, long in pairs)


def seconds(parse: Callable[[str], object], text: str) -> float:
    """Without the garbage collector, which looks through all records again and again and grows faster than they do."""
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        with suppress(InputError):
            parse(text)
        return time.perf_counter() - start
    finally:
        gc.enable()


@pytest.mark.parametrize(("parse", "text"), [(sacct.parse, accounting), (squeue.parse, queue)], ids=["sacct", "squeue"])
def test_time_is_in_proportion_to_rows(parse: Callable[[str], object], text: Callable[[int], str]) -> None:
    found, longest = ratio(parse, text)
    print(f"{LARGE} rows in {longest:.3f} s, ratio to {SMALL} rows {found:.2f}")
    assert found < PROPORTION * SLACK


@pytest.mark.parametrize("name", SLOWING)
def test_text_made_to_slow_it_down(name: str) -> None:
    found, longest = ratio(sacct.parse, SLOWING[name])
    print(f"{name}: {longest:.4f} s, ratio {found:.2f}")
    assert longest < 0.01 or found < PROPORTION * SLACK
