"""Programs of npm beside these tests, installed into build/ by their locks."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent.parent / "build"
_INSTALL_SECONDS = 280


class MissingError(Exception):
    """Something that has to be installed is not there; the message says what and why."""


def installed(name: str) -> Path:
    """Returns build/grafana/NAME with the sources of tests/grafana/NAME and what its lock names beside them.

    Raises:
        MissingError: npm is not there, or it could not install.
    """
    folder = BUILD / "grafana" / name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for source in (HERE / name).iterdir():
            shutil.copy(source, folder)
        stamp = folder / "node_modules" / ".installed"
        wanted = hashlib.sha256((folder / "package-lock.json").read_bytes()).hexdigest()
        if not stamp.is_file() or stamp.read_text(encoding="utf-8") != wanted:
            _install(folder)
            stamp.write_text(wanted, encoding="utf-8")
    return folder


def _install(folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise MissingError("npm is not installed")
    command = [npm, "ci", "--ignore-scripts", "--no-progress", "--cache", str(BUILD / "npm-cache")]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=_INSTALL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise MissingError(f"npm could not install {folder.name} within {_INSTALL_SECONDS} s") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("npm error")]
        raise MissingError(f"npm could not install {folder.name}: {' '.join(lines)[:500]}")


def installed_or_skip(name: str) -> Path:
    """As `installed`; where that can't be, the test fails where CI is true, and is skipped elsewhere."""
    try:
        return installed(name)
    except MissingError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))
