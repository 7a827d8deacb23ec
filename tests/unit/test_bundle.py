"""What is brought along as it was when somebody launched: the copy, its manifest, and what is left of it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from exporter import __version__
from exporter.errors import RayslurmError, RefusedError, StoreError
from exporter.launch.bundle import Bundle, Progress, SpecFile, packed, stage, sweep, take
from exporter.launch.gitstate import git_state
from exporter.launch.selection import Selection
from exporter.store import requests
from exporter.store.db import Store
from tests.unit.test_selection import chosen, tree

NOW = 1_795_000_000.0
SPEC_FILE = SpecFile("/home/maija/train.yaml", "0" * 64)


@contextmanager
def bundle(selection: Selection, state: Path, spec: SpecFile | None = SPEC_FILE) -> Iterator[Bundle]:
    with packed(selection, state, spec=spec, now=NOW) as found:
        yield found


def staged(selection: Selection, state: Path) -> str:
    return stage(selection, state, spec=SPEC_FILE, now=NOW)


def contents(found: Bundle) -> dict[str, bytes]:
    return {name: b"".join(file.pieces()) for name, file in found.files().items()}


def git(folder: Path, *words: str) -> str:
    """Runs git as nobody in particular."""
    identity = ("-c", "user.name=Maija", "-c", "user.email=maija@example.org", "-c", "commit.gpgsign=false")
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(
        ["git", *identity, *words], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one commit; what it holds is committed."""
    code = tree(
        tmp_path / "code", {"train.py": "old\n", "lib/helper.py": "help\n", "data/x": "1\n", ".gitignore": "*.local\n"}
    )
    git(code, "init", "-q", "-b", "main")
    git(code, "remote", "add", "origin", "https://maija:hunter2@example.org/code.git")
    git(code, "add", "--all")
    git(code, "commit", "-q", "-m", "first")
    return code


# --- the copy


def test_the_copy_is_what_was_there_at_the_time(tmp_path: Path) -> None:
    tree(tmp_path / "code", {"train.py": "first", "sub/big": "x" * 100_000, "sub/empty": ""})
    (tmp_path / "code/train.py").chmod(0o755)
    name = staged(chosen([{"path": "code", "to": "."}], tmp_path), tmp_path / "state")
    tree(tmp_path / "code", {"train.py": "later", "sub/new": "later"})
    (tmp_path / "code/sub/big").unlink()
    with take(tmp_path / "state", name) as found:
        files = contents(found)
        assert files == {
            "work/train.py": b"first",
            "work/sub/big": b"x" * 100_000,
            "work/sub/empty": b"",
            "manifest.json": json.dumps(found.manifest, indent=1).encode() + b"\n",
        }
        assert {name: file.mode for name, file in found.files().items()} == {
            "work/train.py": 0o755, "work/sub/big": 0o644, "work/sub/empty": 0o644, "manifest.json": 0o644,
        }  # fmt: skip
        assert found.folders == ["work", "work/sub"]
        assert (found.count, found.total_bytes) == (3, 100_005)
        assert contents(found) == files, "it can be sent once more"


def test_the_manifest_says_what_it_was(tmp_path: Path) -> None:
    tree(tmp_path, {"train.py": "print()\n", "code/a b.py": "1"})
    text = "site: lumi\n"
    with bundle(
        chosen(["train.py", "code"], tmp_path), tmp_path / "state", SpecFile.of(Path("/x/s.yaml"), text)
    ) as found:
        assert found.manifest == {
            "version": 1,
            "created": "2026-11-18T11:06:40Z",
            "rayslurm": __version__,
            "spec": {"path": "/x/s.yaml", "sha256": hashlib.sha256(text.encode()).hexdigest()},
            "sources": [
                {"path": f"{tmp_path}/train.py", "to": "train.py", "files": 1, "git": None},
                {"path": f"{tmp_path}/code", "to": "code", "files": 1, "git": None},
            ],
            "diff": None,
            "folders": ["code"],
            "files": [
                {"path": "code/a b.py", "size": 1, "sha256": hashlib.sha256(b"1").hexdigest(), "mode": "0644"},
                {
                    "path": "train.py",
                    "size": 8,
                    "sha256": hashlib.sha256(b"print()\n").hexdigest(),
                    "mode": "0644",
                },
            ],
            "total": {"files": 2, "bytes": 9},
        }


def test_a_job_that_brings_nothing_has_a_manifest_too(tmp_path: Path) -> None:
    with bundle(chosen([], tmp_path), tmp_path / "state", None) as found:
        assert set(found.files()) == {"manifest.json"}
        assert found.folders == ["work"]
        assert (found.manifest["spec"], found.manifest["files"]) == (None, [])
    assert not (tmp_path / "state").exists(), "and needs no room"


