"""The field's Python peers on the same rows, each as the program that its users start.

Both ask `sacct` themselves; here that is a script that prints the rows in the columns and the form that they ask for,
made before anything is measured. They do other work than `rayslurm parse`: reportseff prints a table of efficiencies,
slurm2sql fills an SQLite database. So the table says what they took, and there is no target.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path

from tests.bench.measured import Line, beside, milliseconds, taking_turns
from tests.bench.parsing import ROWS
from tests.bench.rows import table

ROOT = Path(__file__).parents[2]
VENV = ROOT / "build/bench-venv"

_SCRIPT = "#!/bin/sh\nexec '{python}' -m tests.bench.fake_sacct \"$@\"\n"


def measure() -> Iterator[Line]:
    """Measures each peer that is installed, as a whole process, beside `rayslurm parse`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = _site(folder)
        text, database = folder / "sacct.txt", folder / "slurm.db"
        text.write_text(table(ROWS), encoding="utf-8")
        ours = [str(Path(sys.executable).with_name("rayslurm")), "parse", "sacct", str(text), "--json"]
        peers = {
            "reportseff": ("reportseff, 12 columns to a table", ["--since", "2026-01-01", "--no-color"]),
            "slurm2sql": ("slurm2sql, 50 columns to SQLite", [str(database), "-a"]),
        }
        what = f"rayslurm parse sacct --json, {ROWS:,} rows"
        for peer, (does, words) in peers.items():
            if not (VENV / "bin" / peer).exists():
                yield Line(what, "", f"{peer}: could not be installed")
                continue
            theirs = [str(VENV / "bin" / peer), *words]
            fault = _fault(theirs, environment, peer, database)
            if fault:
                yield Line(what, "", f"{peer}: does not run here: {fault}")
                continue
            works: dict[str, Callable[[], object]] = {
                "ours": partial(_run, ours, environment),
                "theirs": partial(_run, theirs, environment),
            }
            took = taking_turns(works, rounds=3)
            against = f"{does} {milliseconds(took['theirs'])}"
            yield beside(what, milliseconds(took["ours"]), against, took["ours"] / took["theirs"])


def _site(folder: Path) -> dict[str, str]:
    """Makes the commands that the peers ask, and returns the environment in which they are found."""
    for command, text in (("sacct", _SCRIPT.format(python=sys.executable)), ("scontrol", "#!/bin/sh\n")):
        (folder / command).write_text(text, encoding="utf-8")
        (folder / command).chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "TZ": "UTC", "BENCH_SACCT": f"{folder}:{ROWS}"}


def _run(words: list[str], environment: Mapping[str, str]) -> None:
    subprocess.run(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)


def _fault(words: list[str], environment: Mapping[str, str], peer: str, database: Path) -> str:
    """Runs a peer once, so that its rows are made, and says what is wrong with it: it must have read every row."""
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1][:100]
    if peer == "slurm2sql":
        with closing(sqlite3.connect(database)) as opened:
            found, expected = opened.execute("SELECT count(*) FROM slurm").fetchone()[0], ROWS
    else:
        found, expected = len(done.stdout.strip().splitlines()) - 1, (ROWS + 3) // 4
    return "" if found == expected else f"read {found} of {expected}"
