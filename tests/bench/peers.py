"""The field's Python peers on the same rows, each as the program that its users start.

Both ask `sacct` themselves; here that is a script that prints a file made beforehand, in the columns and the form that
they ask for. They do other work than `rayslurm parse` (reportseff prints a table of efficiencies from 12 columns,
slurm2sql fills an SQLite database from 60), so the ratios say how they compare, and there is no target.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

from tests.bench.measured import Line, beside, milliseconds, taking_turns
from tests.bench.rows import cells, lines, table

ROWS = 100_000
VENV = Path("build/bench-venv")

_SACCT = """\
#!/bin/sh
for word; do
  case $word in
    --helpformat) exec cat {folder}/fields ;;
    --format=*) exec cat {folder}/rows ;;
    -o) shift; exec cat {folder}/rows ;;
  esac
done
"""
_COUNT = "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('select count(*) from slurm').fetchone()[0])"
del _COUNT
