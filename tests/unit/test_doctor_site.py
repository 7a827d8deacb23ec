"""`rayslurm doctor` at a site: one command, booked like every other, on a practice site over real SSH."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import paramiko
import pytest
import yaml

from exporter.config import Config, load_config
from exporter.doctor import remote
from exporter.doctor.finding import Finding
from exporter.doctor.remote import Told
from exporter.doctor.site import check_sites, judge, told_by_probes
from exporter.owner.lock import OwnerLock
from exporter.practice.site import PROJECT, PracticeSite
from exporter.practice.slurm import USER
from exporter.store.commands import CommandLedger
from exporter.store.db import Store
from exporter.store.probe_runs import note_run
from tests.unit.answering import unused
from tests.unit.test_cli import run

SITE_KEYS: dict[str, Any] = {
    "project": PROJECT,
    "work_dir": "rayslurm",
    "environment": [],
    "certificate": False,
    "practice_clock_factor": 60,
}


class Practice:
    """A practice site, and configurations that lead to it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.folder = folder
        self.name = name
        key = paramiko.ECDSAKey.generate()
        key.write_private_key_file(str(folder / "id"))
        (folder / "site").mkdir()
        self.site = PracticeSite(name, folder / "site", key)
        self.known_hosts = folder / "known_hosts"
        self.known_hosts.write_text(f"{self.site.ssh.known_hosts_line}\n")
        self.bin = folder / "site/bin"
        self.home = folder / "site/home"

    def configure(self, path: Path, *, listen: int = 1, ssh: dict[str, Any] | None = None, **keys: Any) -> Config:
        access = {
            "host": "127.0.0.1", "port": self.site.ssh.port, "user": USER, "key": str(self.folder / "id"),
            "agent": False, "known_hosts": str(self.known_hosts),
        }  # fmt: skip
        written = {
            "state_dir": str(path.parent / "state"),
            "listen": f"127.0.0.1:{listen}",
            "sites": {self.name: SITE_KEYS | keys | {"ssh": access | (ssh or {})}},
        }
        path.write_text(yaml.safe_dump(written))
        return load_config(path)


@pytest.fixture(scope="module", params=["roihu", "lumi"])
def practice(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Practice]:
    practice = Practice(request.param, tmp_path_factory.mktemp("practice"))
    practice.site.start()
    try:
        yield practice
    finally:
        practice.site.stop()


def found(config: Config) -> dict[str, Finding]:
    """Returns what is found at the only site, by subject."""
    return {one.subject: one for one in check_sites(config, list(config.resolved_sites.values()))}


def sent(config: Config) -> int:
    """Returns how many commands stand in the only site's books."""
    (site,) = config.resolved_sites.values()
    with Store(config.store_path) as store, store.snapshot() as connection:
        return site.settings.budget.commands_per_hour - CommandLedger.for_site(store, site).remaining(connection)


def test_all_is_well_and_one_command_was_sent(practice: Practice, tmp_path: Path) -> None:
    config = practice.configure(tmp_path / "rayslurm.yaml")
    all_found = found(config)
    assert list(all_found) == ["login", "commands", "sacct", "balance", "clock", "work_dir", "python"]
    assert {one.level for one in all_found.values()} == {"well"}, all_found
    assert {one.site for one in all_found.values()} == {practice.name}
    assert sent(config) == 1
    assert list(practice.home.iterdir()) == [], "nothing is made at the site"
    with Store(config.store_path) as store:
        assert CommandLedger.for_site(store, config.site(practice.name)).sent("doctor") == 1
    with OwnerLock(config.state_dir, "serve"):
        pass


def test_the_whole_command(practice: Practice, tmp_path: Path) -> None:
    with unused() as port:
        practice.configure(tmp_path / "rayslurm.yaml", listen=port)
        done = run("doctor", config=tmp_path / "rayslurm.yaml")
        assert done.returncode == 0, done.stdout
        assert f"well  {practice.name}: login: {USER}@127.0.0.1 works\n" in done.stdout
        offline = json.loads(run("doctor", "--offline", "--json", config=tmp_path / "rayslurm.yaml").stdout)
    assert "login" not in {one["subject"] for one in offline["findings"]}


def test_commands_that_are_missing(practice: Practice, tmp_path: Path) -> None:
    config = practice.configure(tmp_path / "rayslurm.yaml")
    areas = f"{'lumi' if practice.name == 'lumi' else 'csc'}-workspaces"
    (practice.bin / areas).rename(practice.bin / "hidden")
    try:
        commands = found(config)["commands"]
    finally:
        (practice.bin / "hidden").rename(practice.bin / areas)
    assert (commands.level, commands.text.startswith(f"{areas}: not found")) == ("look", True)


