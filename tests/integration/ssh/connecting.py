"""What tests of the way over SSH share."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from exporter.client.ssh import SshTransport

Connect = Callable[..., SshTransport]

SIZE = 60_000
"""Of an answer or a file that is cut off: more than one packet of SSH."""


@contextmanager
def small_disk(folder: Path, options: str) -> Iterator[Path]:
    """Mounts a file system in memory. Where that can't be done the test fails if CI is true, and is skipped if not."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        reason = f"no small disk can be mounted: {mounted.stderr.splitlines()[0]}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
