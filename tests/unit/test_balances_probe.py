"""The probes of balances, disk areas and the certificate: what they ask, and what they make of the answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from exporter.client.replay import FILE_TIME, Exchange
from exporter.errors import AnswerError, CommandError, InputError
from exporter.probes.areas import AreasProbe
from exporter.probes.balances import INTERVAL_SECONDS, BalancesProbe
from exporter.probes.certificate import CertificateProbe
from exporter.probes.jobs import JobsProbe
from exporter.records import AllocationRecord
from exporter.store import balances, counters, jobs, samples
from exporter.store.balances import Project
from exporter.store.db import Store
from tests.site_texts import ALLOCATIONS, AREAS, PROJECT, PROJECTS
from tests.slurm_texts import squeue
from tests.unit.conftest import Clock, MakeSite, make_certificate

SITE = "puhti2"
LUMI: dict[str, Any] = {"profile": "lumi"}
CSC: dict[str, Any] = {"profile": "roihu"}
PATH = f"/var/lib/project_info/users/{PROJECT}/{PROJECT}.json"
FILE = {
    "billing": {
        "cpu_hours": {"alloc": 1000, "used": 1250.5},
        "gpu_hours": {"alloc": 0, "used": 3},
        "storage_hours": {"alloc": 50, "used": 1},
    }
}


def known(store: Store) -> tuple[list[Project], list[AllocationRecord]]:
    with store.snapshot() as connection:
        return balances.projects(connection), balances.balances(connection)


def faults(store: Store) -> dict[str, float]:
    with store.snapshot() as connection:
        return {
            counter.labels["parser"]: counter.value
            for counter in counters.read(connection)
            if counter.name == "parse_errors_total"
        }


def test_lumi_is_read_from_the_projects_file(store: Store, make_site: MakeSite, clock: Clock) -> None:
    context, transport = make_site([], {PATH: json.dumps(FILE).encode()}, **LUMI)
    assert BalancesProbe().run(context) == INTERVAL_SECONDS
    assert transport.asked == [("read", PATH)]
    assert known(store) == (
        [Project("lumi", PROJECT, True, None, None, clock.now)],
        [
            AllocationRecord("lumi", PROJECT, "cpu", "core-hours", 1250.5, 1000, -250.5, FILE_TIME),
            AllocationRecord("lumi", PROJECT, "gpu", "gpu-hours", 3, None, None, FILE_TIME),
            AllocationRecord("lumi", PROJECT, "storage", "TB-hours", 1, 50, 49, FILE_TIME),
        ],
    )


@pytest.mark.parametrize("files", [{}, {PATH: b"\x00\xff"}, {PATH: b"{}"}])
def test_the_command_is_asked_where_the_file_is_of_no_use(
    store: Store, make_site: MakeSite, files: dict[str, bytes], clock: Clock
) -> None:
    context, transport = make_site([Exchange("lumi-allocations", ALLOCATIONS, repeat=True)], files, **LUMI)
    probe = BalancesProbe()
    probe.run(context)
    assert transport.asked == [("read", PATH), ("lumi-allocations", ("lumi-allocations", "-p", PROJECT))]
    _, (cpu, gpu, storage) = known(store)
    assert (cpu.remaining, gpu.used, storage.granted) == (750, 12, 10)
    assert faults(store).get("project-file", 0) == len(files), "what was there and not understood is counted"
    clock.now += INTERVAL_SECONDS
    probe.run(context)
    assert [verb for verb, _ in transport.asked].count("read") == 2, "the file may be back"


@pytest.mark.parametrize(
    "answer",
    [
        Exchange("lumi-allocations", stderr=f"Error: You do not have permissions to access {PROJECT}\n"),
        Exchange("lumi-allocations", stderr=f"{PROJECT}: Permission denied\n", exit_status=1),
    ],
)
def test_access_that_is_lost_is_told_and_the_old_balance_is_not(
    store: Store, make_site: MakeSite, clock: Clock, answer: Exchange
) -> None:
    context, transport = make_site([answer], {PATH: json.dumps(FILE).encode()}, **LUMI)
    probe = BalancesProbe()
    probe.run(context)
    transport.files.clear()
    clock.now += INTERVAL_SECONDS
    probe.run(context)
    assert known(store) == ([Project("lumi", PROJECT, False, None, None, clock.now)], [])


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        pytest.param(Exchange("csc-projects", stderr="Traceback: boom\n", exit_status=1), CommandError, id="failed"),
        pytest.param(
            Exchange("csc-projects", stderr=f"{PROJECT}: cannot access the directory service\n", exit_status=1),
            CommandError,
            id="the site has a fault of its own",
        ),
        pytest.param(
            Exchange("csc-projects", stderr=f"sh: csc-projects {PROJECT}: not found", exit_status=127),
            CommandError,
            id="there is no such command",
        ),
        pytest.param(Exchange("csc-projects", ""), AnswerError, id="empty"),
        pytest.param(Exchange("csc-projects", PROJECTS[:300]), AnswerError, id="half"),
        pytest.param(Exchange("csc-projects", "Good morning\n"), InputError, id="something else"),
        pytest.param(Exchange("csc-projects", PROJECTS.replace(PROJECT, "project_1")), InputError, id="another's"),
    ],
)
def test_a_failure_keeps_what_was_known(
    store: Store, make_site: MakeSite, clock: Clock, answer: Exchange, error: type[Exception]
) -> None:
    context, _ = make_site([Exchange("csc-projects", PROJECTS), answer], **CSC)
    probe = BalancesProbe()
    probe.run(context)
    before = known(store)
    clock.now += INTERVAL_SECONDS
    with pytest.raises(error):
        probe.run(context)
    assert known(store) == before
    assert probe.delay_after_failure() >= 1800


def test_csc_tells_of_the_project_too(store: Store, make_site: MakeSite) -> None:
    context, _ = make_site([Exchange("csc-projects", PROJECTS)], **CSC)
    BalancesProbe().run(context)
    (project,), found = known(store)
    # Midnights in Helsinki
    assert (project.end_time, project.last_grant_time) == (1830204000, 1769810400)
    assert {(record.kind, record.unit): record.remaining for record in found} == {
        ("cpu", "BU"): -20, ("gpu", "BU"): 970, ("storage", "BU"): 299960, ("cloud", "BU"): 390,
    }  # fmt: skip
    assert {record.updated_time for record in found} == {1795525920}


def test_the_projects_of_followed_jobs_are_asked_for_too_but_nobody_twice(
    store: Store, make_site: MakeSite, clock: Clock
) -> None:
    store.write(lambda connection: jobs.track(connection, SITE, "77", now=1.0))
    other = "project_2009999"
    answers = [
        Exchange("queue", squeue({"JOBID": "77", "ACCOUNT": other})),
        Exchange("csc-projects", PROJECTS),
        Exchange("csc-projects", PROJECTS.replace(PROJECT, other)),
    ]
    context, transport = make_site(answers, **CSC)
    JobsProbe().run(context)
    probe = BalancesProbe()
    probe.run(context)
    # Another site of the same provider comes a little later.
    clock.now += 300
    assert BalancesProbe().run(context) == INTERVAL_SECONDS
    assert [what[2] for verb, what in transport.asked if verb == "csc-projects"] == [PROJECT, other]


def test_a_site_without_balances_is_not_asked(make_site: MakeSite) -> None:
    context, transport = make_site([])
    BalancesProbe().run(context)
    AreasProbe().run(context)
    CertificateProbe().run(context)
    assert transport.asked == []


def test_disk_areas(store: Store, make_site: MakeSite) -> None:
    context, transport = make_site([Exchange("csc-workspaces", AREAS)], **CSC)
    assert AreasProbe().run(context) == 6 * 3600
    assert transport.asked == [("csc-workspaces", ("csc-workspaces",))]
    with store.snapshot() as connection:
        found = {
            (sample.name, sample.labels["area"], sample.labels["project"]): sample.value
            for _, sample in samples.read(connection)
        }
    home, scratch = ("/users/maija", ""), (f"/scratch/{PROJECT}", PROJECT)
    assert found == {
        ("storage_used_bytes", *home): pytest.approx(4.4 * 1024**3),
        ("storage_limit_bytes", *home): 10 * 1024**3,
        ("storage_used_files", *home): 24_000,
        ("storage_limit_files", *home): 100_000,
        ("storage_used_bytes", *scratch): pytest.approx(7.2 * 1024**4),
        ("storage_limit_bytes", *scratch): 7 * 1024**4,
        ("storage_used_files", *scratch): 2_700_000,
        ("storage_limit_files", *scratch): 5_000_000,
    }


def test_an_area_that_is_gone_is_not_shown_any_more(store: Store, make_site: MakeSite) -> None:
    later = AREAS.replace(f"/scratch/{PROJECT}       7.2T*/7.0T       2.7M/5.0M        90d\n", "")
    context, _ = make_site([Exchange("csc-workspaces", AREAS), Exchange("csc-workspaces", later)], **CSC)
    probe = AreasProbe()
    probe.run(context)
    probe.run(context)
    with store.snapshot() as connection:
        assert {sample.labels["area"] for _, sample in samples.read(connection)} == {"/users/maija"}


def test_a_certificate_that_never_ends_has_no_time_of_it(store: Store, make_site: MakeSite, tmp_path: Path) -> None:
    """What `ssh-keygen -s` makes where nobody says otherwise."""
    key = make_certificate(tmp_path, "always", "forever")
    context, _ = make_site([], ssh={"host": "login.example.org", "user": "maija", "key": str(key)})
    CertificateProbe().run(context)
    with store.snapshot() as connection:
        assert samples.read(connection) == []


def test_when_the_certificate_ends(store: Store, make_site: MakeSite, tmp_path: Path) -> None:
    key = make_certificate(tmp_path, "20261124000000Z", "20261125000000Z")
    ssh = {"host": "login.example.org", "user": "maija", "key": str(key)}
    context, transport = make_site([], ssh=ssh)
    probe = CertificateProbe()
    probe.run(context)
    with store.snapshot() as connection:
        ((site, sample),) = samples.read(connection)
    assert (site, sample.name, sample.value) == (SITE, "ssh_certificate_expiry_timestamp_seconds", 1795564800)
    (tmp_path / "certified-cert.pub").unlink()
    probe.run(context)
    with store.snapshot() as connection:
        assert samples.read(connection) == []
    assert transport.asked == []
