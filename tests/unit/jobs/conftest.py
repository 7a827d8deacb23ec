"""The supervisor as a module, and jobs to run it in."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.unit.jobs.harness import Job, load_supervisor


@pytest.fixture(scope="session")
def ray_job() -> ModuleType:
    return load_supervisor()


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    # Sockets need short paths, which tmp_path is not.
    temp_dir = Path(tempfile.mkdtemp(prefix="rj", dir="/tmp"))
    made = Job(tmp_path, temp_dir)
    yield made
    made.clear()
    shutil.rmtree(temp_dir, ignore_errors=True)
