"""A launch that brings files along: when they are copied, what the journal keeps of them, and what a person is told."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from exporter.cli import asking
from exporter.cli.asking import ask
from exporter.client.client import SiteClient
from exporter.client.replay import Exchange, ReplayTransport
from exporter.client.transport import RemoteFile, RemoteStream
from exporter.config import Config
from exporter.errors import ConfigError, RayslurmError, RefusedError, StoreError
from exporter.launch.bundle import SpecFile, stage
from exporter.launch.launcher import Launcher
from exporter.launch.selection import select
from exporter.launch.spec import load_spec
from exporter.owner.lock import OwnerLock
from exporter.owner.owner import settle
from exporter.owner.perform import perform
from exporter.owner.worker import SiteWorker
from exporter.probes.certificate import CertificateProbe
from exporter.store import requests, submissions
from exporter.store.db import Store
from exporter.store.requests import Request
from tests.unit.conftest import Clock, MakeSite
from tests.unit.test_cli import run
from tests.unit.test_launch import SPEC, journal
from tests.unit.test_selection import tree

BRINGING = f"{SPEC}bring: [{{path: code, to: .}}, data.csv]\nresults: [out/*.json]\n"


@pytest.fixture
def spec_path(tmp_path: Path) -> Path:
    folder = tree(tmp_path / "mine", {"code/train.py": "print(1)\n", "code/lib/helper.py": "", "data.csv": "1,2\n"})
    (folder / "code/train.py").chmod(0o755)
    path = folder / "train.yaml"
    path.write_text(BRINGING)
    return path


def manifest(store: Store, token: str) -> Any:
    with store.snapshot() as connection:
        return submissions.manifest(connection, token)


def sent(transport: ReplayTransport, run_dir: str) -> dict[str, bytes]:
    """Returns what was brought along, by path in the run folder."""
    names = (name.removeprefix(f"{run_dir}/") for name in transport.files)
    return {name: transport.files[f"{run_dir}/{name}"] for name in names if name.startswith("work")}


def launch_request(spec_path: Path, **payload: Any) -> Request:
    asked = {"spec": BRINGING, "name": "train.yaml", "folder": str(spec_path.parent), **payload}
    return Request(1, "launch", "puhti2", asked, "taken", None, 0.0)


def staged(config: Config, spec_path: Path) -> str:
    spec = load_spec(spec_path)
    selection = select(spec.bring, spec.bring_limits)
    return stage(selection, config.state_dir, spec=SpecFile.of(spec_path, BRINGING), now=1.0)


def left(config: Config) -> list[Path]:
    return list((config.state_dir / "staged").glob("*"))


def test_a_launch_brings_its_files_and_the_journal_keeps_the_manifest(
    config: Config, store: Store, clock: Clock, make_site: MakeSite, spec_path: Path
) -> None:
    context, transport = make_site([Exchange("submit", "4711\n")])
    told: list[str] = []
    submission = Launcher(config, store, clock).launch(context.client, load_spec(spec_path), tell=told.append)
    assert sent(transport, submission.run_dir) == {
        "work/train.py": b"print(1)\n", "work/lib/helper.py": b"", "work/data.csv": b"1,2\n",
    }  # fmt: skip
    kept = manifest(store, submission.token)
    assert json.loads(transport.files[f"{submission.run_dir}/manifest.json"]) == kept
    assert {file["path"]: file["sha256"] for file in kept["files"]}["train.py"] == hashlib.sha256(
        b"print(1)\n"
    ).hexdigest()
    assert [source["path"] for source in kept["sources"]] == [
        str(spec_path.parent / name) for name in ("code", "data.csv")
    ]
    plan = json.loads(transport.files[f"{submission.run_dir}/plan.json"])
    assert (plan["work_dir"], plan["results"]) == ("work", ["out/*.json"])
    assert told == ["copying 3 files, 13 bytes"]
    assert [context.ledger.sent(command) for command in ("mkdir", "write", "sbatch")] == [1, 1, 1]
    assert left(config) == []


def test_a_launch_without_files_has_a_working_folder_and_a_manifest(
    config: Config, store: Store, clock: Clock, make_site: MakeSite, tmp_path: Path
) -> None:
    folders: list[Any] = []

    class Watched(ReplayTransport):
        def write(
            self, folder: str, files: Mapping[str, RemoteFile | RemoteStream], deadline: float, **options: Any
        ) -> None:
            folders.extend(options["folders"])
            super().write(folder, files, deadline, **options)

    (tmp_path / "spec.yaml").write_text(SPEC)
    context, _ = make_site([])
    client = SiteClient("puhti2", Watched([Exchange("submit", "4711\n")]), context.ledger)
    submission = Launcher(config, store, clock).launch(client, load_spec(tmp_path / "spec.yaml"))
    assert folders == ["work"]
    assert manifest(store, submission.token)["total"] == {"files": 0, "bytes": 0}


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        (lambda folder: (folder / "data.csv").unlink(), ConfigError, "data.csv: No such file"),
        (lambda folder: (folder / "code/.env").write_text("T=1"), RefusedError, "code/.env: looks like a secret"),
        (lambda folder: (folder / "code/big").write_bytes(b"x" * (101 << 20)), RefusedError, "code/big (101.0 MiB)"),
    ],
)
def test_what_cannot_be_brought_is_refused_before_anything_is_sent(
    config: Config, store: Store, make_site: MakeSite, spec_path: Path, change: Any, error: type[Exception], told: str
) -> None:
    change(spec_path.parent)
    context, transport = make_site([])
    with pytest.raises(error) as caught:
        Launcher(config, store).launch(context.client, load_spec(spec_path))
    assert told.replace("code/big", "big") in str(caught.value).replace("code/big", "big")
    assert journal(store) == []
    assert transport.asked == []


def test_what_is_sent_is_what_was_there_when_the_person_asked(
    config: Config, store: Store, make_site: MakeSite, spec_path: Path
) -> None:
    context, transport = make_site([Exchange("submit", "4711\n")])
    name = staged(config, spec_path)
    (spec_path.parent / "code/train.py").write_text("print(2)\n")
    (spec_path.parent / "data.csv").unlink()
    outcome = perform(launch_request(spec_path, bundle=name), context, config)
    assert sent(transport, outcome["run_dir"])["work/train.py"] == b"print(1)\n"
    assert outcome["brought"] == {"files": 3, "bytes": 13}
    kept = manifest(store, outcome["token"])
    assert kept["spec"] == {"path": str(spec_path), "sha256": hashlib.sha256(BRINGING.encode()).hexdigest()}
    assert left(config) == []


def test_without_a_copy_the_files_are_brought_as_they_are(config: Config, make_site: MakeSite, spec_path: Path) -> None:
    context, transport = make_site([Exchange("submit", "4711\n")])
    outcome = perform(launch_request(spec_path), context, config)
    assert sent(transport, outcome["run_dir"])["work/train.py"] == b"print(1)\n"


def test_a_copy_that_is_gone_or_damaged_submits_nothing(
    config: Config, store: Store, make_site: MakeSite, spec_path: Path
) -> None:
    context, transport = make_site([])
    with pytest.raises(RayslurmError, match="nothing was submitted: launch again"):
        perform(launch_request(spec_path, bundle="gone.zip"), context, config)
    assert (journal(store), transport.asked) == ([], [])
    name = staged(config, spec_path)
    path = config.state_dir / "staged" / name
    path.write_bytes(path.read_bytes().replace(b"print(1)", b"print(2)", 1))
    with pytest.raises(StoreError, match="is damaged"):
        perform(launch_request(spec_path, bundle=name), context, config)
    assert [row.state for row in journal(store)] == ["absent"]
    assert not any(verb == "submit" for verb, _ in transport.asked)
    assert left(config) == []


def test_one_key_is_one_launch_whatever_became_of_the_files(
    config: Config, store: Store, make_site: MakeSite, spec_path: Path
) -> None:
    context, _ = make_site([Exchange("submit", "4711\n")])
    first = perform(launch_request(spec_path, bundle=staged(config, spec_path), key="night"), context, config)
    again = perform(launch_request(spec_path, bundle=staged(config, spec_path), key="night"), context, config)
    assert (again["existing"], again["token"], again["brought"]) == (True, first["token"], {"files": 3, "bytes": 13})
    (spec_path.parent / "data.csv").unlink()
    assert perform(launch_request(spec_path, key="night"), context, config)["existing"] is True
    assert left(config) == []


@pytest.mark.parametrize("when", ["at the start", "after a probe"])
def test_a_copy_that_nobody_took_goes(
    config: Config, store: Store, make_site: MakeSite, spec_path: Path, when: str
) -> None:
    forgotten = config.state_dir / "staged" / staged(config, spec_path)
    os.utime(forgotten, (1, 1))
    if when == "at the start":
        settle(config, store)
    else:
        SiteWorker(make_site([])[0], config, lambda site, probe, seconds: None)._probe(CertificateProbe())
    assert left(config) == []


# --- the command line


def test_a_dry_run_lists_what_would_be_brought(config_path: Path, config: Config, spec_path: Path) -> None:
    done = run("launch", str(spec_path), "--dry-run", config=config_path)
    assert done.returncode == 0, done.stderr
    assert (
        "brings along 3 files, 13 bytes; the largest: train.py (9 bytes), data.csv (4 bytes), lib/helper" in done.stderr
    )
    shown = json.loads(run("launch", str(spec_path), "--dry-run", "--json", config=config_path).stdout)
    assert shown["bring"]["bytes"] == 13
    assert shown["bring"]["files"][-1] == {"path": "train.py", "size": 9, "mode": "0755"}
    assert not config.state_dir.exists()


@pytest.mark.parametrize("options", [[], ["--dry-run"]], ids=["", "dry-run"])
def test_too_much_is_refused_by_the_command(config_path: Path, spec_path: Path, options: list[str]) -> None:
    spec_path.write_text(f"{BRINGING}bring_limits: {{max_bytes: 0.01K}}\n")
    done = run("launch", str(spec_path), *options, config=config_path)
    assert done.returncode == 4
    assert "13 bytes are more than bring_limits.max_bytes, 10 bytes; the largest are: train.py (9 bytes)" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_launch_that_cannot_reach_the_site_leaves_no_copy(
    config_path: Path, config: Config, store: Store, spec_path: Path
) -> None:
    done = run("launch", str(spec_path), config=config_path)
    assert done.returncode == 1
    assert "login.example.org" in done.stderr
    assert left(config) == []
    assert [row.state for row in journal(store)] == ["absent"]


def test_a_person_sees_how_far_it_is_and_waits_as_long_as_it_goes_on(
    config: Config, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(requests, "PATIENCE_SECONDS", 2.0)
    monkeypatch.setattr(asking, "_LINE_SECONDS", 0.0)

    def serve() -> None:
        def waiting() -> list[Request]:
            with store.snapshot() as connection:
                return requests.waiting(connection)

        while not (found := waiting()):
            time.sleep(0.01)
        number = found[0].id
        store.write(lambda connection: requests.take(connection, number, now=time.time()))
        for part in range(6):  # longer than a person would wait without a word

            def note(connection: sqlite3.Connection, part: int = part) -> None:
                requests.note_progress(connection, number, f"copying: {part} of 6 MiB")

            store.write(note)
            time.sleep(0.5)
        store.write(lambda connection: requests.finish(connection, number, "done", {"it": "is"}, now=time.time()))

    with OwnerLock(config.state_dir, "serve"):
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            assert ask(config, store, "launch", "puhti2", {}) == ({"it": "is"}, True)
        finally:
            thread.join()
    told = capsys.readouterr().err.splitlines()
    assert [line for line in told if line.startswith("copying")] == [f"copying: {part} of 6 MiB" for part in range(6)]


def test_serve_writes_down_how_far_a_launch_is(
    config: Config, store: Store, make_site: MakeSite, spec_path: Path
) -> None:
    context, _ = make_site([Exchange("submit", "4711\n")])
    payload = launch_request(spec_path).payload
    number = store.write(lambda connection: requests.add(connection, "launch", "puhti2", payload, now=context.clock()))
    with store.snapshot() as connection:
        waiting = requests.get(connection, number)
    SiteWorker(context, config, lambda site, probe, seconds: None)._answer(waiting)
    with store.snapshot() as connection:
        answered = requests.get(connection, number)
    assert (answered.state, answered.progress) == ("done", "copying 3 files, 13 bytes")
