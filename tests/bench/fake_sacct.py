"""`sacct` as the peers call it: prints the bench's rows in the columns that are asked for, kept for the next call."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from tests.bench.rows import cells, lines

_COLUMNS = """
    JobID JobIDRaw JobName User Group Account State Timelimit Elapsed Submit Start End Partition ExitCode ReqNodes
    NNodes NTasks AllocNodes AllocTRES TRESUsageInTot NCPUS ReqCPUS AllocCPUS CPUTime TotalCPU ReqMem MaxRSS AveDiskRead
    AveDiskWrite ConsumedEnergyRaw
"""


def main() -> None:
    """Prints what the command line asks for."""
    words = sys.argv[1:]
    if "--helpformat" in words:
        print(_COLUMNS)
        return
    folder, rows = os.environ["BENCH_SACCT"].rsplit(":", 1)
    kept = Path(folder, hashlib.sha256(" ".join(words).encode()).hexdigest())
    if not kept.exists():
        kept.write_text("".join(_answer(words, int(rows))), encoding="utf-8")
    with kept.open("rb") as file:
        shutil.copyfileobj(file, sys.stdout.buffer)


def _answer(words: Sequence[str], rows: int) -> Iterator[str]:
    columns = (_option(words, "--format") or _option(words, "-o")).split(",")
    delimiter = _option(words, "--delimiter")
    end = f"{delimiter}\n" if "--parsable" in words else "\n"
    if "-n" not in words:
        yield delimiter.join(columns) + end
    for line in lines(map(_local, cells(rows)), columns, delimiter):
        yield line + end


def _local(row: dict[str, str]) -> dict[str, str]:
    """A row with its times as sacct prints them where nobody asks for seconds."""
    times = {column: datetime.fromtimestamp(int(row[column]), UTC) for column in ("Submit", "Start", "End")}
    return row | {column: f"{time:%Y-%m-%dT%H:%M:%S}" for column, time in times.items()}


def _option(words: Sequence[str], name: str) -> str:
    for number, word in enumerate(words):
        if word == name:
            return words[number + 1]
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return ""


if __name__ == "__main__":
    main()