def test_only_what_the_shell_finds_is_there(practice: Practice, tmp_path: Path) -> None:
    site = practice.configure(tmp_path / "rayslurm.yaml").site(practice.name)
    found_there = tmp_path / "bin"
    found_there.mkdir()
    for name in ("date", "tail"):
        (found_there / name).symlink_to(f"/usr/bin/{name}")
    for name in ("sbatch", "sacct"):
        (found_there / name).write_text("#!/bin/sh\n")
        (found_there / name).chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", "-c", remote.command(site)], env={"PATH": str(found_there)}, cwd=tmp_path, capture_output=True,
        text=True, check=True, timeout=60,
    )  # fmt: skip
    told = remote.read(done.stdout)
    assert told.whole
    assert told.commands & set(remote.SLURM) == {"sbatch", "sacct"}
    assert (told.sacct_status, told.python, told.time is None) == (0, None, False)
    commands = next(judge(site, told, time.time(), time.time()))
    assert (commands.level, commands.text.startswith("squeue, scancel: not found")) == ("wrong", True)


def test_accounting_that_does_not_answer(practice: Practice, tmp_path: Path) -> None:
    practice.site.break_command("sacct", ("", "noise\nsacct: error: slurm_persist_conn_open: no slurmdbd\n", 1))
    try:
        sacct = found(practice.configure(tmp_path / "rayslurm.yaml"))["sacct"]
    finally:
        practice.site.mend_command("sacct")
    assert sacct.level == "wrong"
    assert sacct.text.endswith("sacct ended with 1: sacct: error: slurm_persist_conn_open: no slurmdbd")


def test_folders_for_jobs(practice: Practice, tmp_path: Path) -> None:
    path = tmp_path / "rayslurm.yaml"
    below = found(practice.configure(path, work_dir=f"{practice.home}/a/b/{{user}}"))["work_dir"]
    assert (below.level, below.text) == (
        "well",
        f"{practice.home}/a/b/{USER} is made below {practice.home}, which can be written",
    )
    (practice.home / "plain").touch()
    try:
        blocked = found(practice.configure(path, work_dir="plain/rayslurm"))["work_dir"]
    finally:
        (practice.home / "plain").unlink()
    assert (blocked.level, blocked.text) == ("wrong", "plain/rayslurm can't be made or written: plain can't be written")
    unset = found(practice.configure(path, work_dir="/scratch/{project}", project=None))["work_dir"]
    assert (unset.level, "none is set" in unset.text) == ("look", True)


def test_pythons(practice: Practice, tmp_path: Path) -> None:
    python = found(practice.configure(tmp_path / "rayslurm.yaml", python="/no/such/python"))["python"]
    assert (python.level, "isn't found" in python.text) == ("look", True)


