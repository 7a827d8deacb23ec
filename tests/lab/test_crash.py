"""Never a doubled job, never a lost one: `serve` killed at every step and at random, and replies lost in other ways.

All tests share one store. The last one compares its journal with accounting. `RAYSLURM_CRASH_KILLS` says how many kills
come at random moments: few in `make test`, a hundred in `make crash-test`.
"""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from exporter.errors import StoreError
from exporter.launch.steps import STEPS
from exporter.store import counters
from exporter.store.db import Store
from tests.lab.crash import SPEC, Crashing, in_accounting
from tests.lab.lab import Lab
from tests.lab.serving import RAYSLURM, SITE, configure, own_site

pytestmark = pytest.mark.timeout(1500)

RANDOM_KILLS = int(os.environ.get("RAYSLURM_CRASH_KILLS") or 6)
WAITING = 4
"""How many launches wait for a `serve` that is to be killed at random."""

SLOWED = ("late-start 0.2", "late-reply 0.2")
"""`sbatch` at a real site takes longer than in the lab: either before it submits, or after."""

STORE_BYTES = 24 << 20


@pytest.fixture(scope="module")
def before(lab: Lab) -> set[str]:
    """The jobs that were there before."""
    return {job_id for job_id, _, _ in in_accounting(lab)}


@pytest.fixture(scope="module")
def crashing(lab: Lab, before: set[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crashing]:
    folder = tmp_path_factory.mktemp("crash")
    # Fast, but slow enough for accounting's lag of a few seconds to be within what is waited for it.
    rayslurm = configure(
        lab, folder, partition="small", python="true", practice_clock_factor=200, budget={"commands_per_hour": 240},
        ssh={"command_deadline": "6s"},
    )  # fmt: skip
    (folder / "crash.yaml").write_text(SPEC)
    (folder / "brought").write_text("print()\n")
    # A disk of its own, so that it can be full.
    rayslurm.state_dir.mkdir(mode=0o700)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={STORE_BYTES},mode=700", "none", str(rayslurm.state_dir)], check=True
    )
    try:
        with own_site(lab), Store(rayslurm.state_dir / "rayslurm.sqlite3") as store:
            yield Crashing(lab, rayslurm, store)
    finally:
        subprocess.run(["umount", str(rayslurm.state_dir)], check=True)


@contextmanager
def daemon_stopped(lab: Lab, daemon: str) -> Iterator[None]:
    lab.service("ctl", "stop", daemon)
    try:
        yield
    finally:
        lab.service("ctl", "start", daemon)


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_each_step(crashing: Crashing, step: str) -> None:
    known = len(crashing.journal())
    number = crashing.ask()
    crashing.crash_at(step)
    if step == "asked":
        assert len(crashing.journal()) == known, "nothing was intended yet"
        return
    token = crashing.newest().token
    assert len(crashing.journal()) == known + 1
    expected = {
        **dict.fromkeys(("journalled", "folder-made", "bringing", "copying", "copied"), "absent"),
        "submitting": "absent",
        "answered": "adopted",
        "noted": "submitted",
    }
    with crashing.started():
        crashing.await_state(token, expected[step])
        # The person is told, and nothing is done twice.
        crashing.wait(lambda: crashing.request(number).state == "failed", 30, "the request's answer")


@pytest.mark.parametrize("when", ["late-start", "late-reply"])
def test_killed_while_sbatch_runs(crashing: Crashing, when: str) -> None:
    with crashing.lab.fault("sbatch", f"{when} 2"):
        crashing.ask()
        sent = len(crashing.lab.site_log())
        with crashing.started() as process:
            crashing.wait(
                lambda: any(entry.program == "sbatch" for entry in crashing.lab.site_log()[sent:]), 30, "sbatch runs"
            )
            row = crashing.newest()
            if when == "late-reply":
                crashing.wait(lambda: known_to_site(crashing, row.slurm_name), 30, "the job is accepted")
            crashing.kill(process)
        with crashing.started():
            crashing.await_state(row.token, "adopted")


def known_to_site(crashing: Crashing, name: str) -> bool:
    return bool(crashing.lab.on("login", "squeue", "-h", "-t", "all", "-n", name, "-o", "%i").stdout.strip())


