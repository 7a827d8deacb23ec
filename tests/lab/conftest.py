"""Brings up the lab for the tests in this folder, and moves them into the cloud VM's network."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.lab import lab as lab_module
from tests.lab.lab import HERE, Lab

RUNNING = pytest.StashKey[Lab]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
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
        lab_module.script("down")


@pytest.fixture(scope="session")
def ray_venv(lab: Lab) -> Path:
    """A directory with bin/ray in it, the same on this machine and on all nodes."""
    return lab.ray()
