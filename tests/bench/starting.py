"""How long `rayslurm --help` takes, beside a Python that does nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.bench.measured import Line, beside, milliseconds, taking_turns

MOST = 25


def measure() -> Iterator[Line]:
    """Measures both, taking turns."""
    rayslurm = Path(sys.executable).with_name("rayslurm")
    took = taking_turns(
        {"help": partial(_run, str(rayslurm), "--help"), "bare": partial(_run, sys.executable, "-c", "pass")}, rounds=15
    )
    against = f"python -c pass {milliseconds(took['bare'])}"
    yield beside("rayslurm --help", milliseconds(took["help"]), against, took["help"] / took["bare"], MOST)


def _run(*words: str) -> None:
    subprocess.run(words, stdout=subprocess.DEVNULL, check=True)
