"""What a node decides for itself: ports, memory, address, folder."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from types import ModuleType

import pytest

from tests.unit.jobs.harness import SUPERVISOR

LINUX = (32768, 60999)


def own(ports: dict[str, int]) -> list[int]:
    """The ports of Ray's own processes."""
    return [port for name, port in ports.items() if not name.endswith("_worker")]


def test_ports_are_below_those_of_the_kernel(ray_job: ModuleType) -> None:
    for job in range(100):
        ports = ray_job.pick_ports(job, LINUX, free=lambda _port: True)
        assert {"gcs", "dashboard", "client", "metrics"} <= ports.keys()
        assert len(set(own(ports))) == len(own(ports)) == 11
        assert min(ports.values()) >= 10000
        assert max(ports.values()) < LINUX[0]
        assert max(own(ports)) < ports["min_worker"] < ports["max_worker"]
        assert ports["max_worker"] - ports["min_worker"] >= 499


@pytest.mark.parametrize("ephemeral", [(1024, 40000), (9000, 65535), (1024, 65535), (15000, 60000)])
def test_other_kernels(ray_job: ModuleType, ephemeral: tuple[int, int]) -> None:
    ports = ray_job.pick_ports(7, ephemeral, free=lambda _port: True)
    outside = all(not ephemeral[0] <= port <= ephemeral[1] for port in ports.values())
    assert outside or ephemeral[1] == 65535, "within the kernel's range only where there is nothing else"
    assert all(10000 <= port <= 65535 for port in ports.values())


def test_jobs_one_after_the_other_keep_apart(ray_job: ModuleType) -> None:
    first, second = (ray_job.pick_ports(job, LINUX, free=lambda _port: True) for job in (4711, 4712))
    assert max(first.values()) < min(second.values()) or max(second.values()) < min(first.values())


def test_taken_ports_are_left_out(ray_job: ModuleType) -> None:
    before = ray_job.pick_ports(3, LINUX, free=lambda _port: True)
    taken = set(own(before)[::2])
    after = ray_job.pick_ports(3, LINUX, free=lambda port: port not in taken)
    assert not taken & set(after.values())
    assert len(set(own(after))) == 11


def test_a_full_slot_is_left_out(ray_job: ModuleType) -> None:
    before = ray_job.pick_ports(3, LINUX, free=lambda _port: True)
    after = ray_job.pick_ports(3, LINUX, free=lambda port: not before["gcs"] <= port <= before["max_worker"])
    assert before["max_worker"] < after["gcs"]


def test_no_port_at_all(ray_job: ModuleType) -> None:
    with pytest.raises(ray_job.End, match="no free ports from 10000 to"):
        ray_job.pick_ports(3, LINUX, free=lambda _port: False)


def test_a_port_is_free_when_nobody_listens(ray_job: ModuleType) -> None:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as asyncio and gRPC do
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert not ray_job.is_free(port)
        with socket.create_connection(("127.0.0.1", port)):
            server.accept()[0].close()
    assert ray_job.is_free(port), "also with a connection that is just over"
    assert not ray_job.is_free(0, "192.0.2.1"), "no address of this machine"


GIB = 1024**3


@pytest.mark.parametrize(
    ("total", "wanted", "store", "workers"),
    [
        (100 * GIB, 20 * GIB, 20 * GIB, 76 * GIB),
        (10 * GIB, GIB, GIB, 8 * GIB),
        (2 * GIB, GIB, GIB, 768 * 1024**2),
    ],
)
def test_memory(ray_job: ModuleType, total: int, wanted: int, store: int, workers: int) -> None:
    assert ray_job.split_memory(total, wanted) == (workers, store)


def test_the_object_store_is_no_larger_than_its_file_system(ray_job: ModuleType) -> None:
    room = ray_job.os.statvfs("/dev/shm")
    free = room.f_bavail * room.f_frsize
    _, store = ray_job.split_memory(100 * free, None)
    assert store <= max(free, 80 * 1024**2)
    workers, store = ray_job.split_memory(GIB, None)
    assert store <= GIB * 3 // 10
    assert workers + store < GIB


def test_too_little_memory(ray_job: ModuleType) -> None:
    with pytest.raises(ray_job.End, match=r"1024 MiB of memory a node are too few: 1000 go to the object store"):
        ray_job.split_memory(GIB, 1000 * 1024**2)


def test_the_folder_of_a_job(ray_job: ModuleType) -> None:
    assert ray_job.session_dir("/tmp", "4711") == "/tmp/rs-4711"
    with pytest.raises(ray_job.End, match=r"not an absolute path: '\$TMPDIR'"):
        ray_job.session_dir("$TMPDIR", "4711")


def test_a_path_too_long_for_sockets(ray_job: ModuleType) -> None:
    longest = next(
        length for length in range(100, 0, -1) if not too_long(ray_job, "/" + "x" * (length - 1)) and length > 20
    )
    socket_path = f"/{'x' * (longest - 1)}/rs-123456/r/session_2026-11-24_01-16-29_431187_4194304/sockets/plasma_store"
    assert len(socket_path) <= 107
    with pytest.raises(ray_job.End, match=r"1 bytes too long for the paths of sockets"):
        ray_job.session_dir("/" + "x" * longest, "123456")


def too_long(ray_job: ModuleType, temp_dir: str) -> bool:
    try:
        ray_job.session_dir(temp_dir, "123456")
    except ray_job.End:
        return True
    return False


def test_the_address_is_never_loopback(ray_job: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hostname = tmp_path / "hostname"
    hostname.write_text("#!/bin/sh\necho 127.0.0.1 fe80::1 10.9.8.7 10.9.8.8\n")
    hostname.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert ray_job.node_address("127.0.1.1") == "10.9.8.7"
    hostname.write_text("#!/bin/sh\necho 127.0.0.1\n")
    with pytest.raises(ray_job.End, match="has no address that other nodes can reach"):
        ray_job.node_address("127.0.1.1")


def test_the_exit_statuses_are_told_at_the_top(ray_job: ModuleType) -> None:
    top = SUPERVISOR.read_text().split('"""')[1]
    told = {int(word) for word in re.findall(r"^    (\d+)", top, re.MULTILINE)}
    used = {value for name, value in vars(ray_job).items() if name.startswith("EXIT_")}
    assert used <= told
