"""Commands and files over SSH against OpenSSH's sshd, with what passes between them broken on purpose."""

from __future__ import annotations

import os
import pwd
import time
from pathlib import Path

import pytest

from exporter.client.transport import RemoteFile, RemoteFound
from exporter.errors import (
    ConnectError,
    DeadlineError,
    SessionLostError,
    SiteError,
)
from tests.integration.ssh.connecting import SIZE, Connect, small_disk
from tests.sshd_server import Relay, sshd_server

# --- uploads


@pytest.mark.parametrize("size", [65_537, 70_000, 300_000], ids=["by-one-byte", "in-the-last-packet", "by-far"])
def test_an_upload_to_a_full_disk_fails_and_names_the_disk(connect: Connect, tmp_path: Path, size: int) -> None:
    with small_disk(tmp_path / "disk", "size=64k") as disk:
        transport = connect()
        transport.connect(5)
        content = os.urandom(size)
        with pytest.raises(SiteError, match=rf"writing to {disk}: .*is the disk or your quota full\?"):
            transport.write(str(disk), {"big": RemoteFile(content), "small": RemoteFile(b"x")}, 5)
        assert transport.connect(5) is False, "a full disk costs no session"
        (disk / "big").unlink()
        transport.write(str(disk), {"fits": RemoteFile(content[:60_000])}, 5)
        assert (disk / "fits").read_bytes() == content[:60_000]
        transport.close()


