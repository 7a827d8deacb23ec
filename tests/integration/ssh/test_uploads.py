"""What a job brings along, copied to OpenSSH's sshd: folders, modes, slow and stalled lines, full disks."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.client.transport import PIECE_BYTES, RemoteFile, RemoteStream
from exporter.config import load_config
from exporter.errors import DeadlineError, SessionLostError, SiteError, StoreError
from exporter.launch.bundle import SpecFile, packed, stage
from exporter.store import submissions
from exporter.store.db import Store
from tests.integration.ssh.connecting import Connect, small_disk
from tests.sshd_server import HOST, USER, Relay, Sshd
from tests.unit.test_launch import journal
from tests.unit.test_selection import chosen, tree

SLOW = 400_000
"""Bytes a second."""


def stream(content: bytes, mode: int = 0o644) -> RemoteStream:
    def pieces() -> Iterator[bytes]:
        for start in range(0, len(content), PIECE_BYTES):
            yield content[start : start + PIECE_BYTES]

    return RemoteStream(pieces, mode)


def sha256sum(folder: Path) -> dict[str, str]:
    done = subprocess.run(
        "find . -type f -print0 | xargs -0 sha256sum",
        shell=True,
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = (line.split("  ./", 1) for line in done.stdout.splitlines())
    return {path: digest for digest, path in lines}


def test_what_is_brought_arrives_as_it_was(connect: Connect, tmp_path: Path) -> None:
    code = tree(tmp_path / "code", {"train.py": "import lib\n", "lib/a b.py": "", "lib/caf\u00e9.txt": "\u00e9"})
    (code / "big").write_bytes(os.urandom(5_000_000))
    (code / "run.sh").write_text("#!/bin/sh\n")
    (code / "run.sh").chmod(0o775)
    (code / "own").write_text("")
    (code / "own").chmod(0o600)
    (code / "out/empty").mkdir(parents=True)
    (code / "link").symlink_to("lib")
    run = tmp_path / "run"
    run.mkdir()
    transport = connect()
    transport.connect(5)
    sent: list[int] = []
    with packed(chosen([{"path": "code", "to": "."}], tmp_path), tmp_path / "state", spec=None, now=0.0) as bundle:
        transport.write(str(run), bundle.files(sent.append), 5, folders=bundle.folders)
        listed = {file["path"]: file["sha256"] for file in bundle.manifest["files"]}
    assert sum(sent) == bundle.total_bytes
    assert sha256sum(run / "work") == listed
    assert set(listed) == {
        "train.py", "lib/a b.py", "lib/caf\u00e9.txt", "big", "run.sh", "own", "link/a b.py", "link/caf\u00e9.txt",
    }  # fmt: skip
    assert (run / "work/out/empty").is_dir()
    modes = {name: (run / "work" / name).stat().st_mode & 0o777 for name in ("run.sh", "own", "train.py", "lib")}
    assert modes == {"run.sh": 0o755, "own": 0o600, "train.py": 0o644, "lib": 0o700}
    assert not any(path.is_symlink() for path in (run / "work").rglob("*"))


def test_a_folder_that_is_there_is_used_and_a_file_in_its_place_is_told(connect: Connect, tmp_path: Path) -> None:
    transport = connect()
    transport.connect(5)
    (tmp_path / "work").mkdir()
    transport.write(str(tmp_path), {"work/x": RemoteFile(b"1")}, 5, folders=["work"])
    assert (tmp_path / "work/x").read_bytes() == b"1"
    with pytest.raises(SiteError, match=f"writing to {tmp_path}: "):
        transport.write(str(tmp_path), {}, 5, folders=["work/x"])
    with pytest.raises(SiteError, match="there is no such folder"):
        transport.write(str(tmp_path / "gone"), {"y": RemoteFile(b"1")}, 5)
    assert transport.connect(5) is False, "none of it costs a session"


def test_each_piece_goes_at_once(connect: Connect, tmp_path: Path) -> None:
    """Held back until the one before is acknowledged, as TCP does unless told otherwise, this takes 15 s."""
    transport = connect()
    transport.connect(5)
    started = time.monotonic()
    transport.write(str(tmp_path), {"big": stream(bytes(16 << 20))}, 5)
    assert time.monotonic() - started < 8


def test_a_site_that_is_far_away_is_not_waited_for_with_each_piece(
    connect: Connect, relay: Relay, tmp_path: Path
) -> None:
    """One after the other these 512 pieces take 25 s."""
    content = os.urandom(16 << 20)
    transport = connect(port=relay.port)
    transport.connect(5)
    relay.far(0.05)
    started = time.monotonic()
    transport.write(str(tmp_path), {"big": stream(content)}, 5)
    assert time.monotonic() - started < 8
    assert (tmp_path / "big").read_bytes() == content


def test_what_is_not_there_afterwards_is_told(connect: Connect, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("NOT TESTED: only root can make a device, into which what is written vanishes")
    os.mknod(tmp_path / "void", stat.S_IFCHR | 0o600, os.makedev(1, 3))  # not a link: /dev/null itself would be changed
    transport = connect()
    transport.connect(5)
    with pytest.raises(SiteError, match="void has 0 bytes there instead of 7; is the disk or your quota full"):
        transport.write(str(tmp_path), {"void": RemoteFile(b"content")}, 5)
    assert transport.connect(5) is False


def test_a_slow_line_is_waited_for_as_long_as_bytes_flow(connect: Connect, relay: Relay, tmp_path: Path) -> None:
    content = os.urandom(2 * SLOW)
    transport = connect(port=relay.port)
    transport.connect(5)
    relay.slow(SLOW)
    started = time.monotonic()
    transport.write(str(tmp_path), {"big": stream(content)}, 1)
    assert time.monotonic() - started > 1.8, "far longer than a command may take"
    assert (tmp_path / "big").read_bytes() == content


def test_many_small_files_may_take_longer_than_one_command(connect: Connect, relay: Relay, tmp_path: Path) -> None:
    transport = connect(port=relay.port)
    transport.connect(5)
    relay.slow(20_000)
    files = {f"{number}": RemoteFile(b"x") for number in range(60)}
    started = time.monotonic()
    transport.write(str(tmp_path), files, 1)
    assert time.monotonic() - started > 1
    assert len(list(tmp_path.iterdir())) == len(files) + 1  # and known_hosts


def test_a_line_that_stalls_ends_the_upload(connect: Connect, relay: Relay, tmp_path: Path) -> None:
    transport = connect(port=relay.port)
    transport.connect(5)
    stalled: list[float] = []

    def pieces() -> Iterator[bytes]:
        for number in range(100):
            if number == 20:
                relay.silence()
                stalled.append(time.monotonic())
            yield b"x" * PIECE_BYTES

    with pytest.raises(DeadlineError, match=r"no answer within 1 s: writing to"):
        transport.write(str(tmp_path), {"big": RemoteStream(pieces)}, 1)
    assert 0.9 < time.monotonic() - stalled[0] < 3
    assert transport.connect(5) is True, "the session is not used again"


def test_an_upload_that_is_cut_off_is_told(connect: Connect, relay: Relay, tmp_path: Path) -> None:
    transport = connect(port=relay.port)
    transport.connect(5)
    relay.cut(sent=500_000)
    with pytest.raises(SessionLostError):
        transport.write(str(tmp_path), {"big": stream(os.urandom(1_000_000))}, 5)


def test_a_full_disk_at_the_site_is_named(connect: Connect, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=256k") as disk:
        transport = connect()
        transport.connect(5)
        with pytest.raises(SiteError, match=r"is the disk or your quota full\?"):
            transport.write(str(disk), {"work/big": stream(os.urandom(9_000_000))}, 5, folders=["work"])
        assert transport.connect(5) is False, "a full disk costs no session"
        transport.close()


def test_a_full_disk_here_is_named_and_holds_no_rest(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(os.urandom(1_000_000))
    selection = chosen(["big"], tmp_path)
    with small_disk(tmp_path / "disk", "size=256k") as disk:
        with pytest.raises(StoreError, match=r"No space left on device; .*: is there room"):
            stage(selection, disk, spec=SpecFile("x", "y"), now=0.0)
        assert list((disk / "staged").iterdir()) == []
        with pytest.raises(StoreError, match="No space left"), packed(selection, disk, spec=None, now=0.0):
            pass


def test_a_file_whose_source_fails_costs_no_session(connect: Connect, tmp_path: Path) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"x"
        raise StoreError("the copy is damaged")

    transport = connect()
    transport.connect(5)
    with pytest.raises(StoreError, match="the copy is damaged"):
        transport.write(str(tmp_path), {"x": RemoteStream(pieces)}, 5)
    assert transport.connect(5) is False


# --- a launch as a whole


CONFIG = """\
state_dir: {folder}/state
sites:
  here:
    project: p
    partition: small
    work_dir: {folder}/scratch
    ssh: {{host: {host}, port: {port}, user: {user}, key: {key}, agent: false, known_hosts: {folder}/known_hosts}}