def test_the_copy_is_the_owners_and_leaves_nothing(tmp_path: Path) -> None:
    tree(tmp_path / "code", {"x": "1"})
    state = tmp_path / "state"
    name = staged(chosen(["code"], tmp_path), state)
    (path,) = (state / "staged").iterdir()
    assert path.name == name
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    with take(state, name) as found:
        assert list((state / "staged").iterdir()) == [], "whoever is killed from now on leaves nothing"
        assert contents(found)["work/code/x"] == b"1"
    with bundle(chosen(["code"], tmp_path), state) as found:
        assert list((state / "staged").iterdir()) == []
        assert contents(found)["work/code/x"] == b"1"
    with pytest.raises(
        RayslurmError, match=r"which can't be opened \(No such file or directory\); nothing was submitted"
    ):
        take(state, name)
    with pytest.raises(RayslurmError, match="state/staged/passwd, which can't be opened"):
        take(state, "../../../../etc/passwd")


def test_a_damaged_copy_is_never_sent_for_a_whole_one(tmp_path: Path) -> None:
    tree(tmp_path / "code", {"x": "1" * 70_000})
    state = tmp_path / "state"
    name = staged(chosen(["code"], tmp_path), state)
    path = state / "staged" / name
    whole = path.read_bytes()
    path.write_bytes(whole[:1000] + b"2" + whole[1001:])
    with (
        take(state, name) as found,
        pytest.raises(StoreError, match=r"is damaged .*; nothing was submitted: launch again"),
    ):
        contents(found)
    path.write_bytes(whole[:-40])
    with pytest.raises(StoreError, match="is damaged"):
        take(state, name)


@pytest.mark.parametrize("becomes", ["longer", "gone", "a link", "a pipe", "a folder"])
def test_what_changes_while_it_is_copied_is_refused(tmp_path: Path, becomes: str) -> None:
    path = tree(tmp_path / "code", {"log": "x" * 1000}) / "log"
    selection = chosen(["code"], tmp_path, max_bytes="1K")
    path.unlink()
    if becomes == "longer":
        path.write_text("x" * 1025)
    elif becomes == "a link":
        path.symlink_to("/etc/hostname")
    elif becomes == "a pipe":
        os.mkfifo(path)
    elif becomes == "a folder":
        path.mkdir()
    told = r"code/log grew while it was copied, over bring_limits.max_bytes" if becomes == "longer" else "launch again"
    with pytest.raises(RefusedError, match=told):
        staged(selection, tmp_path / "state")
    assert list((tmp_path / "state/staged").iterdir()) == []


KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEA\n"


def test_what_becomes_a_secret_before_it_is_copied_is_refused(tmp_path: Path) -> None:
    """As it would have been when it was looked at."""
    path = tree(tmp_path / "code", {"notes": "x"}) / "notes"
    selection, named = chosen(["code"], tmp_path), chosen(["code/notes"], tmp_path)
    path.write_text(KEY)
    with pytest.raises(
        RefusedError, match=r"code/notes looks like a secret now \(it holds a private key\); exclude it"
    ):
        staged(selection, tmp_path / "state")
    assert list((tmp_path / "state/staged").iterdir()) == []
    with bundle(named, tmp_path / "state") as found:
        assert contents(found)["work/notes"] == KEY.encode()


def test_no_room_is_said_to_be_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="Not a directory; what is brought along is copied there first: is there room"):
        staged(chosen(["file"], tmp_path), tmp_path / "file")


def test_what_nobody_will_take_is_swept(tmp_path: Path, store: Store) -> None:
    tree(tmp_path / "code", {"x": "1"})
    state = tmp_path / "state"
    wanted, begun, forgotten, fresh = (staged(chosen(["code"], tmp_path), state) for _ in range(4))

    def ask(name: str, state: str) -> None:
        number = store.write(lambda connection: requests.add(connection, "launch", "x", {"bundle": name}, now=NOW))
        store.write(
            lambda connection: connection.execute("UPDATE requests SET state = ? WHERE id = ?", (state, number))
        )

    ask(wanted, "waiting")
    ask(begun, "taken")
    ask(forgotten, "failed")
    for name in (wanted, begun, forgotten):
        os.utime(state / "staged" / name, (NOW, NOW))
    os.utime(state / "staged" / fresh, (NOW + 500, NOW + 500))
    sweep(state, store, now=NOW + 1000)
    assert {path.name for path in (state / "staged").iterdir()} == {wanted, begun, fresh}


def test_progress_is_told_at_most_once_a_second(tmp_path: Path) -> None:
    tree(tmp_path / "code", {"x": "1" * 2048})
    told: list[str] = []
    seconds = iter([0.0, 0.4, 0.9, 1.2, 1.2, 1.3, 2.3, 2.3])
    with bundle(chosen(["code"], tmp_path), tmp_path / "state") as found:
        progress = Progress(found, told.append, clock=lambda: next(seconds))
        for _ in range(5):
            progress(256)
    assert told == ["copying 1 file, 2.0 KiB", "copying: 768 bytes of 2.0 KiB", "copying: 1.2 KiB of 2.0 KiB"]


# --- git


def sources(selection: Selection, state: Path) -> Any:
    with bundle(selection, state) as found:
        return found.manifest["sources"]


