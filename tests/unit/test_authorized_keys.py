"""Keys of jobs in the file of an account: ours come and go, everybody else's lines stay as they are."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.errors import StoreError
from exporter.tunnels import authorized_keys
from exporter.tunnels.authorized_keys import AuthorizedKeys, key_line, make_key

PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGtra2tra2tra2tra2tra2tra2tra2tra2tra2tra2tr"
OTHERS = b'ssh-rsa AAAA me@laptop\n# a note\n\nfrom="10.0.0.1" ssh-ed25519 BBBB rayslurm-other-abc\n\xff\xfe odd\n'


@pytest.fixture
def keys(tmp_path: Path) -> AuthorizedKeys:
    return AuthorizedKeys(tmp_path / ".ssh" / "authorized_keys", "i1")


def test_a_line_opens_its_ports_and_nothing_else() -> None:
    line = key_line(PUBLIC, [8100, 8201], expires=1795000000.0, mark="rayslurm-i1-tok")
    assert line == (
        'restrict,port-forwarding,permitlisten="127.0.0.1:8100",permitlisten="127.0.0.1:8201",'
        'permitopen="127.0.0.1:1",command="/bin/false",expiry-time="20261118110640Z" ' + PUBLIC + " rayslurm-i1-tok"
    )


def test_a_new_key_is_one_that_openssh_reads(tmp_path: Path) -> None:
    key = make_key()
    path = tmp_path / "id"
    path.write_bytes(key.private)
    path.chmod(0o600)
    told = subprocess.run(["ssh-keygen", "-y", "-f", path], capture_output=True, text=True, check=True)
    assert told.stdout.split()[:2] == key.public.split()
    assert make_key().public != key.public


def test_lines_come_and_go(keys: AuthorizedKeys) -> None:
    assert keys.tokens() == []
    keys.put("one", PUBLIC, [8100], expires=2e9)
    keys.put("two", PUBLIC, [8101], expires=2e9)
    assert keys.path.stat().st_mode & 0o777 == 0o600
    assert keys.path.parent.stat().st_mode & 0o777 == 0o700
    keys.put("one", PUBLIC, [8102], expires=2e9)
    assert keys.tokens() == ["two", "one"]
    assert 'permitlisten="127.0.0.1:8102"' in keys.path.read_text()
    assert "8100" not in keys.path.read_text()
    assert keys.remove({"two", "three"}) == ["two"]
    assert keys.tokens() == ["one"]
    assert keys.remove({"one"}) == ["one"]
    assert keys.path.read_text() == ""
    assert [path.name for path in keys.path.parent.iterdir() if "new" in path.name] == []


def test_lines_of_others_stay(keys: AuthorizedKeys) -> None:
    keys.path.parent.mkdir()
    keys.path.write_bytes(OTHERS)
    keys.path.chmod(0o640)
    keys.put("abc", PUBLIC, [8100], expires=2e9)
    assert keys.path.read_bytes().startswith(OTHERS)
    assert keys.path.stat().st_mode & 0o777 == 0o640
    other = AuthorizedKeys(keys.path, "other")
    assert other.tokens() == ["abc"], "of another rayslurm"
    keys.remove({"abc"})
    assert keys.path.read_bytes() == OTHERS


@settings(max_examples=50)
@given(st.binary().map(lambda raw: raw.replace(b"\r", b"")))
def test_whatever_stands_there_stays(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    keys = AuthorizedKeys(tmp_path_factory.mktemp("keys") / "authorized_keys", "i1")
    keys.path.write_bytes(content)
    keys.put("abc", PUBLIC, [8100], expires=2e9)
    keys.remove({"abc"})
    kept = keys.path.read_bytes()
    assert kept == content or kept == content + b"\n"


def test_a_link_is_followed(keys: AuthorizedKeys, tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(OTHERS)
    keys.path.parent.mkdir()
    keys.path.symlink_to(tmp_path / "kept")
    keys.put("abc", PUBLIC, [8100], expires=2e9)
    assert keys.path.is_symlink()
    assert b"rayslurm-i1-abc" in (tmp_path / "kept").read_bytes()


def test_many_at_once_lose_nothing(keys: AuthorizedKeys) -> None:
    names = [f"t{number}" for number in range(20)]
    threads = [
        threading.Thread(target=keys.put, args=(name, PUBLIC, [8100]), kwargs={"expires": 2e9}) for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(keys.tokens()) == sorted(names)


def test_what_somebody_adds_meanwhile_is_not_lost(keys: AuthorizedKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    keys.path.parent.mkdir()
    keys.path.write_bytes(OTHERS)
    real = authorized_keys._split
    added: list[str] = []

    def split(content: bytes) -> list[str]:
        if not added:  # between the reading and the replacing
            added.append("added")
            with keys.path.open("ab") as file:
                file.write(b"ssh-rsa CCCC added\n")
        return real(content)

    monkeypatch.setattr(authorized_keys, "_split", split)
    keys.put("abc", PUBLIC, [8100], expires=2e9)
    assert b"CCCC added" in keys.path.read_bytes()
    assert keys.tokens() == ["abc"]


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    keys = AuthorizedKeys(tmp_path / "file" / "authorized_keys", "i1")
    with pytest.raises(StoreError, match=r"cannot be written: .*vm.identity_file"):
        keys.put("abc", PUBLIC, [8100], expires=2e9)
