"""How long sacct's rows take, and how much memory."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from exporter.client.commands import SACCT_FIELDS
from exporter.parsers import sacct
from tests.bench.measured import Line, beside, milliseconds, taking_turns
from tests.bench.rows import DELIMITER, table

ROWS = 100_000
MOST = 20
_MEMORY_GROWS = 1.1
"""So much more memory ten times the rows may take and still be called flat."""

_PEAK = """
from exporter.parsers import sacct
with open({path!r}, encoding="utf-8", newline="\\n") as file:
    count = sum(len(piece.records) for piece in sacct.parse_file(file))
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(count, status["VmHWM"].split()[0])
"""


def measure() -> Iterator[Line]:
    """Measures the parser against a bare loop over the same text, and its peak memory for more and more rows."""
    text = table(ROWS)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "sacct.txt")
        path.write_text(text, encoding="utf-8")
        took = taking_turns(
            {"split": lambda: _split(text), "parse": lambda: sacct.parse(text), "file": lambda: _from_file(path)},
            rounds=5,
        )
        bare = f"str.split loop {milliseconds(took['split'])}"
        what = f"parse of {ROWS:,} sacct rows, {len(SACCT_FIELDS)} fields"
        yield beside(what, milliseconds(took["parse"]), bare, took["parse"] / took["split"], MOST)
        yield beside("the same, job by job from a file", milliseconds(took["file"]), bare, took["file"] / took["split"])
        few, many = (_peak_mb(rows, Path(folder)) for rows in (ROWS // 10, ROWS))
    grown = many / few
    target = f"flat: <= {_MEMORY_GROWS:g} x"
    against = f"{ROWS // 10:,} rows {few:.1f} MB"
    yield Line(f"memory of that for {ROWS:,} rows", f"{many:.1f} MB", against, grown, target, grown <= _MEMORY_GROWS)


def _split(text: str) -> None:
    for line in text.split("\n"):
        line.split(DELIMITER)


def _from_file(path: Path) -> None:
    with path.open(encoding="utf-8", newline="\n") as file:
        for _ in sacct.parse_file(file):
            pass


def _peak_mb(rows: int, folder: Path) -> float:
    path = folder / f"{rows}.txt"
    path.write_text(table(rows), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", _PEAK.format(path=str(path))], capture_output=True, text=True, check=True
    )
    count, peak = done.stdout.split()
    assert int(count) == (rows + 3) // 4, "a job has four rows"
    return int(peak) / 1024
