"""`rayslurm doctor` on this machine: each thing that may be wrong is provoked, and named with its cure."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from exporter.config import Config
from exporter.doctor import access, installation, state
from exporter.owner.lock import OwnerLock, is_held
from exporter.store.db import Store
from tests.sshd_server import make_key, public_key
from tests.unit.answering import unused
from tests.unit.conftest import make_certificate
from tests.unit.doctoring import answers, said

# -- the installation


def test_a_configuration_that_others_can_write_is_wrong(config_path: Path, config: Config) -> None:
    assert said(installation.check_configuration(config_path, config))[0] == "well"
    config_path.chmod(0o664)
    level, words = said(installation.check_configuration(config_path, config))
    assert level == "wrong"
    assert "can be written by others (mode 0664) -> run: chmod go-w" in words


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_configuration_of_somebody_else_is_wrong(config_path: Path, config: Config) -> None:
    os.chown(config_path, 12345, -1)
    assert "belongs to another account (uid 12345)" in said(installation.check_configuration(config_path, config))[1]


def test_files_that_are_named(config: Config) -> None:
    assert said(installation.check_named_files(config))[0] == "well"
    ssh = config.site("puhti2").settings.ssh
    assert ssh.key is not None
    ssh.key.chmod(0o644)
    ssh.known_hosts.unlink()
    key, known_hosts = installation.check_named_files(config)
    assert (key.level, key.cure) == ("wrong", f"run: chmod 600 {ssh.key}")
    assert known_hosts.level == "wrong"
    assert "is missing" in known_hosts.text


def test_libraries() -> None:
    assert said(installation.check_python())[0] == "well"
    level, words = said(installation.check_python(lambda: ["pydantic", "no-such-library"]))
    assert level == "wrong"
    assert "lacks no-such-library -> install rayslurm anew" in words
    assert said(installation.check_python(list))[0] == "look"


@pytest.mark.parametrize(("kernel", "level"), [(0, "well"), (5, "look"), (None, "look")])
def test_the_clock(kernel: int | None, level: str) -> None:
    assert said(installation.check_clock(lambda: kernel))[0] == level


def test_the_kernel_is_asked_for_the_clock_and_nothing_is_set() -> None:
    assert installation.clock_state() in {None, 0, 1, 2, 3, 4, 5}


# -- the state


def test_the_folder_of_state(config: Config, tmp_path: Path) -> None:
    level, words = said(state.check_folder(config))
    assert (level, "isn't there yet" in words) == ("well", True)
    config.state_dir.mkdir(mode=0o755)
    level, words = said(state.check_folder(config))
    assert (level, f"run: chmod 700 {config.state_dir}" in words) == ("wrong", True)
    config.state_dir.chmod(0o700)
    assert said(state.check_folder(config))[0] == "well"
    config.state_dir.rmdir()
    config.state_dir.touch()
    assert "is no folder" in said(state.check_folder(config))[1]
    assert tmp_path.exists()


def test_a_folder_that_cannot_be_written(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)  # whoever runs the tests may be root, who may do everything
    level, words = said(state.check_folder(config))
    assert (level, "can't be written by you" in words) == ("wrong", True)


@pytest.mark.parametrize(
    ("kind", "level"),
    [
        ("ext4", "well"), ("xfs", "well"), ("overlay", "well"), ("tmpfs", "look"),
        ("nfs4", "wrong"), ("fuse.sshfs", "wrong"), ("lustre", "wrong"),
    ],
)  # fmt: skip
def test_the_disk_it_lies_on(kind: str, level: str, config: Config, tmp_path: Path) -> None:
    config.state_dir.mkdir(mode=0o700)
    point = str(config.state_dir).replace("state", "st\\141te")  # as the kernel writes odd characters
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 8:1 / / rw,relatime shared:1 - ext3 /dev/sda1 rw\n"
        f"36 22 8:2 / {point} rw,relatime shared:2 - {kind} server:/x rw\n"
        f"37 22 8:3 / {point}-other rw - cgroup2 none rw\n"
    )
    level_found, words = said(state.check_folder(config, mounts))
    assert (level_found, kind in words or kind == "tmpfs") == (level, True)


def test_the_store(config: Config) -> None:
    path = config.store_path
    assert "isn't there yet" in said(state.check_store(config))[1]
    assert not path.exists()
    with Store(path):
        assert said(state.check_store(config))[0] == "well", "also while it is used"
    before = path.read_bytes()
    assert said(state.check_store(config))[0] == "well"
    assert path.read_bytes() == before
    assert [one.name for one in path.parent.iterdir()] == [path.name], "nothing is made by looking"
    path.chmod(0o640)
    assert f"chmod 600 {path}" in said(state.check_store(config))[1]
    path.chmod(0o600)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 3")
    level, words = said(state.check_store(config))
    assert (level, "schema 3; it is brought to" in words) == ("well", True)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 9999")
    level, words = said(state.check_store(config))
    assert (level, "upgrade rayslurm" in words) == ("wrong", True)


def test_a_damaged_store(config: Config) -> None:
    with Store(config.store_path):
        pass
    whole = config.store_path.read_bytes()
    damaged = bytearray(whole)
    damaged[4096 * 3 : 4096 * 6] = b"\xa5" * (4096 * 3)
    config.store_path.write_bytes(damaged)
    level, words = said(state.check_store(config))
    assert (level, "is damaged" in words or "malformed" in words) == ("wrong", True)
    config.store_path.write_bytes(b"no database at all, " * 500)
    level, words = said(state.check_store(config))
    assert (level, "not a database" in words, "-> put a backup in its place" in words) == ("wrong", True, True)


def test_who_owns_the_sites(rewrite: Callable[..., Config]) -> None:
    with unused() as port:
        config = rewrite(listen=f"127.0.0.1:{port}")
        config.state_dir.mkdir(mode=0o700)
        assert said(state.check_owner(config)) == (
            "look",
            "it doesn't run, so no job is followed -> run: rayslurm serve",
        )
        with OwnerLock(config.state_dir, "serve"):
            level, words = said(state.check_owner(config))
            assert (level, "nothing answers" in words) == ("wrong", True)
        with OwnerLock(config.state_dir, "launch"):
            assert "held by `rayslurm launch`" in said(state.check_owner(config))[1]
        (config.state_dir / "owner.lock").write_text(json.dumps({"role": "serve", "pid": 7, "host": "x", "since": 1}))
        assert "`rayslurm serve` (process 7) died" in said(state.check_owner(config))[1]
        assert not is_held(config.state_dir)
    with answers("rayslurm is healthy.\n") as port, OwnerLock(config.state_dir, "serve"):
        config = rewrite(listen=f"127.0.0.1:{port}")
        level, words = said(state.check_owner(config))
        assert (level, "it runs" in words) == ("well", True)
    with answers("another") as port:
        config = rewrite(listen=f"127.0.0.1:{port}")
        level, words = said(state.check_owner(config))
        assert (level, "something else listens" in words) == ("wrong", True)
        with OwnerLock(config.state_dir, "serve"):
            assert "something else answers" in said(state.check_owner(config))[1]


def test_looking_at_the_lock_leaves_it_to_others(tmp_path: Path) -> None:
    assert not is_held(tmp_path)
    with OwnerLock(tmp_path, "serve"):
        assert is_held(tmp_path)
        assert is_held(tmp_path)
    assert not is_held(tmp_path)
    with OwnerLock(tmp_path, "serve"):
        pass


# -- what a site is logged in with


def test_a_key_and_its_certificate(rewrite: Callable[..., Config], tmp_path: Path) -> None:
    key = make_key(tmp_path / "good")
    config = rewrite(sites__puhti2__ssh__key=key, sites__puhti2__ssh__agent=False)
    assert said(access.check_key(config.site("puhti2"))) == ("well", f"{key} can be offered -> ")
    config = rewrite(sites__puhti2__certificate=True)
    level, words = said(access.check_key(config.site("puhti2")))
    assert (level, "good-cert.pub is missing" in words) == ("wrong", True)
    key.write_text("no key\n")
    level, words = said(access.check_key(config.site("puhti2")))
    assert (level, "cannot be used as a private key" in words) == ("wrong", True)


@pytest.mark.parametrize(
    ("seconds", "level", "words"),
    [
        (None, "well", "can be offered"),
        (86400, "well", "which ends at"),
        (3600, "look", "fetch a new one"),
        (-3600, "wrong", "the certificate ended at"),
    ],
)
def test_when_a_certificate_ends(
    seconds: int | None, level: str, words: str, rewrite: Callable[..., Config], tmp_path: Path
) -> None:
    begins, ends = (
        "forever" if offset is None else time.strftime("%Y%m%d%H%M%SZ", time.gmtime(time.time() + offset))
        for offset in (-7 * 86400, seconds)
    )
    key = make_certificate(tmp_path, begins, ends)
    config = rewrite(sites__puhti2__ssh__key=key, sites__puhti2__ssh__agent=False, sites__puhti2__certificate=True)
    found = said(access.check_key(config.site("puhti2")))
    assert found[0] == level
    assert words in found[1]


def test_no_key_at_all(rewrite: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    config = rewrite(sites__puhti2__ssh__key=None)
    level, words = said(access.check_key(config.site("puhti2")))
    assert (level, "the SSH agent holds none -> start one" in words) == ("wrong", True)


def test_pinned_host_keys(rewrite: Callable[..., Config], tmp_path: Path) -> None:
    line = public_key(make_key(tmp_path / "host"))
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text(f"login.example.org {line}\n")
    config = rewrite(sites__puhti2__ssh__proxy_jump="maija@jump.example.org:2222")
    jump, own = access.check_known_hosts(config.site("puhti2"))
    assert (jump.level, "has no key of [jump.example.org]:2222" in jump.text) == ("wrong", True)
    assert (own.level, "login.example.org is pinned" in own.text) == ("well", True)
    known_hosts.write_text(f"other.example.org {line}\n")
    _, own = access.check_known_hosts(config.site("puhti2"))
    assert own.level == "wrong"


def test_a_pinned_key_that_is_not_the_published_one(rewrite: Callable[..., Config], tmp_path: Path) -> None:
    line = public_key(make_key(tmp_path / "host"))
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text(f"lumi.csc.fi {line}\n")
    config = rewrite(sites={"lumi": {"ssh": {"user": "maija", "known_hosts": str(known_hosts)}}})
    level, words = said(access.check_known_hosts(config.site("lumi")))
    assert (level, "is not the one that the site publishes" in words) == ("wrong", True)


def test_a_site_that_closed(rewrite: Callable[..., Config]) -> None:
    config = rewrite(sites={name: {"ssh": {"user": "maija"}} for name in ("puhti", "lumi")})
    level, words = said(access.check_service(config.site("puhti")))
    assert (level, "-> its successor is roihu" in words) == ("look", True)
    assert list(access.check_service(config.site("lumi"))) == []
    told_otherwise = rewrite(sites={"puhti": {"closed": False, "ssh": {"user": "maija"}}})
    assert list(access.check_service(told_otherwise.site("puhti"))) == []
