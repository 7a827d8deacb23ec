"""The supervisor from start to end, with real processes under it."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.unit.jobs.harness import ADDRESSES, DASHBOARD, FAKES, NODES, SECRET, VM, Job, pythons, wait_until


def test_two_nodes_become_ready_and_end_when_told(job: Job) -> None:
    job.start(2, vm=VM, tunnels=[DASHBOARD, {"name": "c2", "vm_port": 8201, "target": "metrics:1"}])
    job.reach("ready")
    ready = job.ready
    head, worker = job.starts()
    ports = ready["ports"]
    assert ready["version"] == 1
    assert ready["job_id"] == job.id
    assert ready["token"] == "k3j2h1g4f5d6"
    assert ready["authentication"] == "token"
    assert (ready["head_node"], ready["head_ip"]) == (NODES[0], ADDRESSES[0])
    assert [(node["name"], node["ip"]) for node in ready["nodes"]] == list(zip(NODES[:2], ADDRESSES[:2], strict=True))
    assert ready["address"] == f"{ADDRESSES[0]}:{ports['gcs']}" == worker["options"]["address"]
    assert ready["ray_version"] == "2.60.0"
    assert ready["session_name"].startswith("session_of_")
    assert time.time() - 60 < ready["ready_time"] <= time.time()
    assert [(tunnel["name"], tunnel["address"]) for tunnel in ready["tunnels"]] == [
        ("dashboard", f"127.0.0.1:{ports['dashboard']}"),
        ("c2", f"{ADDRESSES[1]}:{ready['nodes'][1]['ports']['metrics']}"),
    ]
    assert job.status["job_id"] == job.id
    assert stat.S_IMODE((job.temp_dir / f"rs-{job.id}").stat().st_mode) == 0o700

    assert head["options"]["port"] == str(ports["gcs"])
    assert head["options"]["dashboard-host"] == "127.0.0.1"
    assert "--disable-usage-stats" in head["flags"]
    for started, address in ((head, ADDRESSES[0]), (worker, ADDRESSES[1])):
        assert started["options"]["node-ip-address"] == address
        assert started["options"]["num-cpus"] == "2"
        assert started["options"]["num-gpus"] == "0"
        assert started["options"]["object-store-memory"] == "200000000"
        assert started["options"]["memory"] == str(3_145_728_000 - 200_000_000 - 314_572_800)
        assert "RAY_ADDRESS" not in started["env"]
    assert "temp-dir" not in worker["options"]

    job.send(signal.SIGTERM)
    assert job.end() == 143
    assert job.status["phase"] == "ended"
    assert job.processes() == {}
    assert list(job.temp_dir.iterdir()) == []


@pytest.mark.parametrize("python", pythons())
def test_every_python_runs_it(job: Job, python: str) -> None:
    assert job.run(python=python, entrypoint="exit 5") == 5, job.log
    assert job.ready["head_ip"] == ADDRESSES[0]


def test_the_log_and_the_status_tell_the_phases(job: Job) -> None:
    assert job.run(entrypoint="true") == 0
    phases = [line.split()[2] for line in job.log.splitlines() if line.split()[1] == "phase"]
    assert phases == [
        *("starting_head", "waiting_head", "starting_workers", "waiting_workers", "ready", "driver", "ending", "ended")
    ]
    assert job.log.startswith(time.strftime("%Y-"))
    status = job.status
    assert (status["phase"], status["exit_code"]) == ("ended", 0)
    assert status["reason"] == "the entrypoint ended with exit status 0"


@pytest.mark.parametrize(("entrypoint", "code"), [("exit 7", 7), ("kill -KILL $$", 137), ("no-such-program", 127)])
def test_the_entrypoints_exit_status_is_the_jobs(job: Job, entrypoint: str, code: int) -> None:
    assert job.run(entrypoint=entrypoint) == code
    assert job.status["phase"] == "failed"
    assert f"the entrypoint ended with exit status {code}" in job.status["reason"]
    assert job.processes() == {}


def test_the_entrypoint_finds_the_cluster(job: Job) -> None:
    says = 'echo "at $RAY_ADDRESS with $RAY_AUTH_MODE $RAY_AUTH_TOKEN_PATH $MINE ${RAY_AUTH_TOKEN-no token}"'
    assert job.run(entrypoint=says, ray={"env": {"MINE": "mine"}}) == 0
    assert f"at {job.ready['address']} with token {job.secret} mine no token" in job.log


def test_what_the_entrypoint_leaves_behind_ends_with_it(job: Job) -> None:
    assert job.run(entrypoint="setsid sleep 1000 & (trap '' TERM; sleep 1000) & exit 0") == 0
    assert job.processes() == {}


def test_the_token_is_nowhere_but_in_its_file(job: Job) -> None:
    job.start(2, vm=VM, tunnels=[DASHBOARD], entrypoint="sleep 1000")
    job.reach("driver")
    wait_until(lambda: job.lines("ssh-argv"), "a tunnel")
    running = job.processes()
    assert len(running) > 8
    for process_id in running:
        for name in ("cmdline", "environ"):
            assert SECRET.encode() not in Path("/proc", str(process_id), name).read_bytes()
    assert all(started["env"]["RAY_AUTH_TOKEN_PATH"] == str(job.secret) for started in job.starts())
    job.send(signal.SIGTERM)
    job.end()
    places = [
        path for top in (job.folder, job.fake) for path in top.rglob("*") if path.is_file() and path != job.secret
    ]
    assert len(places) > 8
    assert [path for path in places if SECRET.encode() in path.read_bytes()] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_everything_in_seconds(job: Job, number: int) -> None:
    job.wrong("stubborn")
    job.start(2, vm=VM, tunnels=[DASHBOARD], entrypoint="trap '' TERM; echo deaf; while true; do sleep 1; done")
    wait_until(lambda: "deaf" in job.log, "the entrypoint")
    wait_until(lambda: job.lines("ssh-pids"), "a tunnel")
    began = time.monotonic()
    job.send(number)
    assert job.end() == 128 + number
    assert time.monotonic() - began < 6, "Slurm would have killed it"
    assert job.processes() == {}


def test_term_while_it_starts(job: Job) -> None:
    job.wrong("worker-hangs")
    job.start(2)
    job.reach("waiting_workers")
    wait_until(lambda: len(job.lines("ray-starts")) == 2, "a worker")
    job.send(signal.SIGTERM)
    assert job.end() == 143
    assert job.processes() == {}
    assert not job.ready


def test_term_while_it_ends_in_peace(job: Job) -> None:
    job.start(entrypoint="trap '' TERM; echo deaf; while true; do sleep 1; done", grace_seconds=1000)
    wait_until(lambda: "deaf" in job.log, "the entrypoint")
    job.send(signal.SIGUSR1)
    job.reach("ending")
    job.send(signal.SIGTERM)
    assert job.end(10) == 75
    assert job.processes() == {}


def test_the_warning_before_the_limit(job: Job) -> None:
    job.start()
    job.reach("ready")
    job.send(signal.SIGUSR1)
    assert job.end() == 0
    assert (job.status["phase"], job.status["reason"]) == ("ended", "the time limit is near")
    assert job.processes() == {}


def test_the_warning_lets_an_entrypoint_finish_its_work(job: Job) -> None:
    works = "trap 'sleep 1; echo saved; exit 0' TERM; echo at work; while true; do sleep 0.1; done"
    job.start(entrypoint=works, grace_seconds=10)
    wait_until(lambda: "at work" in job.log, "the entrypoint")
    job.send(signal.SIGUSR1)
    assert job.end() == 75
    assert "saved" in job.log
    assert "the time limit is near" in job.status["reason"]


def test_when_it_is_killed_nothing_stays(job: Job) -> None:
    job.start(2, vm=VM, tunnels=[DASHBOARD], entrypoint="sleep 1000")
    job.reach("driver")
    wait_until(lambda: job.lines("ssh-pids"), "a tunnel")
    job.send(signal.SIGKILL)
    assert job.end() == -9
    wait_until(lambda: not job.processes(), "the end of all it started", 10)


def test_a_worker_that_fails_is_named_with_its_last_words(job: Job) -> None:
    job.wrong("worker-fails")
    assert job.run(2) == 69
    first, second, *_ = job.status["reason"].splitlines()
    assert first == f"the worker on {NODES[1]} did not start: ImportError: libcuda.so.1 is nowhere"
    assert second == "exit status 1; its log ends:"
    assert "libcuda.so.1 is nowhere" in job.log
    assert job.status["phase"] == "failed"
    assert job.processes() == {}


def test_a_step_that_slurm_refuses_is_named(job: Job) -> None:
    job.wrong(f"no-step-on-{NODES[1]}")
    assert job.run(2) == 69
    reason = job.status["reason"]
    assert reason.startswith(f"the worker on {NODES[1]} did not start: Unable to create step")
    assert "srun: error: Unable to create step" in reason


def test_a_worker_that_does_not_come_is_named(job: Job) -> None:
    job.wrong("worker-hangs")
    assert job.run(3, ray={"ready_timeout_seconds": 3}) == 69
    reason = job.status["reason"]
    assert f"not ready after 3 s: {NODES[1]}, {NODES[2]} missing (Ray: 1 of 3 nodes alive)" in reason
    assert "still looking for the head" in reason
    assert not job.ready
    assert job.processes() == {}


def test_a_head_that_does_not_answer(job: Job) -> None:
    job.wrong("dashboard-500")
    assert job.run(2, ray={"ready_timeout_seconds": 2}) == 69
    assert f"{NODES[0]} missing (Ray: 500 Internal Server Error for /api/version)" in job.status["reason"]
    assert len(job.starts()) == 1


def test_the_heads_end_is_the_clusters(job: Job) -> None:
    job.start(2, entrypoint="sleep 1000")
    job.reach("driver")
    head = next(number for number, argv in job.processes().items() if "--head --node-ip" in argv or " --head " in argv)
    os.kill(head, signal.SIGKILL)
    assert job.end() == 70
    assert job.status["reason"].startswith(f"the head on {NODES[0]} ended: exit status 137\n")
    assert job.processes() == {}


def test_a_worker_that_is_lost_is_told_and_the_cluster_goes_on(job: Job) -> None:
    lost = f"grep -A 1 nodes_lost $RAYSLURM_RUN_DIR/status.json | grep -q '{NODES[1]}'"
    job.start(2, entrypoint=f"until {lost}; do sleep 0.1; done")
    job.reach("driver")
    worker = next(number for number, argv in job.processes().items() if "--address=" in argv and "ray" in argv)
    os.kill(worker, signal.SIGKILL)
    assert job.end() == 0
    assert job.status["nodes_lost"] == [NODES[1]]
    assert f"goes on without a node: the worker on {NODES[1]} ended" in job.log


@pytest.mark.parametrize("how", ["port-taken", "gcs-waits"])
def test_a_taken_port_is_tried_again_elsewhere(job: Job, how: str) -> None:
    job.wrong(how, "2")
    assert job.run(entrypoint="true") == 0
    ports = [int(started["options"]["port"]) for started in job.starts()]
    assert len(set(ports)) == 3
    assert job.ready["ports"]["gcs"] == ports[-1]


def test_taken_ports_are_not_tried_for_ever(job: Job) -> None:
    job.wrong("port-taken", "1000")
    assert job.run() == 69
    assert len(job.starts()) == 3
    assert "Address already in use" in job.status["reason"]


def test_a_ray_without_authentication_is_refused(job: Job) -> None:
    job.wrong("version", "2.51.2")
    assert job.run() == 77
    assert "Ray 2.51 has no token authentication" in job.status["reason"]
    assert job.lines("ray-starts") == []


def test_a_ray_without_authentication_runs_where_the_plan_says_so(job: Job) -> None:
    job.wrong("version", "2.44.1")
    job.secret.unlink()
    assert job.run(ray={"allow_unauthenticated": True}, entrypoint="echo mode $RAY_AUTH_MODE") == 0
    assert "WITHOUT authentication" in job.log
    assert "mode disabled" in job.log
    assert job.ready["authentication"] == "none"


def test_a_ray_with_authentication_uses_it_also_where_the_plan_allows_none(job: Job) -> None:
    assert job.run(ray={"allow_unauthenticated": True}, entrypoint="echo mode $RAY_AUTH_MODE") == 0
    assert "mode token" in job.log


def test_a_hole_in_a_rays_authentication_is_told(job: Job) -> None:
    job.wrong("version", "2.53.0")
    assert job.run(entrypoint="true") == 0
    assert "CVE-2026-27482" in job.log


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_token_that_others_can_read_is_refused(job: Job, mode: int) -> None:
    job.secret.chmod(mode)
    assert job.run() == 77
    assert "mode 0600" in job.status["reason"]
    assert SECRET not in job.log


def test_no_token_is_refused(job: Job) -> None:
    job.secret.write_text("\n")
    assert job.run() == 77
    job.secret.unlink()
    assert job.run() == 77
    assert "no token for Ray's authentication" in job.status["reason"]


def test_a_wrong_plan_is_refused_and_said_in_the_status(job: Job) -> None:
    assert job.run(cpus_per_node=0) == 64
    assert job.status["phase"] == "failed"
    assert "cpus_per_node" in job.status["reason"]
    assert "cpus_per_node" in job.log


def test_the_plan_and_the_job_must_agree_on_the_nodes(job: Job) -> None:
    job.start(2, listed=1)
    assert job.end() == 64
    assert f"the job has the node(s) ['{NODES[0]}'], the plan wants 2" in job.status["reason"]


def test_a_ray_that_is_not_there(job: Job) -> None:
    assert job.run(ray={"command": "no-such-ray --flag"}) == 64
    assert "no-such-ray could not be run" in job.status["reason"]


def test_a_run_before_leaves_no_ready_file(job: Job) -> None:
    (job.folder / "ready.json").write_text("{}")
    job.wrong("dashboard-500")
    assert job.run(ray={"ready_timeout_seconds": 1}) == 69
    assert not (job.folder / "ready.json").exists()


def test_a_folder_of_somebody_elses_is_not_used(job: Job) -> None:
    elsewhere = job.folder / "elsewhere"
    elsewhere.mkdir()
    (job.temp_dir / f"rs-{job.id}").symlink_to(elsewhere)
    assert job.run() == 69
    assert "is there and is not ours" in job.status["reason"]
    assert elsewhere.is_dir()


def test_a_tunnel_that_breaks_is_opened_again(job: Job) -> None:
    job.start(vm=VM, tunnels=[DASHBOARD])
    wait_until(lambda: job.lines("ssh-pids"), "a tunnel")
    os.kill(int(job.lines("ssh-pids")[0]), signal.SIGTERM)
    wait_until(lambda: len(job.lines("ssh-pids")) == 2, "a second one")
    assert "tunnel dashboard: ssh ended with exit status 143" in job.log
    wait_until(lambda: job.status["tunnels"][0]["restarts"] == 1, "its count in the status")
    job.send(signal.SIGTERM)
    job.end()
    argv = job.lines("ssh-argv")[0].split()
    assert argv[argv.index("-R") + 1] == f"127.0.0.1:8100:127.0.0.1:{job.ready['ports']['dashboard']}"
    assert argv[-1] == "192.0.2.10"
    for option in (
        *("BatchMode=yes", "ExitOnForwardFailure=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=yes"),
        *(f"UserKnownHostsFile={job.folder}/known_hosts", "GlobalKnownHostsFile=/dev/null"),
    ):
        assert argv[argv.index(option) - 1] == "-o"
    assert argv[argv.index("-i") + 1] == "/keys/id_vm"
    assert argv[argv.index("-F") + 1] == "/dev/null"
    assert job.processes() == {}


def test_a_tunnel_that_never_opens_does_not_end_the_job(job: Job) -> None:
    job.wrong("ssh-fails", "Host key verification failed.\n")
    assert job.run(vm=VM, tunnels=[DASHBOARD], entrypoint="sleep 5") == 0
    tries = len(job.lines("ssh-argv"))
    assert 2 <= tries <= 4, "it waits longer from time to time"
    told = [line for line in job.log.splitlines() if "Host key verification failed." in line]
    assert 1 <= len(told) <= tries
    assert "exit status 255" in told[0]


def test_a_tunnel_without_an_ssh_to_run_does_not_end_the_job(job: Job, tmp_path: Path) -> None:
    programs = tmp_path / "programs"  # all that the node has, but for ssh
    programs.mkdir()
    for folder in ("/bin", "/usr/bin", str(Path(sys.executable).resolve().parent), str(FAKES)):
        for program in Path(folder).iterdir():
            (programs / program.name).unlink(missing_ok=True)
            (programs / program.name).symlink_to(program)
    (programs / "ssh").unlink()
    job.start(
        vm=VM,
        tunnels=[DASHBOARD],
        entrypoint='until [ -e "$FAKE/enough" ]; do sleep 0.1; done',
        env={"PATH": str(programs)},
    )
    wait_until(lambda: job.status.get("tunnels") and job.status["tunnels"][0]["restarts"] == 2, "a second try")
    (tunnel,) = job.status["tunnels"]
    assert tunnel["reason"].startswith("ssh could not be run: [Errno 2] No such file or directory")
    job.wrong("enough")
    assert job.end() == 0
    assert "a fault in the supervisor" not in job.log
    told = [line for line in job.log.splitlines() if "tunnel dashboard: ssh could not be run: " in line]
    assert "again in 1 s, restart 1" in told[0]
    assert "again in 2 s, restart 2" in told[1]


def test_a_tunnel_whose_log_cannot_be_written_is_tried_again(job: Job) -> None:
    job.start(vm=VM, tunnels=[DASHBOARD])
    wait_until(lambda: job.lines("ssh-pids"), "a tunnel")
    log = job.folder / "logs" / "tunnel-dashboard.log"
    log.unlink()
    log.mkdir()
    os.kill(int(job.lines("ssh-pids")[0]), signal.SIGTERM)
    wait_until(
        lambda: "could not be run: [Errno 21] Is a directory" in job.status["tunnels"][0]["reason"], "the reason"
    )
    log.rmdir()
    wait_until(lambda: len(job.lines("ssh-pids")) == 2, "another tunnel")
    job.send(signal.SIGTERM)
    assert job.end() == 143


NO_PROCESS = [
    BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    subprocess.SubprocessError("Exception occurred in preexec_fn."),
]


def dashboard_tunnel(ray_job: ModuleType, logs: Path) -> Any:
    return ray_job.Tunnel(SimpleNamespace(**DASHBOARD), SimpleNamespace(**VM), "127.0.0.1:8265", str(logs))


@pytest.mark.parametrize("error", NO_PROCESS)
def test_a_tunnel_for_which_there_is_no_process_is_tried_again(
    ray_job: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    def popen(*_args: object, **_keys: object) -> None:
        raise error

    monkeypatch.setattr(ray_job.subprocess, "Popen", popen)
    tunnel = dashboard_tunnel(ray_job, tmp_path)
    now, pauses = 0.0, []
    for _ in range(9):
        assert tunnel.tend(now), "it tells that something has changed"
        assert not tunnel.tend(now), "it waits"
        pauses.append(tunnel.next_start - now)
        now = tunnel.next_start
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert tunnel.restarts == len(pauses)
    assert tunnel.reason == f"ssh could not be run: {error}"


def test_a_tunnel_that_fails_for_days_does_not_end_the_job(
    ray_job: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Ended:
        def __init__(self, *_args: object) -> None:
            """It could not reach the VM."""

        def status(self) -> int:
            return 255

    monkeypatch.setattr(ray_job, "Child", Ended)
    tunnel = dashboard_tunnel(ray_job, tmp_path)
    now = 0.0
    while now < 3 * 86400:
        assert not tunnel.tend(now), "it starts"
        now += 15
        assert tunnel.tend(now), "it ended"
        now = tunnel.next_start
    assert tunnel.next_start - tunnel.started == 15 + 60
    assert tunnel.restarts == pytest.approx(3 * 86400 / 75, rel=0.01)
