"""What a job's own programs offer to the site's network without a token: real sockets of real processes."""

from __future__ import annotations

import itertools
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.unit.jobs.harness import NODES, Job, wait_until

LISTENS = """
import socket, sys
kept = [socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
        for address in sys.argv[1:]]
print(*[server.getsockname()[1] for server in kept], flush=True)
sys.stdin.read()
"""


@contextmanager
def program(*addresses: str) -> Iterator[list[int]]:
    """A program of ours that listens at these addresses; gives its ports."""
    argv = [sys.executable, "-c", LISTENS, *addresses]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield [int(port) for port in process.stdout.readline().split()]
        process.communicate()


def found(ray_job: ModuleType, ports: dict[str, int] | None = None, *, closed: bool = True) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = ray_job.Listeners(ports or {}, closed=closed).found()
    return rows


NAME = Path(sys.executable).name[:15]


def test_what_other_nodes_reach_is_told_by_program_address_and_port(ray_job: ModuleType) -> None:
    with program("0.0.0.0", "127.0.0.1", "0.0.0.0", "::") as (first, _, second, sixth):
        assert found(ray_job) == [
            {"program": NAME, "address": "0.0.0.0", "ports": sorted([first, second])},
            {"program": NAME, "address": "::", "ports": [sixth]},
        ]
    assert found(ray_job) == []


def test_what_other_programs_of_this_machine_do_is_none_of_our_business(ray_job: ModuleType) -> None:
    with closing(socket.create_server(("0.0.0.0", 0))):  # of this process, which is above, not below
        assert found(ray_job) == []


@pytest.mark.parametrize(
    ("name", "closed", "told"),
    [("gcs", True, False), ("gcs", False, True), ("metrics", True, False), ("metrics", False, False)],
)
def test_rays_own_ports_are_open_only_without_tokens_and_its_figures_are_nothing_to_warn_of(
    ray_job: ModuleType, name: str, closed: bool, told: bool
) -> None:
    with program("0.0.0.0") as (port,):
        row = {"program": "Ray", "address": "0.0.0.0", "ports": [port]}
        assert found(ray_job, {name: port}, closed=closed) == ([row] if told else [])


@pytest.mark.parametrize("closed", [True, False])
def test_the_ports_of_rays_workers_are_rays(ray_job: ModuleType, closed: bool) -> None:
    with program("0.0.0.0") as (port,):
        rows = found(ray_job, {"min_worker": port - 1, "max_worker": port + 1}, closed=closed)
        assert [row["program"] for row in rows] == ([] if closed else ["Ray"])
        assert [row["program"] for row in found(ray_job, {"min_worker": port + 1, "max_worker": port + 2})] == [NAME]


def test_no_more_is_told_than_is_of_use(ray_job: ModuleType) -> None:
    with program(*["0.0.0.0"] * 30) as ports:
        assert [row["ports"] for row in found(ray_job)] == [sorted(ports)[:10]]


def test_it_is_looked_ever_more_rarely_and_told_only_when_it_changes(
    ray_job: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_job.time, "monotonic", lambda: 0.0)
    looking = ray_job.Listeners({}, closed=True)
    seen: list[list[str]] = [[]]
    monkeypatch.setattr(looking, "found", lambda _: seen[-1])
    assert looking.open is None
    looks = [second for second in range(3000) if looking.look(float(second))]
    assert looks == [5], "nothing found is news once"
    looking = ray_job.Listeners({}, closed=True)
    looks = []

    def look(_: object) -> list[str]:
        looks.append(second)
        return seen[-1]

    monkeypatch.setattr(looking, "found", look)
    for second in range(2000):
        looking.look(float(second))
    assert looks[:4] == [5, 15, 35, 75]
    assert {later - earlier for earlier, later in itertools.pairwise(looks[6:])} == {300}
    seen.append(["more"])
    assert looking.look(5000.0)
    assert not looking.look(5300.0)


def test_the_kernels_tables_are_read_as_it_writes_them(ray_job: ModuleType, tmp_path: Path) -> None:
    head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    rest = "00000000:00000000 00:00000000 00000000  1000        0"
    lines = [
        f"0: 0100007F:1F90 00000000:0000 0A {rest} 11 1",
        f"1: 0101090A:1F91 00000000:0000 0A {rest} 12 1",
        f"2: 00000000:1F92 00000000:0000 01 {rest} 13 1",
        f"3: 00000000:1F93 00000000:0000 0A {rest} 14 1",
        "4: half a line",
    ]
    (tmp_path / "tcp").write_text(head + "\n".join(lines))
    assert ray_job.network_sockets(str(tmp_path)) == {"12": ("10.9.1.1", 8081), "14": ("0.0.0.0", 8083)}
    mapped = "0000000000000000FFFF00000100007F"
    (tmp_path / "tcp6").write_text(head + f"0: {mapped}:1F90 {'0' * 32}:0000 0A {rest} 15 1\n")
    assert "15" not in ray_job.network_sockets(str(tmp_path)), "loopback, told as IPv6 has it"


def test_a_job_tells_it_of_its_nodes_and_of_its_entrypoint(job: Job) -> None:
    job.wrong("runs-worker", 'import socket, time; s = socket.create_server(("0.0.0.0", 0)); time.sleep(1000)')
    job.start(entrypoint="python3 -c 'import socket, time; s = socket.create_server((\"\", 0)); time.sleep(1000)'")
    job.reach("driver")
    assert job.status["open_listeners"] is None, "nobody has looked yet"
    assert job.status["node_names"] == NODES[:1]
    wait_until(lambda: '"open"' in (job.folder / "logs/head.log").read_text(), "the node's look")
    wait_until(lambda: job.status["open_listeners"], "the supervisor's look at the entrypoint")
    job.send(signal.SIGTERM)
    job.end()
    told = job.summary["open_listeners"]
    assert {row["node"] for row in told} == {NODES[0]}
    assert {row["address"] for row in told} == {"0.0.0.0"}
    assert len({port for row in told for port in row["ports"]}) == 2, "the worker's and the entrypoint's"