def test_killed_at_random_moments(crashing: Crashing) -> None:
    chance = random.Random(20261124)
    crashing.ask()
    for number in range(RANDOM_KILLS):
        for _ in range(WAITING - len(crashing.requests_in("waiting"))):
            crashing.ask()
        with crashing.lab.fault("sbatch", SLOWED[number % 2]), crashing.started() as process:
            crashing.wait(crashing.under_way, 60, "a launch is begun")
            time.sleep(chance.uniform(0, 0.8))  # the random moment
            crashing.kill(process, at_random=True)
    with crashing.started():
        crashing.await_settled(180)
    assert crashing.tally.in_flight_at_random >= 0.8 * RANDOM_KILLS


@pytest.mark.parametrize("how", ["packets vanish", "session killed"])
def test_the_connection_is_cut_before_the_reply(crashing: Crashing, how: str) -> None:
    lab = crashing.lab
    with lab.fault("sbatch", "late-reply 4"), crashing.started():
        crashing.ask()
        crashing.wait(lambda: crashing.newest().state == "submitting", 30, "being submitted")
        row = crashing.newest()
        crashing.wait(lambda: known_to_site(crashing, row.slurm_name), 30, "the job is accepted")
        if how == "packets vanish":
            lab.cut()
        else:
            lab.service("login", "restart", "sshd")
        try:
            crashing.await_state(row.token, "unknown")
        finally:
            lab.mend()
        crashing.await_state(row.token, "adopted")


def test_slurmctld_is_down(crashing: Crashing) -> None:
    with crashing.started():
        with daemon_stopped(crashing.lab, "slurmctld"):
            done = crashing.rayslurm.run("launch", "crash.yaml", check=False, cwd=crashing.rayslurm.folder)
            row = crashing.newest()
            assert done.returncode == 1
            assert "whether a job came of it is not known" in done.stderr
            assert f"squeue --me --name={row.slurm_name}" in done.stderr, "how to look by hand"
            shown = crashing.rayslurm.json("status")["unsettled"]
            assert [(one["token"], one["state"]) for one in shown] == [(row.token, "unknown")]
        crashing.await_state(row.token, "absent")
    absent = crashing.rayslurm.run("status").stderr
    assert f"{row.token}" in absent
    assert "became no job" in absent


def test_slurmdbd_is_down(crashing: Crashing) -> None:
    crashing.ask()
    crashing.crash_at("submitting")
    without_job = crashing.newest()
    with crashing.started():
        with daemon_stopped(crashing.lab, "slurmdbd"):
            crashing.ask()
            crashing.wait(lambda: crashing.newest().state == "submitted", 60, "submitted without accounting")
            failures = crashing.rayslurm.log().count("probe submissions: sacct ended with")
            crashing.wait(
                lambda: crashing.rayslurm.log().count("probe submissions: sacct ended with") >= failures + 2,
                60,
                "two more looks that accounting did not answer",
            )
            assert crashing.state_of(without_job.token) == "unknown", "absent takes both answers"
        crashing.await_state(without_job.token, "absent")
    crashing.ask()
    crashing.crash_at("answered")
    with_job = crashing.newest()
    with daemon_stopped(crashing.lab, "slurmdbd"), crashing.started():
        crashing.await_state(with_job.token, "adopted")


