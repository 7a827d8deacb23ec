"""`rayslurm demo`: what it prints, what it compares, and that it leaves nothing behind."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import paramiko
import pytest

from exporter.cli.demo_check import KINDS, Checked, TunnelWatch, compare
from exporter.practice.site import PracticeSite

RAYSLURM = str(Path(sys.executable).parent / "rayslurm")

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a demo of this test puts its folder: other tests run demos at the same time."""
    folder = tmp_path / "t"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def left_behind(temporary: Path) -> set[str]:
    """Returns what a demo leaves on this machine while it runs: folders, and processes that name them."""
    left = {str(path) for path in temporary.iterdir()}
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it ended meanwhile
            continue
        if str(temporary) in command:
            left.add(command)
    return left


def test_what_is_on_the_page_is_what_is_true_at_the_sites(temporary: Path) -> None:
    done = subprocess.run([RAYSLURM, "demo", "--check"], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.startswith("demo-check: ")
    counts = {name: int(count) for name, count in re.findall(r"(\w+)=(\d+)", last)}
    assert counts.pop("differences") == 0
    assert set(counts) == set(KINDS)
    assert all(counts.values())
    assert counts["bills"] >= 8
    assert counts["tunnels"] >= 10
    assert left_behind(temporary) == set()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_shows_where_to_look_and_ends_without_a_trace(number: signal.Signals, temporary: Path) -> None:
    # Started in a shell's background, these tests ignore SIGINT, and what they start would too.
    command = ["env", "--default-signal=INT", RAYSLURM, "demo"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    try:
        first = process.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/metrics", first), "the first URL is the exporter's"
        ends = time.monotonic() + 60
        while "rayslurm_job_state{" not in httpx.get(first, trust_env=False).text:
            assert time.monotonic() < ends, "no job on /metrics"
            time.sleep(0.5)
        assert 'rayslurm_campaign_info{campaign="learn",' in httpx.get(first, trust_env=False).text
        assert any(" serve --config " in found for found in left_behind(temporary))
    finally:
        process.send_signal(number)
        assert process.wait(30) == 0
        process.stdout.close()
    assert left_behind(temporary) == set()
    with pytest.raises(httpx.ConnectError):
        httpx.get(first, trust_env=False)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[PracticeSite]:
    (tmp_path / "job").mkdir()
    practice = PracticeSite("roihu", tmp_path / "site", paramiko.ECDSAKey.generate())
    practice.start()
    yield practice
    practice.stop()


def test_a_page_that_is_wrong_is_told_apart(
    site: PracticeSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = site.world.submit(
        "train",
        "project_2001234",
        "medium",
        nodes=2,
        cpus=4,
        memory=1 << 30,
        gpus=0,
        limit=900,
        folder=tmp_path / "job",
    )
    site.world.cancel(job.job_id)
    page = tmp_path / "metrics"
    page.write_text(
        f'rayslurm_job_state{{site="roihu",job_id="{job.job_id}",state="completed"}} 1\n'
        'rayslurm_allocation_used{provider="csc",project="project_2001234",kind="cpu"} 18251\n'
    )
    monkeypatch.setattr("exporter.cli.demo_check.LAG_SECONDS", -10)
    ends = time.monotonic() + 10
    while not all(site.recently_used(60).values()):
        assert time.monotonic() < ends
        time.sleep(0.1)
    found = compare(f"file://{tmp_path}", {"roihu": site}, TunnelWatch())
    assert not found.complete
    told = "\n".join(found.differences)
    assert "state cancelled: /metrics has None, true is 1" in told
    assert "csc cpu used: /metrics has 18251, true is 18250" in told
    assert "roihu scratch: /metrics has None" in told


def test_a_tunnels_state_that_is_wrong_is_told_apart_and_stays_a_difference(site: PracticeSite, tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    plan = {"cpus_per_node": 4, "tunnels": [{"name": "dashboard", "vm_port": port}]}
    (tmp_path / "job/plan.json").write_text(json.dumps(plan))
    (tmp_path / "job/ray_auth_token").write_text("secret")
    site.world.patience = (0, 0, 8, 20)
    job = site.world.submit(
        "stay-up", "project_2001234", "medium", nodes=1, cpus=4, memory=1 << 30, gpus=0, limit=900,
        folder=tmp_path / "job",
    )  # fmt: skip
    while site.tunnel_states(job.job_id, time.time(), time.time()) != {"up"}:
        assert time.time() < job.start + 9
        time.sleep(0.1)
    watch = TunnelWatch()
    labels = f'site="roihu",job_id="{job.job_id}"'

    def look(*lines: str) -> Checked:
        page = "".join(
            line.replace("{", f"{{{labels},") + "\n" for line in ('rayslurm_job_state{state="running"} 1', *lines)
        )
        (tmp_path / "metrics").write_text(page)
        return compare(f"file://{tmp_path}", {"roihu": site}, watch)

    def told(found: Checked) -> list[str]:
        return [line for line in found.differences if "tunnel" in line]

    up = ('rayslurm_tunnel_up{tunnel="dashboard"} 1', 'rayslurm_tunnel_state{tunnel="dashboard",state="up"} 1')
    right = look(*up, f'rayslurm_tunnel_last_success_timestamp_seconds{{tunnel="dashboard"}} {time.time()}')
    assert (told(right), right.counts["tunnels"], right.tunnels_seen) == ([], 1, False)
    assert "/metrics has []" in told(look())[0]
    assert told(look(*up)) == [], "of a job that has just begun nothing need be known yet"
    wrong = look('rayslurm_tunnel_up{tunnel="dashboard"} 0', 'rayslurm_tunnel_state{tunnel="dashboard",state="auth"} 1')
    assert "/metrics has ['auth'] (up: 0), true is" in told(wrong)[0]
    assert "/metrics has ['auth']" in told(look(*up))[0], "it stays a difference"
    look(*up, f'rayslurm_tunnel_last_success_timestamp_seconds{{tunnel="dashboard"}} {job.start - 60}')
    assert any("its last success" in line for line in told(look(*up)))
    assert watch.wrong
