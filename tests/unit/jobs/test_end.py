"""What a job leaves at its end: its summary, its results and its logs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from tests.unit.jobs.harness import ADDRESSES, DASHBOARD, NODES, SECRET, VM, Job, pythons, wait_until


def test_the_summary_tells_how_it_went(job: Job) -> None:
    assert job.run(2, entrypoint="exit 7", continuation=2) == 7
    summary = job.summary
    assert (summary["outcome"], summary["exit_code"], summary["entrypoint_exit_code"]) == ("failed", 7, 7)
    assert summary["reason"] == "the entrypoint ended with exit status 7"
    assert summary["job_id"] == job.id
    assert summary["token"] == "k3j2h1g4f5d6"
    assert summary["continuation"] == 2
    assert summary["ray_version"] == "2.60.0"
    assert summary["session_name"] == job.ready["session_name"]
    assert summary["ready_time"] == job.ready["ready_time"]
    phases = [phase["phase"] for phase in summary["phases"]]
    assert phases == [
        *("starting_head", "waiting_head", "starting_workers", "waiting_workers", "ready", "driver", "ending", "failed")
    ]
    times = [phase["time"] for phase in summary["phases"]]
    assert times == sorted(times)
    assert time.time() - 60 < times[0] <= times[-1] <= summary["end_time"] <= time.time()
    assert [(node["name"], node["role"], node["ip"], node["exit_code"]) for node in summary["nodes"]] == [
        (NODES[0], "head", ADDRESSES[0], 0),
        (NODES[1], "worker", ADDRESSES[1], 0),
    ]
    assert summary["nodes_lost"] == []


@pytest.mark.parametrize(
    ("plan", "signal_number", "outcome"),
    [
        ({"entrypoint": "true"}, None, "succeeded"),
        ({"entrypoint": "sleep 1000"}, signal.SIGUSR1, "limit"),
        ({}, signal.SIGUSR1, "limit"),
        ({"entrypoint": "sleep 1000"}, signal.SIGTERM, "terminated"),
        ({"ray": {"command": "no-such-ray"}}, None, "unusable"),
    ],
)
def test_in_one_word(job: Job, plan: dict[str, object], signal_number: signal.Signals | None, outcome: str) -> None:
    job.start(**plan)  # type: ignore[arg-type]  # the keys of a plan
    if signal_number is not None:
        job.reach("driver" if "entrypoint" in plan else "ready")
        job.send(signal_number)
    job.end()
    assert job.summary["outcome"] == outcome
    assert job.summary["reason"] == job.status["reason"]


def test_a_node_that_is_lost_is_told_with_its_time(job: Job) -> None:
    is_lost = f"grep -A 1 nodes_lost $RAYSLURM_RUN_DIR/status.json | grep -q '{NODES[1]}'"
    job.start(2, entrypoint=f"until {is_lost}; do sleep 0.1; done")
    job.reach("driver")
    worker = next(number for number, argv in job.processes().items() if "--address=" in argv and "ray" in argv)
    began = time.time()
    os.kill(worker, signal.SIGKILL)
    assert job.end() == 0
    assert job.summary["nodes_lost"] == [NODES[1]]
    head, lost = job.summary["nodes"]
    assert head["lost_time"] is None
    assert began < lost["lost_time"] < time.time()
    assert lost["exit_code"] != 0


def test_what_each_node_used_at_most(job: Job) -> None:
    hog = "import os, time; b = bytearray(300 << 20); t = time.monotonic() + 12\nwhile time.monotonic() < t: pass"
    job.wrong("runs-worker", hog)
    assert job.run(entrypoint="sleep 12") == 0
    (node,) = job.summary["nodes"]
    assert 300 << 20 < node["peak_memory_bytes"] < 500 << 20
    assert 0.2 < node["peak_cpus"] < 3


def test_results_are_listed(job: Job, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("not below the working folder")
    makes = (
        f"mkdir -p out/deep; echo a > out/one.txt; echo bc > out/deep/two.txt; ln -s {tmp_path}/elsewhere out/link.txt"
    )
    assert job.run(entrypoint=makes, results=["out/**/*.txt", "no-such-*"]) == 0
    listed = job.summary["results"]
    assert [(one["path"], one["size"]) for one in listed] == [("out/deep/two.txt", 3), ("out/one.txt", 2)]
    assert all(time.time() - 60 < one["modified_time"] <= time.time() for one in listed)
    assert (job.folder / "work/out/one.txt").read_text() == "a\n"


@pytest.mark.parametrize("pattern", ["../secret", "/etc/*", 7, "a/../../b"])
def test_results_lie_below_the_working_folder(job: Job, pattern: object) -> None:
    assert job.run(entrypoint="true", results=[pattern]) == 64
    assert "results" in job.status["reason"]


def test_another_jobs_working_folder(job: Job, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/checkpoint").write_text("step 7")
    entrypoint = 'cat checkpoint; echo " of continuation $RAYSLURM_CONTINUATION in $PWD"'
    assert job.run(entrypoint=entrypoint, work_dir=str(tmp_path / "kept"), continuation=1) == 0
    assert f"step 7 of continuation 1 in {tmp_path}/kept" in job.log


def test_a_working_folder_that_cannot_be(job: Job, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert job.run(entrypoint="true", work_dir=str(tmp_path / "file/below")) == 64
    assert "the job's folders could not be made" in job.status["reason"]


def test_a_container_is_around_ray_and_around_the_entrypoint(job: Job, tmp_path: Path) -> None:
    container = tmp_path / "container"
    container.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/contained\nshift\nexec "$@"\n')
    container.chmod(0o755)
    words = f"{container} image.sif"
    assert job.run(entrypoint="echo inside", container=words, ray={"command": f"{words} ray"}) == 0
    contained = (tmp_path / "contained").read_text().splitlines()
    assert [line.split()[:3] for line in contained] == [
        ["image.sif", "ray", "--version"],
        ["image.sif", "ray", "start"],
        ["image.sif", "bash", "-c"],
    ]
    assert "inside" in job.log
    assert job.run(entrypoint="true", container="no-such-container image.sif") == 64
    assert "no-such-container" in job.status["reason"]


def test_amds_devices_are_where_ray_looks_for_them(job: Job) -> None:
    job.start(
        entrypoint='echo "hip $HIP_VISIBLE_DEVICES rocr ${ROCR_VISIBLE_DEVICES-unset}"',
        env={"ROCR_VISIBLE_DEVICES": "0,3"},
    )
    assert job.end() == 0
    assert "hip 0,3 rocr unset" in job.log
    (head,) = job.starts()
    assert head["env"]["HIP_VISIBLE_DEVICES"] == "0,3"
    assert "ROCR_VISIBLE_DEVICES" not in head["env"]


def test_devices_that_are_told_already_stay(ray_job: ModuleType) -> None:
    both = {"ROCR_VISIBLE_DEVICES": "0", "HIP_VISIBLE_DEVICES": "1"}
    assert ray_job.for_hip(both) == {"HIP_VISIBLE_DEVICES": "1"}
    assert ray_job.for_hip({"CUDA_VISIBLE_DEVICES": "0"}) == {"CUDA_VISIBLE_DEVICES": "0"}


def test_the_logs_are_one_file_at_the_end(job: Job) -> None:
    job.wrong("session-logs", "raylet.out worker-1.err")
    assert job.run(vm=VM, tunnels=[DASHBOARD], entrypoint="true") == 0
    logs = job.packed()
    assert set(logs) == {"head.log", "tunnel-dashboard.log", f"ray-{NODES[0]}.tar.gz"}
    assert "phase" not in logs["head.log"]
    assert "rayslurm-node: " in logs["head.log"]
    assert not (job.folder / "logs").exists()
    assert SECRET not in "".join(logs.values())
    names = subprocess.run(
        ["tar", "xzf", job.folder / "logs.tar.gz", "-O", f"ray-{NODES[0]}.tar.gz"], capture_output=True, check=True
    )
    listed = subprocess.run(["tar", "tzf", "-"], input=names.stdout, capture_output=True, check=True)
    assert listed.stdout.decode().split() == ["raylet.out", "worker-1.err"]


def test_of_each_log_of_ray_its_end_is_kept(ray_job: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/short").write_text("short")
    (tmp_path / "in/long").write_text("x" * 100 + "the end")
    (tmp_path / "in/link").symlink_to("/etc/passwd")
    paths = ray_job.files_below(str(tmp_path / "in"))
    archive = tmp_path / "a.tar.gz"
    assert ray_job.pack(str(archive), paths, str(tmp_path / "in"), seconds=5, tail=7, limit=1 << 20)
    assert extracted(archive) == {"short": "short", "long": "the end"}
    assert not ray_job.pack(str(archive), paths, str(tmp_path / "in"), seconds=5, tail=7, limit=8)
    assert extracted(archive) == {"long": "the end"}
    assert not ray_job.pack(str(archive), paths, str(tmp_path / "in"), seconds=-1), "no time for any"
    assert not ray_job.pack(str(tmp_path / "no/a.tar.gz"), paths, str(tmp_path / "in"), seconds=5)


def extracted(archive: Path) -> dict[str, str]:
    import tarfile

    with tarfile.open(archive) as packed:
        return {one.name: packed.extractfile(one).read().decode() for one in packed}  # type: ignore[union-attr]  # files


def test_a_log_does_not_grow_for_ever(ray_job: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_job, "LOG_LIMIT", 100)
    log = tmp_path / "head.log"
    with log.open("ab") as writer:
        writer.write(b"a" * 90)
        writer.flush()
        ray_job.keep_short(str(log))
        assert log.stat().st_size == 90
        writer.write(b"a" * 20)
        writer.flush()
        ray_job.keep_short(str(log))
        writer.write(b"after")
        writer.flush()
    assert log.read_bytes() == b"after"
    assert (tmp_path / "head.log.1").read_bytes() == b"a" * 110


def test_it_shows_that_it_lives(job: Job) -> None:
    script = (job.folder / "ray_job.py").read_text()
    (job.folder / "ray_job.py").write_text(script.replace("HEARTBEAT = 60.0", "HEARTBEAT = 0.5"))
    job.start(entrypoint="sleep 1000")
    job.reach("driver")
    first = job.status
    later = wait_until(lambda: job.status["time"] > first["time"] + 1 and job.status, "a heartbeat")
    assert later["phase_time"] == first["phase_time"]
    assert job.log.count("phase driver") == 1
    job.send(signal.SIGTERM)
    job.end()


def test_use_is_that_of_all_processes_below(ray_job: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    use = ray_job.Use()
    use.sample(100.0)
    assert [use.cpus] == [None], "nothing to compare with yet"
    use.tell(1, last=True)
    assert not capfd.readouterr().out, "one look before Ray is up says nothing"
    assert use.memory < 1 << 30
    child = subprocess.Popen(
        [sys.executable, "-c", "b = bytearray(200 << 20)\nprint(flush=True)\nwhile True: pass"], stdout=-1
    )
    try:
        assert child.stdout is not None
        child.stdout.readline()
        wait_until(
            lambda: int(Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[11]) > 10, "some ticks"
        )
        use.sample(101.0)
        assert use.memory > 200 << 20
        assert use.cpus > 0.05
        peak = use.memory
    finally:
        child.kill()
        child.communicate()
    use.sample(102.0)
    assert use.memory == peak


PATTERNS = {
    "out": {"out/one.txt", "out/deep/two.txt"},
    "out/*.txt": {"out/one.txt"},
    "out/**/*.txt": {"out/one.txt", "out/deep/two.txt"},
    "**": {"out/one.txt", "out/deep/two.txt", "top.csv", "[odd].txt"},
    "*.csv": {"top.csv"},
    "?op.csv": {"top.csv"},
    "[a-t]op.csv": {"top.csv"},
    "[!t]op.csv": set(),
    "./out/one.txt": {"out/one.txt"},
    ".hidden/*": {".hidden/three.txt"},
    "*/three.txt": set(),
    "out/lin*": set(),
    "[[]odd].txt": {"[odd].txt"},
    "nowhere/**": set(),
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_of_results(ray_job: ModuleType, tmp_path: Path, pattern: str) -> None:
    for name in ("out/one.txt", "out/deep/two.txt", "top.csv", ".hidden/three.txt", "[odd].txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "out/link.txt").symlink_to(tmp_path / "top.csv")
    (tmp_path / "out/loop").symlink_to(tmp_path)
    found = list(ray_job.named_files(str(tmp_path), [pattern, pattern], time.monotonic() + 5))
    assert set(found) == PATTERNS[pattern]
    assert len(found) == len(set(found))


def test_millions_of_results_do_not_keep_the_job(ray_job: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    assert list(ray_job.named_files(str(tmp_path), ["**"], time.monotonic() - 1)) == [""]


def test_only_so_many_results_are_listed(job: Job) -> None:
    assert job.run(entrypoint="for n in $(seq 1200); do : > r$n; done", results=["r*"]) == 0
    assert len(job.summary["results"]) == 1000
    assert "there may be more results; 1000 are listed" in job.log


def test_names_that_are_no_utf_8(job: Job) -> None:
    assert job.run(entrypoint="touch $'caf\\xe9.txt'", results=["*.txt"]) == 0
    assert [one["path"] for one in job.summary["results"]] == ["caf\\xe9.txt"]


def test_a_ray_that_is_open_although_it_was_given_a_token_is_refused(job: Job) -> None:
    job.wrong("open")
    assert job.run(entrypoint="echo ran") == 77
    assert job.summary["outcome"] == "refused"
    assert "answers to who has no token" in job.status["reason"]
    assert "ran" not in job.log.split()
    assert job.processes() == {}


def test_a_full_disk_does_not_change_how_the_job_ends(job: Job) -> None:
    script = (job.folder / "ray_job.py").read_text()
    full = str(job.folder / "full")
    changes = {
        "os.write(1, (text": "os.write(FULL, (text",
        "LIBC: Any = None": "FULL = 1 if '--node' in sys.argv else os.open('/dev/full', os.O_WRONLY)\nLIBC: Any = None",
        'open(path + ".part", "w")': f"open('/dev/full' if os.path.exists({full!r}) else path + '.part', 'w')",
    }
    for before, after in changes.items():
        assert before in script
        script = script.replace(before, after)
    (job.folder / "ray_job.py").write_text(script)
    assert job.run(entrypoint="touch $RAYSLURM_RUN_DIR/full; sleep 0.5; exit 7") == 7
    assert job.processes() == {}


def test_words_in_any_script(job: Job) -> None:
    assert job.run(entrypoint="echo 'räy ✓' $WORD", ray={"env": {"WORD": "größer"}}) == 0
    assert "räy ✓ größer" in job.log


@pytest.mark.parametrize("python", pythons())
def test_words_in_any_script_in_a_plain_locale(job: Job, python: str) -> None:
    assert (
        job.run(
            python=python,
            env={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
            entrypoint="echo 'räy ✓'; exit 3",
        )
        == 3
    )
    assert "räy ✓" in job.log


def test_what_a_node_has_told_outlives_its_log(
    ray_job: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_job, "LOG_LIMIT", 100)
    node = ray_job.Node("c1", str(tmp_path), is_head=True)
    line = ray_job.NODE_LINE + '{"attempt": 0, "peak_memory_bytes": 5, "peak_cpus": 1.5}\n'
    with Path(node.log).open("ab") as log:
        log.write(line.encode() + b"x" * 200 + b"\n" + ray_job.NODE_LINE.encode() + b'{"attempt": 0, "cut\n')
    node.keep_log_short()
    assert Path(node.log).stat().st_size == 0
    assert node.summary()["peak_memory_bytes"] == 5