def test_a_folder_that_no_longer_fits_names_the_disk(connect: Connect, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=64k,nr_inodes=3") as disk:
        transport = connect()
        transport.connect(5)
        with pytest.raises(SiteError, match=r"making .*/four: .*is the disk or your quota full\?"):
            transport.make_folder(f"{disk}/two/three/four", 5)
        transport.close()


def test_an_upload_that_is_cut_off_never_passes_for_done(connect: Connect, relay: Relay, tmp_path: Path) -> None:
    transport = connect(port=relay.port)
    content = os.urandom(SIZE)
    told = []
    for number, cut in enumerate(range(0, 64_000, 6_000)):
        transport.connect(5)
        relay.cut(sent=cut)
        try:
            transport.write(str(tmp_path), {f"file{number}": RemoteFile(content)}, 5)
        except (ConnectError, SessionLostError) as error:
            told.append(type(error))
        else:
            assert (tmp_path / f"file{number}").read_bytes() == content
        transport.close()
    assert told.count(SessionLostError) >= 8


# --- answers


@pytest.mark.parametrize(
    "command",
    [f"head -c {SIZE} /dev/zero", f"(sleep 0.02; head -c {SIZE} /dev/zero) & exit 0"],
    ids=["", "status-before-the-output"],
)
def test_an_answer_that_is_cut_off_never_passes_for_a_whole_one(connect: Connect, relay: Relay, command: str) -> None:
    transport = connect(port=relay.port)
    lost = 0
    for cut in (*range(0, 57_001, 3_800), *range(60_000, 60_600, 150)):
        transport.connect(5)
        relay.cut(received=cut)
        try:
            answer = transport.run(command, 5)
        except SessionLostError:
            lost += 1
        except ConnectError:
            assert cut == 0, "something was sent"
        else:
            assert (answer.exit_status, len(answer.stdout)) == (0, SIZE), f"cut after {cut} bytes"
        transport.close()
    assert lost >= 15


def test_complaints_that_are_cut_off_never_pass_for_whole_ones(connect: Connect, relay: Relay) -> None:
    transport = connect(port=relay.port)
    for cut in range(1_000, 60_000, 8_000):
        transport.connect(5)
        relay.cut(received=cut)
        with pytest.raises(SessionLostError):
            transport.run(f"head -c {SIZE} /dev/zero >&2", 5)


def test_a_file_that_is_cut_off_never_passes_for_a_whole_one(connect: Connect, relay: Relay, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * SIZE)
    transport = connect(port=relay.port)
    for cut in range(500, 60_000, 6_000):
        transport.connect(5)
        relay.cut(received=cut)
        with pytest.raises(SessionLostError):
            transport.read(str(path), 1 << 20, 5)


def test_one_file_that_cannot_be_read_costs_itself_alone(connect: Connect, relay: Relay, tmp_path: Path) -> None:
    (tmp_path / "one").write_text("1")
    (tmp_path / "two").write_text("2")
    (tmp_path / "circle").symlink_to("circle")
    paths = [
        str(tmp_path / "one"),
        "/proc/self/mem",
        "/proc/sys/net/ipv4/route/flush",
        str(tmp_path / "circle"),
        str(tmp_path / "none"),
        str(tmp_path / "two"),
    ]
    transport = connect(port=relay.port)
    transport.connect(5)
    files = transport.read_many(paths, 100, 5)
    assert {path: content.content for path, content in files.found.items()} == {paths[0]: b"1", paths[-1]: b"2"}
    reasons = {"/proc/self/mem": "Failure", "/proc/sys/net/ipv4/route/flush": "Permission denied"}
    assert files.failed == reasons, "these are there, the others are not"
    assert transport.connect(5) is False, "it costs no session either"
    relay.hang_up()
    with pytest.raises((ConnectError, SessionLostError)):
        transport.read_many(paths, 100, 5)


def test_files_that_are_fetched_are_the_users_own_and_lie_in_the_folder(connect: Connect, tmp_path: Path) -> None:
    folder, outside = tmp_path / "run", tmp_path / "outside"
    (folder / "out").mkdir(parents=True)
    outside.mkdir()
    large = os.urandom(5_000_001)
    (folder / "large").write_bytes(large)
    (folder / "out/small").write_text("small")
    (outside / "secret").write_text("secret")
    (folder / "link").symlink_to(outside / "secret")
    (folder / "way").symlink_to(outside)
    os.mkfifo(folder / "pipe")
    transport = connect()
    transport.connect(5)
    came: dict[str, bytes] = {}

    def receive(name: str, found: RemoteFound) -> None:
        assert found.size == (folder / name).stat().st_size
        came[name] = b"".join(found.pieces(0, 3)) + b"|" + b"".join(found.pieces(3, found.size))

    too_long = "n" * 300  # the site's file system fails, and doesn't say that there is none
    names = ["missing", too_long, "large", "link", "way/secret", "pipe", "out", "../outside/secret", "out/small"]
    assert transport.fetch(str(folder), names, receive, 5) == {too_long: "Bad message"}
    assert came == {"large": large[:3] + b"|" + large[3:], "out/small": b"sma|ll"}
    assert transport.fetch(str(tmp_path / "gone"), names, receive, 5) == {}
    assert transport.fetch("/proc/sys/net/ipv4/route", ["flush"], receive, 5) == {"flush": "Permission denied"}
    assert len(came) == 2


def test_many_files_may_take_longer_than_one(connect: Connect, relay: Relay, tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{number}") for number in range(8)]
    for path in paths:
        Path(path).write_text(path)
    transport = connect(port=relay.port)
    transport.connect(5)
    relay.far(0.05)
    started = time.monotonic()
    assert list(transport.read_many(paths, 100, 1).found) == paths
    assert time.monotonic() - started > 1.2
    transport.close()


def test_a_background_process_that_keeps_the_output_open_ends_at_the_deadline(connect: Connect, tmp_path: Path) -> None:
    transport = connect()
    transport.connect(5)
    wanted = tmp_path / "wanted"
    wanted.touch()
    started = time.monotonic()
    try:
        with pytest.raises(DeadlineError, match=r"no answer within 0\.5 s"):
            transport.run(f"sh -c 'echo head; (while test -e {wanted}; do sleep 0.1; done; echo tail) & exit 0'", 0.5)
    finally:
        wanted.unlink()
    assert time.monotonic() - started < 2.5
    assert transport.connect(5) is True, "the session is not used again"


# --- what the user's shell says


@pytest.mark.parametrize("greeting", ["Welcome to the machine, dear user", "hi", "\n\n" + "module loaded\n" * 3000])
def test_a_shell_that_greets_breaks_uploads_and_the_cure_is_named(
    connect: Connect, tmp_path: Path, greeting: str
) -> None:
    shell = pwd.getpwuid(os.getuid()).pw_shell
    if Path(shell).name != "bash":
        pytest.skip(f"{shell} reads no .bashrc for a command")
    with sshd_server(tmp_path / "sshd") as server:
        (server.home / "greeting").write_text(greeting + "\n")
        (server.home / ".bashrc").write_text(f"cat {server.home}/greeting\n")
        transport = connect(server.key, server=server)
        transport.connect(5)
        with pytest.raises(SiteError, match="does your shell print something at its start, also without a terminal"):
            transport.write(str(tmp_path), {"file": RemoteFile(b"x")}, 5)
        assert not (tmp_path / "file").exists()
        (server.home / ".bashrc").unlink()
        assert transport.connect(5) is True
        transport.write(str(tmp_path), {"file": RemoteFile(b"x")}, 5)
        assert (tmp_path / "file").read_bytes() == b"x"
        transport.close()
