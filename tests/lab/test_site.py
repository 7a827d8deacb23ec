"""Is the lab what it claims to be: a site with Slurm, accounting, limits, two users, a firewall and an sshd."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lab.lab import Completed, Lab


@dataclass
class Jobs:
    ok: str
    failing: str
    two_nodes: str
    out_of_memory: str
    array: str
    cancelled: str
    requeued: str
    colleagues: str
    on_dead_node: str


@pytest.fixture(scope="module")
def jobs(lab: Lab) -> Iterator[Jobs]:
    """One job an outcome, all at once, and a power cut under one of them."""
    small = ("-t", "5", "--mem=100")
    on_dead_node = lab.sbatch("-w", "c3", *small, wrap="sleep 600")
    lab.wait(lambda: lab.state(on_dead_node) == "RUNNING", 20, "a job on c3")
    lab.kill_node("c3")  # first, since Slurm takes half a minute to notice
    yield Jobs(
        on_dead_node=on_dead_node,
        ok=lab.sbatch("-p", "test", *small, wrap="hostname"),
        failing=lab.sbatch("-p", "test", *small, wrap="exit 7"),
        two_nodes=lab.sbatch("-p", "test", "-N2", "--ntasks-per-node=1", *small, wrap="srun --label hostname"),
        out_of_memory=lab.sbatch("-p", "test", *small, wrap="python3 -c 'b=bytearray(400<<20)'"),
        array=lab.sbatch("-p", "test", "-a", "1-4", *small, wrap="[ $SLURM_ARRAY_TASK_ID != 3 ]"),
        cancelled=lab.sbatch("-p", "test", *small, wrap="sleep 600"),
        requeued=lab.sbatch("-p", "test", "--requeue", *small, wrap="sleep 600"),
        colleagues=lab.sbatch("-p", "test", *small, wrap="sleep 600", user="colleague"),
    )
    lab.sh("scancel --me")
    lab.sh("scancel --me", "colleague")
    lab.start_node("c3")


def ended(lab: Lab, job: str, state: str) -> dict[str, str]:
    row = lab.wait(
        lambda: next(
            (row for row in lab.sacct(job, ["state", "exitcode"], "-X") if row["state"] not in ("PENDING", "RUNNING")),
            None,
        ),
        30,
        f"the end of job {job}",
    )
    assert row is not None
    assert row["state"] == state
    return row


def ssh(lab: Lab, key: Path, user: str, *options: str) -> Completed:
    command = ["ssh", "-F", "/dev/null", "-i", str(key), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"]
    command += ["-o", f"UserKnownHostsFile={lab.known_hosts}", "-o", "GlobalKnownHostsFile=/dev/null", *options]
    command += [f"{user}@{lab.address('login')}", "id -un; hostname"]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False)


def test_a_job_completes(lab: Lab, jobs: Jobs) -> None:
    ended(lab, jobs.ok, "COMPLETED")
    assert (lab.researcher_home / f"out-{jobs.ok}").read_text() in ("c1\n", "c2\n")


def test_an_exit_code_is_kept(lab: Lab, jobs: Jobs) -> None:
    assert ended(lab, jobs.failing, "FAILED")["exitcode"] == "7:0"


def test_srun_reaches_two_nodes(lab: Lab, jobs: Jobs) -> None:
    ended(lab, jobs.two_nodes, "COMPLETED")
    assert sorted((lab.researcher_home / f"out-{jobs.two_nodes}").read_text().split()) == ["0:", "1:", "c1", "c2"]


def test_memory_is_limited(lab: Lab, jobs: Jobs) -> None:
    if lab.fact("LAB_LIMITS") == "poll":
        ended(lab, jobs.out_of_memory, "FAILED")  # killed all the same, but Slurm does not say why
    else:
        ended(lab, jobs.out_of_memory, "OUT_OF_MEMORY")


def test_array_tasks_end_on_their_own(lab: Lab, jobs: Jobs) -> None:
    def states() -> list[str]:
        return sorted(row["state"] for row in lab.sacct(jobs.array, ["state"], "-X"))

    lab.wait(lambda: states() == ["COMPLETED"] * 3 + ["FAILED"], 30, "four array tasks")


def test_cancelling_names_who_did_it(lab: Lab, jobs: Jobs) -> None:
    lab.wait(lambda: lab.state(jobs.cancelled) == "RUNNING", 20, "the job to cancel")
    lab.sh(f"scancel {jobs.cancelled}", check=True)
    ended(lab, jobs.cancelled, "CANCELLED by 20001")


def test_a_user_may_requeue_what_asked_for_it(lab: Lab, jobs: Jobs) -> None:
    lab.wait(lambda: lab.state(jobs.requeued) == "RUNNING", 20, "the job to requeue")
    lab.sh(f"scontrol requeue {jobs.requeued}", check=True)
    lab.wait(
        lambda: [row["state"] for row in lab.sacct(jobs.requeued, ["state"], "-X", "-D")] == ["REQUEUED", "PENDING"],
        20,
        "both lives of the job",
    )


def test_a_colleague_is_another_user(lab: Lab, jobs: Jobs) -> None:
    assert lab.sh("ls /home/researcher", "colleague").returncode != 0
    assert lab.sh(f"scancel {jobs.requeued}", "colleague").returncode != 0
    assert lab.sh("squeue --me -h -o %i", "colleague", check=True).stdout.split() == [jobs.colleagues]
    users = lab.sh("sacct -n -P -X -o user,jobid", "colleague", check=True).stdout.split()
    assert f"colleague|{jobs.colleagues}" in users
    assert {line.partition("|")[0] for line in users} == {"colleague"}, "accounting tells each user of their own jobs"
    refused = lab.sh("sbatch -A project_2001234 --wrap hostname", "colleague")
    assert refused.returncode != 0
    assert "Invalid account" in refused.stderr


def test_the_certificate_opens_login_and_its_bare_key_does_not(lab: Lab, tmp_path: Path) -> None:
    certificate = f"CertificateFile={lab.certificate}"
    assert ssh(lab, lab.certified_key, "researcher", "-o", certificate).stdout.split() == ["researcher", "login"]
    bare = tmp_path / "bare"  # ssh picks up a certificate that lies beside the key
    shutil.copy(lab.certified_key, bare)
    refused = ssh(lab, bare, "researcher")
    assert refused.returncode == 255
    assert "Permission denied (publickey)" in refused.stderr
    assert ssh(lab, lab.certified_key, "colleague", "-o", certificate).returncode == 255


def test_login_is_reached_through_a_jump_host(lab: Lab) -> None:
    jump = f"ProxyCommand=ssh -F {lab.ssh_config} -W %h:%p cloud"
    assert ssh(lab, lab.client_key, "researcher", "-o", jump).stdout.split() == ["researcher", "login"]


def test_every_connection_shows_in_the_log(lab: Lab) -> None:
    before = len(lab.sshd_log())
    lab.sh("true", check=True)
    news = lab.sshd_log()[before:]
    assert "Connection from 198.18.1.10" in news
    assert "Accepted publickey for researcher" in news
    assert "Starting session: command for researcher" in news


def test_sshd_processes_are_known_by_their_host_pids(lab: Lab) -> None:
    # Of the tests before this one sessions may still be ending.
    lab.wait(lambda: len(lab.sshd_pids()) == 1, 10, "only the listener")
    listener = lab.sshd_pids()
    with subprocess.Popen(
        [str(Path(__file__).parent / "as"), "researcher", "sleep 30"], stdin=subprocess.DEVNULL
    ) as session:
        lab.wait(lambda: len(lab.sshd_pids()) >= len(listener) + 2, 10, "the session's two processes")
        session.terminate()
    lab.wait(lambda: lab.sshd_pids() == listener, 10, "only the listener")


def test_the_firewall_leaves_the_vm_login_only(lab: Lab) -> None:
    """This process is in the VM's network, so its own sockets are the VM's."""
    with socket.create_connection((lab.address("login"), 22), timeout=5) as connection:
        assert connection.getsockname()[0] == lab.address("cloud")
        assert connection.recv(8) == b"SSH-2.0-"
    for node, port in (("c1", 6818), ("ctl", 6817), ("login", 6818)):
        with pytest.raises(OSError), socket.create_connection((lab.address(node), port), timeout=5):
            pass


def test_the_jobs_key_opens_a_reverse_forward_on_loopback_and_nothing_else(lab: Lab) -> None:
    key = f"ssh -o BatchMode=yes -o ExitOnForwardFailure=yes -i {lab.fact('JOB_KEY')}"
    assert lab.sh(f"{key} cloudsvc@cloud id").returncode == 1
    assert lab.sh(f"timeout 5 {key} -N -R 198.18.1.10:18300:login:22 cloudsvc@cloud").returncode == 255
    with socket.socket() as probe:  # a free port of the VM's
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    forward = f"timeout 20 {key} -N -R 127.0.0.1:{port}:login:22 cloudsvc@cloud"
    with subprocess.Popen(
        [str(Path(__file__).parent / "as"), "researcher", forward],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as tunnel:

        def banner() -> bytes:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                    return connection.recv(8)
            except OSError:
                return b""

        assert lab.wait(banner, 10, "the tunnel") == b"SSH-2.0-"
        tunnel.terminate()


def test_a_cut_parts_site_and_world(lab: Lab) -> None:
    lab.cut()
    try:
        with pytest.raises(TimeoutError), socket.create_connection((lab.address("login"), 22), timeout=1):
            pass
    finally:
        lab.mend()
    assert lab.sh("true").returncode == 0


def test_nodes_see_the_lab_read_only_and_have_their_own_tmp(lab: Lab) -> None:
    assert lab.on("c1", "touch", f"{lab.fact('LAB_ROOT')}/x", check=False).returncode != 0
    assert lab.on("c1", "ls", "-A", "/root").stdout == ""
    assert lab.on("c1", "sh", "-c", "touch /tmp/mine && hostname").stdout == "c1\n"
    assert lab.on("c2", "ls", "/tmp/mine", check=False).returncode != 0
    assert Path("/proc/self/ns/net").readlink() == Path(f"/proc/{lab.pid('cloud')}/ns/net").readlink()


@pytest.mark.slow
def test_a_power_cut_ends_its_jobs(lab: Lab, jobs: Jobs) -> None:
    lab.wait(lambda: lab.state(jobs.on_dead_node) == "NODE_FAIL", 60, "NODE_FAIL of the job on c3")