def test_logins_that_fail(practice: Practice, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    paramiko.ECDSAKey.generate().write_private_key_file(str(tmp_path / "other"))
    config = practice.configure(tmp_path / "one/rayslurm.yaml", ssh={"key": str(tmp_path / "other")})
    refused = found(config)
    assert set(refused) == {"login"}
    assert refused["login"].level == "wrong"
    assert "did not accept" in refused["login"].text
    assert "ssh -p" in refused["login"].cure
    assert sent(config) == 0, "no command was sent"
    again = found(config)["login"]
    assert "not tried again for" in again.text, "a refused login isn't repeated"
    (tmp_path / "two").mkdir()
    wrong_key = paramiko.ECDSAKey.generate()
    known_hosts = tmp_path / "known_hosts"
    name = practice.site.ssh.known_hosts_line.split()[0]
    known_hosts.write_text(f"{name} {wrong_key.get_name()} {wrong_key.get_base64()}\n")
    another = practice.configure(tmp_path / "two/rayslurm.yaml", ssh={"known_hosts": str(known_hosts)})
    assert "is not the one in" in found(another)["login"].text


def test_a_budget_that_is_used_up_is_kept(practice: Practice, tmp_path: Path) -> None:
    budget = {"commands_per_hour": 10, "reserved_for_people": 2}
    config = practice.configure(tmp_path / "rayslurm.yaml", budget=budget)
    site = config.site(practice.name)
    with Store(config.store_path) as store:
        ledger = CommandLedger.for_site(store, site, clock=lambda: time.time() + 30)  # within the hour for a while
        for _ in range(10):
            ledger.take("squeue", person=True)
    refused = found(config)
    assert set(refused) == {"login"}
    assert (refused["login"].level, "10 commands were sent" in refused["login"].text) == ("look", True)


def test_beside_serve_nobody_logs_in(practice: Practice, tmp_path: Path) -> None:
    config = practice.configure(tmp_path / "rayslurm.yaml", ssh={"port": 1})
    with OwnerLock(config.state_dir, "serve"):
        silent = found(config)
        assert (silent["probe"].level, "has not asked yet" in silent["probe"].text) == ("look", True)
        with Store(config.store_path) as store:
            store.write(
                lambda connection: note_run(connection, practice.name, "jobs", at=time.time(), duration_seconds=1)
            )
        assert found(config)["probe"].level == "well"
        with Store(config.store_path) as store:
            store.write(
                lambda connection: note_run(
                    connection, practice.name, "jobs", at=time.time(), duration_seconds=1, error="no", reason="auth"
                )
            )
        probe = found(config)["probe"]
        assert probe.level == "wrong"
        assert re.fullmatch(r"jobs failed \d+ s ago, and last went well \d+ s ago: no", probe.text)
    assert sent(config) == 0


def test_beside_another_command_nobody_logs_in(practice: Practice, tmp_path: Path) -> None:
    config = practice.configure(tmp_path / "rayslurm.yaml", ssh={"port": 1})
    with OwnerLock(config.state_dir, "launch"):
        busy = found(config)["site"]
    assert (busy.level, "`rayslurm launch`" in busy.text) == ("look", True)


# -- what an answer means


WELL = Told(
    time=1000, commands=frozenset({*remote.SLURM, "seff", "csc-projects", "csc-workspaces"}), balance_file=False,
    folder="rayslurm", writable=True, python=(3, 6), sacct_status=0, sacct_said="", whole=True,
)  # fmt: skip


def judged(practice: Practice, tmp_path: Path, told: Told, sent_at: float = 1000, received: float = 1001) -> set[str]:
    """Returns the subjects and levels of all that isn't well."""
    site = practice.configure(tmp_path / "rayslurm.yaml").site(practice.name)
    return {f"{one.subject} {one.level}" for one in judge(site, told, sent_at, received) if one.level != "well"}


@pytest.mark.parametrize("practice", ["roihu"], indirect=True)
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, set()),
        ({"time": 990}, set()),
        ({"time": 980}, {"clock look"}),
        ({"time": 1012}, {"clock look"}),
        ({"time": 600}, {"clock wrong"}),
        ({"time": 1302}, {"clock wrong"}),
        ({"time": None}, {"clock look"}),
        ({"python": (3, 5)}, {"python look"}),
        ({"python": (2, 7)}, {"python look"}),
        ({"sacct_status": None}, {"sacct wrong"}),
        ({"commands": frozenset(remote.SLURM)}, {"commands look", "balance look"}),
        ({"commands": frozenset()}, {"commands wrong", "commands look", "balance look"}),
        ({"writable": False}, {"work_dir wrong"}),
    ],
)
def test_what_an_answer_means(practice: Practice, tmp_path: Path, change: dict[str, Any], expected: set[str]) -> None:
    assert judged(practice, tmp_path, replace(WELL, **change)) == expected


def test_a_slow_answer_is_no_clock_that_is_off(practice: Practice, tmp_path: Path) -> None:
    told = replace(WELL, commands=frozenset({*WELL.commands, "lumi-allocations", "lumi-workspaces"}))
    assert judged(practice, tmp_path, told, sent_at=960, received=1060) == set()


def test_what_a_login_prints_beside_is_passed_over() -> None:
    text = "Welcome! time 5\nrayslurm-doctor time 77\nrayslurm-doctor have sbatch\nrayslurm-doctorhave sacct\n"
    told = remote.read(f"{text}rayslurm-doctor python \nrayslurm-doctor sacct 1 no \x1b[31mluck\n")
    assert (told.time, set(told.commands), told.python, told.whole) == (77, {"sbatch"}, None, False)
    assert (told.sacct_status, told.balance_file, told.writable) == (1, False, False)


def test_a_probe_that_waits_for_its_budget_is_only_worth_a_look(practice: Practice, tmp_path: Path) -> None:
    config = practice.configure(tmp_path / "rayslurm.yaml")
    with Store(config.store_path) as store:
        store.write(
            lambda connection: note_run(
                connection, practice.name, "jobs", at=50, duration_seconds=1, error="used up", reason="budget"
            )
        )
        (one,) = told_by_probes(store, [config.site(practice.name)], now=60)
    assert (one.level, one.text) == ("look", "jobs failed 10 s ago, and never went well: used up")