@pytest.mark.parametrize("shift", [3600, -3600])
def test_the_clock_is_an_hour_off(crashing: Crashing, shift: int) -> None:
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
    clock = {"LD_PRELOAD": str(library), "FAKETIME": f"{shift:+d}s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    wrong = replace(crashing, rayslurm=replace(crashing.rayslurm, extra=clock))
    for step, expected in (("answered", "adopted"), ("submitting", "absent")):
        crashing.ask(clock=shift)
        wrong.crash_at(step)
        row = crashing.newest()
        assert row.created - time.time() == pytest.approx(shift, abs=60), "the clock was off"
        with crashing.started():
            crashing.await_state(row.token, expected)


def room_left(crashing: Crashing, filler: Path) -> bool:
    """Fills the store's disk to the last byte; tells whether something could be written all the same."""
    with closing(sqlite3.connect(crashing.store.path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with filler.open("ab", buffering=0) as file:
        for size in (1 << 16, 1 << 9, 1):
            with suppress(OSError):
                while True:
                    file.write(b"x" * size)
    try:
        crashing.store.write(lambda connection: counters.add(connection, "jobs_submitted_total", 0, site="full"))
    except StoreError:
        return False
    return True


def launching(crashing: Crashing, *options: str) -> list[str]:
    folder = crashing.rayslurm.folder
    return [
        RAYSLURM, "launch", str(folder / "crash.yaml"),
        "--config", str(folder / "rayslurm.yaml"), *options,
    ]  # fmt: skip


def test_the_disk_under_the_store_is_full(crashing: Crashing) -> None:
    filler = crashing.rayslurm.state_dir / "filler"

    def fill() -> None:
        """Until not even the write-ahead log, which is cut down to nothing before, finds room to grow."""
        crashing.lab.wait(lambda: not room_left(crashing, filler), 30, "a full disk")

    with crashing.started() as process:
        crashing.rayslurm.await_ready(process)
        known = len(crashing.journal())
        fill()
        try:
            done = subprocess.run(launching(crashing), capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == 1
            assert "Traceback" not in done.stderr, done.stderr
            assert "is there room" in done.stderr
        finally:
            filler.unlink()
        # Where the intention found room all the same, it came to nothing, and that is written down later.
        for row in crashing.journal()[known:]:
            crashing.await_state(row.token, "absent")

        with crashing.lab.fault("sbatch", "late-start 2"):
            sent = len(crashing.lab.site_log())
            crashing.ask()
            crashing.wait(
                lambda: any(entry.program == "sbatch" for entry in crashing.lab.site_log()[sent:]), 30, "sbatch runs"
            )
            row = crashing.newest()
            fill()
            try:
                crashing.wait(lambda: known_to_site(crashing, row.slurm_name), 30, "the job is accepted")
                said = "was submitted, but the store says"
                crashing.wait(lambda: said in crashing.rayslurm.log(), 30, "that it can't be written down")
            finally:
                filler.unlink()
        crashing.wait(lambda: crashing.state_of(row.token) in {"submitted", "adopted"}, 60, "followed all the same")
        labels = {"site": SITE, "probe": "submissions"}
        crashing.wait(lambda: crashing.rayslurm.value("probe_success", **labels) == 1, 60, "all is well again")


@pytest.mark.parametrize("served", [True, False], ids=["by serve", "alone"])
@pytest.mark.parametrize(("options", "made"), [(["--key", "one"], 1), ([], 2)], ids=["one key", "no key"])
def test_two_launches_at_the_same_instant(crashing: Crashing, served: bool, options: list[str], made: int) -> None:
    known = len(crashing.journal())
    options = [f"{option}-{served}" if option == "one" else option for option in options]

    def launch(_: int) -> Any:
        done = subprocess.run(launching(crashing, *options), capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def both() -> set[str]:
        with ThreadPoolExecutor() as pool:
            return set(pool.map(launch, range(2)))

    if served:
        with crashing.started():
            told = both()
    else:
        told = both()
    assert len(told) == made
    assert {f"{SITE}/{row.job_id}" for row in crashing.journal()[known:]} == told


def test_in_the_end_each_intention_is_one_job_or_none(crashing: Crashing, before: set[str]) -> None:
    with crashing.started():
        crashing.await_settled(180)
    with suppress(TimeoutError):  # then the comparison says what is wrong
        crashing.lab.wait(crashing.all_named, 60, "every job under its name: slurmdbd may know its step alone at first")
    tally = crashing.compare(before)
    print(tally.line())
    assert (tally.doubled, tally.lost) == (0, 0), [row for row in tally.rows if row["sacct"] != [row["job_id"]]]
    assert tally.intentions == tally.jobs + tally.absent
    assert tally.intentions <= crashing.asked(), "what was asked for once was done once"
    ended = Counter(state.lower() for job_id, state, _ in in_accounting(crashing.lab) if job_id not in before)
    assert crashing.counted("jobs_finished_total") == ended
    assert crashing.counted("jobs_submitted_total") == {"": tally.jobs}
    assert tally.jobs > 0
    assert tally.absent > 0
