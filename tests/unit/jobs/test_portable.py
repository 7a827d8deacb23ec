"""The supervisor runs on whatever Python a site has, by itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from tests.unit.jobs.harness import SUPERVISOR


def test_it_asks_for_no_python_newer_than_3_6() -> None:
    vermin = Path(sys.executable).with_name("vermin")
    found = subprocess.run([vermin, "-t=3.6-", "--no-tips", SUPERVISOR], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr


def test_it_imports_nothing_that_does_not_come_with_python() -> None:
    names = set()
    for node in ast.walk(ast.parse(SUPERVISOR.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    assert names <= sys.stdlib_module_names