"""

SPEC = """\
site: here
name: train
cluster: {nodes: 1, cpus_per_node: 1, memory_per_node: 1G, time: 5m}
ray: {dashboard_tunnel: false}
bring: [{path: code, to: .}]
"""


def test_a_process_that_is_killed_while_copying_submits_nothing(sshd: Sshd, tmp_path: Path) -> None:
    """And leaves no copy; the next process finds that out."""
    sshd.known_hosts(tmp_path / "known_hosts")
    text = CONFIG.format(folder=tmp_path, host=HOST, port=sshd.port, user=USER, key=sshd.key)
    (tmp_path / "rayslurm.yaml").write_text(text)
    tree(tmp_path / "code", {"train.py": "print()\n"})
    (tmp_path / "code/big").write_bytes(os.urandom(1_000_000))
    (tmp_path / "spec.yaml").write_text(SPEC)
    command = [sys.executable, "-m", "exporter.cli.entry", "launch", str(tmp_path / "spec.yaml")]
    environment = {**os.environ, "RAYSLURM_CONFIG": str(tmp_path / "rayslurm.yaml"), "RAYSLURM_CRASH_AT": "bringing"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -9, done.stderr
    assert list((tmp_path / "state/staged").iterdir()) == []
    (run,) = (tmp_path / "scratch").iterdir()
    assert (run / "work").is_dir()
    assert not (run / "job.sbatch").exists()

    environment.pop("RAYSLURM_CRASH_AT")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert "sbatch" in done.stderr, "no Slurm is here; but all was copied"
    config = load_config(tmp_path / "rayslurm.yaml")
    with Store(config.store_path) as store:
        killed, whole = journal(store)
        with store.snapshot() as connection:
            manifest = submissions.manifest(connection, whole.token)
    assert (killed.state, killed.error) == ("absent", "nothing was submitted: rayslurm ended before it could")
    assert manifest is not None
    folder = Path(whole.run_dir)
    assert sha256sum(folder / "work") == {file["path"]: file["sha256"] for file in manifest["files"]}
    assert {path.name for path in folder.iterdir()} >= {"work", "manifest.json", "job.sbatch", "plan.json"}
    assert json.loads((folder / "manifest.json").read_text()) == manifest
