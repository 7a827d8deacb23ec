"""Why a node ended, from what there is in its log, as Ray 2.60 and Slurm 22.05 write it."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from types import ModuleType

import pytest

from tests.unit.jobs.harness import NODES, Job

STARTED = '2026-11-25T02:49:35Z + ray start --block --head\nrayslurm-node: {"name": "c3", "attempt": 1}\n'
ENDED = """\
2026-11-25T02:50:35Z ray start ended with exit status 1
rayslurm-node: {"attempt": 1, "peak_memory_bytes": 232685568, "peak_cpus": 0.17}
srun: error: c3: task 0: Exited with exit code 1
srun: launch/slurm: _step_signal: Terminating StepId=11.1
"""
TRACE = (
    'Traceback (most recent call last):\n  File "/venv/ray/_private/node.py", line 407, in __init__\n    self.check()\n'
)
FRAME = "/venv/bin/python3(PyEval_EvalCode+0xbb) [0x5236bb] PyEval_EvalCode\n"
REDIS = """\
[2026-11-25 02:49:35,728 E 304 304] (ray_init) redis_context.cc:562: Failed to connect to Redis. Will retry in 500ms.
[2026-11-25 02:49:35,728 E 304 304] (ray_init) redis_context.cc:562: Failed to connect to Redis. Will retry in 500ms.
[2026-11-25 02:50:35,791 E 304 304] (ray_init) redis_context.cc:556: 120 attempts to connect have all failed.
[2026-11-25 02:50:35,807 C 304 304] (ray_init) redis_store_client.cc:141:  An unexpected system state has occurred.
*** StackTrace Information ***
"""
VERSIONS = """\
RuntimeError: Version mismatch: The cluster was started with:
    Ray: 2.60.0
    Python: 3.11.2
This process on node 198.18.0.103 was started with:
    Ray: 2.59.0
    Python: 3.11.4

"""
KILLED = """\
2026-11-25 03:00:10,281\tERR scripts.py:120 -- ----- BEGIN raylet.out tail (exit code(s)=-9 (signal 9)) -----
[state-dump] \tNodeManager.deadline_timer.record_metrics - 1 total (1 active)
ValueError: something that went well in the end
2026-11-25 03:00:10,281\tERR scripts.py:128 -- ----- END raylet.out tail (exit code(s)=-9 (signal 9)) -----
2026-11-25 03:00:10,281\tERR scripts.py:1315 -- Remaining processes will be killed.
"""


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (REDIS + FRAME * 500, "120 attempts to connect have all failed"),
        (
            TRACE + "RuntimeError: Failed to start GCS.  Last 0 lines\n",
            "RuntimeError: Failed to start GCS. Last 0 lines",
        ),
        (TRACE + "ray.exceptions.RaySystemError: gone\n" + TRACE + "OSError: [Errno 5]\n", "OSError: [Errno 5]"),
        (
            TRACE + "Exception: \nThe last 20 lines of dashboard.log:\nnone\n",
            "Exception: The last 20 lines of dashboard.log:",
        ),
        (TRACE + VERSIONS, "it has Ray 2.59.0 and Python 3.11.4, the head has Ray 2.60.0 and Python 3.11.2"),
        (KILLED, "raylet exit code -9 (signal 9)"),
        ("srun: error: Node failure on c3\n", "Node failure on c3"),
        (TRACE + "ValueError: " + "x" * 1000 + "\n", "ValueError: " + "x" * 288),
        ("INFO scripts.py:1266 -- This command will now block\n", ""),
    ],
)
def test_the_cause(ray_job: ModuleType, tmp_path: Path, words: str, cause: str) -> None:
    log = tmp_path / "worker-c3.log"
    log.write_text(STARTED + words + ENDED)
    assert ray_job.cause(str(log)) == cause


def test_the_end_of_a_log_is_worth_reading(ray_job: ModuleType, tmp_path: Path) -> None:
    log = tmp_path / "head.log"
    log.write_text(STARTED + REDIS + FRAME * 100 + ENDED)
    assert ray_job.last_lines(str(log)).splitlines() == [
        "2026-11-25T02:49:35Z + ray start --block --head",
        REDIS.splitlines()[0],
        *REDIS.splitlines()[2:4],
        "2026-11-25T02:50:35Z ray start ended with exit status 1",
    ]
    log.write_text(ENDED.partition("\n")[2])
    assert ray_job.last_lines(str(log)) == "(empty log)"
    assert ray_job.last_lines(str(tmp_path / "none")).startswith("(no log: ")
    assert ray_job.cause(str(tmp_path / "none")) == ""


def test_a_ray_that_is_not_on_every_node(job: Job) -> None:
    ray = job.folder / "my-ray"
    ray.write_text('#!/bin/sh\n[ "$1" = --version ] || rm "$0"\nexec ray "$@"\n')
    ray.chmod(0o755)
    assert job.run(2, ray={"command": str(ray)}) == 69
    assert job.status["reason"].startswith(f"the worker on {NODES[1]} did not start: {ray} could not be run: [Errno 2]")


def test_a_node_that_slurm_loses_is_the_reason(job: Job) -> None:
    job.wrong(f"power-cut-on-{NODES[1]}")
    job.start(2)
    job.reach("ready")
    job.send(signal.SIGTERM)
    assert job.end() == 143
    assert job.status["reason"] == job.summary["reason"] == f"Slurm ended the job: failure of {NODES[1]}"
    assert job.status["nodes_lost"] == [NODES[1]]
    assert job.processes() == {}


@pytest.mark.parametrize("free", [0, 31 * 1024**2])
def test_a_full_disk_is_refused_before_ray_waits_on_it(
    ray_job: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    monkeypatch.setattr(ray_job, "room", lambda _: (free, 100 * 1024**2))
    with pytest.raises(ray_job.End, match=rf"rs-1 cannot be used: its disk is full, {free >> 20} of 100 MiB are free"):
        ray_job.make_session_dir(str(tmp_path / "rs-1"))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(ray_job: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ray_job.End, match=r"none/rs-1 cannot be used: \[Errno 2\]"):
        ray_job.make_session_dir(str(tmp_path / "none/rs-1"))
    ray_job.make_session_dir(str(tmp_path / "rs-1"))
    assert list((tmp_path / "rs-1").iterdir()) == []


def test_a_disk_that_fills_up_is_told_once(
    ray_job: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    disk = ray_job.Disk(str(tmp_path), 1)
    for free in (50, 6, 4, 0, 90):
        monkeypatch.setattr(ray_job, "room", lambda _, free=free: (free << 20, 100 << 20))
        disk.look()
    (line,) = [line for line in capfd.readouterr().out.splitlines() if line.startswith(ray_job.NODE_LINE)]
    assert json.loads(line[len(ray_job.NODE_LINE) :]) == {
        "attempt": 1,
        "full": f"the disk of {tmp_path} was too full for Ray: 4 of 100 MiB free",
    }


@pytest.mark.parametrize(("entrypoint", "told"), [("exit 7", "; the disk was full on " + NODES[0]), ("exit 0", "")])
def test_a_job_that_fails_tells_of_a_full_disk(job: Job, entrypoint: str, told: str) -> None:
    job.wrong("says", 'rayslurm-node: {"attempt": 1, "full": "the disk was full"}')
    job.run(entrypoint=entrypoint)
    assert job.status["reason"] == f"the entrypoint ended with exit status {entrypoint[-1]}{told}"