def test_a_clean_commit_is_named(repository: Path, tmp_path: Path) -> None:
    (about,) = sources(chosen(["code"], tmp_path), tmp_path / "state")
    assert about["git"] == {
        "commit": git(repository, "rev-parse", "HEAD"),
        "branch": "main",
        "dirty": False,
        "modified": 0,
        "untracked": 0,
        "changes": [],
    }
    git(repository, "checkout", "-q", "--detach")
    (about,) = sources(chosen(["code"], tmp_path), tmp_path / "state")
    assert about["git"]["branch"] is None
    assert len(about["git"]["commit"]) == 40


def test_what_differs_from_the_commit_is_counted_and_kept(repository: Path, tmp_path: Path) -> None:
    tree(
        repository,
        {"train.py": "new\n", "settings.local": "mine\n", "note": "?\n", "data/x": "secret\n", "staged": "s\n"},
    )
    (repository / "lib/helper.py").unlink()
    git(repository, "add", "staged")
    before = (repository / ".git/index").read_bytes()
    with bundle(chosen([{"path": "code", "exclude": ["data"]}], tmp_path), tmp_path / "state") as found:
        (about,) = found.manifest["sources"]
        assert about["git"]["dirty"] is True
        assert (about["git"]["modified"], about["git"]["untracked"]) == (3, 2)
        assert about["git"]["changes"] == [
            "D lib/helper.py", "? note", "? settings.local", "M staged", "M train.py",
        ]  # fmt: skip
        assert found.manifest["diff"] == "work.diff"
        diff = contents(found)["work.diff"]
        assert found.files()["work.diff"].mode == 0o600
        text = json.dumps(found.manifest)
    assert b"secret" not in diff, "what isn't brought isn't told"
    assert b"help" not in diff, "nor what was deleted"
    assert "hunter2" not in text
    assert "example.org" not in text
    assert (repository / ".git/index").read_bytes() == before, "nothing is changed there"
    # The diff makes of the commit what was brought.
    again = tmp_path / "again"
    git(tmp_path, "clone", "-q", str(repository), str(again))
    (again / "patch").write_bytes(diff)
    git(again, "apply", "patch")
    assert (again / "train.py").read_text() == "new\n"
    assert (again / "staged").read_text() == "s\n"


def test_a_part_of_a_repository_is_told_by_itself(repository: Path, tmp_path: Path) -> None:
    tree(repository, {"train.py": "new\n"})
    lib, train = sources(chosen(["code/lib", "code/train.py"], tmp_path), tmp_path / "state")
    assert (lib["git"]["dirty"], train["git"]["dirty"]) == (False, True)
    assert train["git"]["changes"] == ["M train.py"]


def test_a_diff_that_is_too_long_is_left_out(repository: Path, tmp_path: Path) -> None:
    tree(repository, {"train.py": "\n".join(map(str, range(200_000)))})
    with bundle(chosen(["code"], tmp_path), tmp_path / "state") as found:
        assert found.manifest["sources"][0]["git"]["dirty"] is True
        assert found.manifest["diff"] is None
        assert "work.diff" not in found.files()


@pytest.mark.parametrize("secret", [KEY, "PuTTY-User-Key-File-3: ssh-ed25519\n", f"x = [\n  {KEY}]\n"])
def test_a_diff_does_not_tell_a_secret_that_was_taken_out(repository: Path, tmp_path: Path, secret: str) -> None:
    tree(repository, {"train.py": secret})
    git(repository, "commit", "-qam", "oops")
    tree(repository, {"train.py": "clean\n", "lib/helper.py": "changed\n"})
    with bundle(chosen(["code"], tmp_path), tmp_path / "state") as found:
        assert (found.manifest["diff"], found.manifest["diff_left_out"]) == (None, "it holds a private key")
        assert "work.diff" not in found.files()
        assert not any(b"b3Blbn" in content or b"PuTTY" in content for content in contents(found).values())
    git(repository, "commit", "-qam", "gone")
    tree(repository, {"lib/helper.py": "once more\n"})
    with bundle(chosen(["code"], tmp_path), tmp_path / "state") as found:
        assert found.manifest["diff"] == "work.diff"
        assert "diff_left_out" not in found.manifest


def test_a_repository_without_a_commit(tmp_path: Path) -> None:
    code = tree(tmp_path / "code", {"train.py": ""})
    git(code, "init", "-q", "-b", "main")
    (about,) = sources(chosen(["code"], tmp_path), tmp_path / "state")
    assert (about["git"]["commit"], about["git"]["branch"], about["git"]["untracked"]) == (None, "main", 1)


def test_what_calls_us_from_a_hook_does_not_mislead(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tree(tmp_path / "other", {"x": ""})
    git(other, "init", "-q")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    state = git_state(repository, [repository / "train.py"])
    assert state is not None
    assert (state.commit, state.dirty) == (git(repository, "rev-parse", "HEAD"), False)


def test_without_git_there_is_no_state_and_no_error(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert git_state(tmp_path, []) is None, "no repository"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(repository, [repository / "train.py"]) is None


def test_a_repository_that_git_refuses_to_trust_has_no_state(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin/git"
    fake.write_text("#!/bin/sh\necho 'fatal: detected dubious ownership' >&2\nexit 128\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    assert git_state(repository, [repository / "train.py"]) is None
