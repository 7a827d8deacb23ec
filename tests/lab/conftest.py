"""Brings up the lab for the tests in this folder, and moves them into the cloud VM's network.

Where pytest runs several tests at a time, each of its processes has a lab of its own; Ray is shared.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.lab import lab as lab_module
from tests.lab.lab import HERE, Lab

RUNNING = pytest.StashKey[Lab]()

PROCESS = os.environ.get("PYTEST_XDIST_WORKER")
if PROCESS is not None:
    usual = lab_module.root()
    os.environ["RAYSLURM_LAB_CACHE"] = os.environ.get("RAYSLURM_LAB_CACHE") or str(usual)
    os.environ["RAYSLURM_LAB"] = str(usual / PROCESS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The lab's tests go first: they wait much, and side by side they leave room for the others only at the end."""
    items.sort(key=lambda item: HERE not in item.path.parents)
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.lab)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Between lab tests others may run, and theirs is this machine's network."""
    running = item.config.stash.get(RUNNING, None)
    if running is not None:
        if "lab" in getattr(item, "fixturenames", ()):
            running.join()
        else:
            running.leave()
    return (yield)


@pytest.fixture(scope="session")
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """The running lab, with this process in the cloud VM's network. One that was up before stays up."""
    reason = lab_module.why_not()
    if reason is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must run the lab, and cannot: {reason}", pytrace=False)
        pytest.skip(f"NOT TESTED AGAINST A REAL SLURM: {reason}")
    ours = not lab_module.is_up()
    if ours:
        lab_module.script("up", timeout=280)
    running = Lab()
    running.join()
    request.config.stash[RUNNING] = running
    yield running
    del request.config.stash[RUNNING]
    running.leave()
    if ours:
        lab_module.script("down", *(["--purge"] if PROCESS is not None else []))


@pytest.fixture(scope="session")
def ray_venv(lab: Lab) -> Path:
    """A directory with bin/ray in it, the same on this machine and on all nodes."""
    return lab.ray()


@pytest.fixture(scope="session")
def old_ray_venv(lab: Lab) -> Path:
    """The same with Ray 2.47, which knows no tokens."""
    return lab.ray("2.47")
