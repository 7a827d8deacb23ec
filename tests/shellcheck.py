"""shellcheck on a script that was rendered."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest


def assert_clean(script: str) -> None:
    """Fails where shellcheck finds anything; without it the test is skipped, but never in CI."""
    program = shutil.which("shellcheck")
    if program is None:
        assert not os.environ.get("CI"), "in CI shellcheck is there"
        pytest.skip("NOT CHECKED: there is no shellcheck")
    found = subprocess.run([program, "--shell=bash", "-"], input=script, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout
