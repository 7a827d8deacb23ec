"""`rayslurm costs`: the ledger, added up to the last digit, and traceable to each bill."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.cli.costs_command import added_up
from exporter.records import Bill
from exporter.store import bills, counters, jobs, ledger
from exporter.store.db import Store
from exporter.store.ledger import Entry
from tests.unit.test_cli import run

NOVEMBER, DECEMBER = 1795000000, 1797000000


def entry(job_id: str, units: float, **values: object) -> Entry:
    usual: dict[str, object] = {
        "site": "puhti2", "token": "", "job_name": "demo", "partition": "small", "project": "p1", "campaign": "",
        "end_time": NOVEMBER, "kind": "cpu", "unit": "BU", "source": "seff", "raw_sha256": "abc", "entered": 1.0,
    }  # fmt: skip
    return Entry(**{**usual, **values, "job_id": job_id, "units": units})  # type: ignore[arg-type]  # as above


ENTRIES = [
    entry("1", 0.1),
    entry("2", 0.2, campaign="nightly"),
    entry("3", 7, kind="gpu", source="formula"),
    entry("4", 5, end_time=DECEMBER, project="p2"),
    entry("5", 2.5, site="lumi", unit="core-hours", source="formula", raw_sha256=None, end_time=DECEMBER),
]


@pytest.fixture
def filled(store: Store) -> Store:
    store.write(lambda connection: ledger.insert(connection, ENTRIES))
    return store


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("project", {"p1 cpu BU": 0.3, "p1 cpu core-hours": 2.5, "p1 gpu BU": 7, "p2 cpu BU": 5}),
        ("campaign", {" cpu BU": 5.1, " cpu core-hours": 2.5, " gpu BU": 7, "nightly cpu BU": 0.2}),
        ("site", {"lumi cpu core-hours": 2.5, "puhti2 cpu BU": 5.3, "puhti2 gpu BU": 7}),
        (
            "month",
            {"2026-11 cpu BU": 0.3, "2026-11 gpu BU": 7, "2026-12 cpu BU": 5, "2026-12 cpu core-hours": 2.5},
        ),
    ],
)
def test_kinds_and_units_are_never_added_up(
    filled: Store, config_path: Path, by: str, expected: dict[str, float]
) -> None:
    shown = json.loads(run("costs", "--by", by, "--json", config=config_path).stdout)
    assert shown["by"] == by
    assert {f"{row[by]} {row['kind']} {row['unit']}": row["units"] for row in shown["rows"]} == expected
    assert sorted(job for row in shown["rows"] for job in row["job_ids"]) == sorted(
        f"{one.site}/{one.job_id}" for one in ENTRIES
    ), "every job once"
    assert all(row["jobs"] == len(row["job_ids"]) and row["sources"] for row in shown["rows"])


def test_every_row_of_a_job_says_where_it_is_from(filled: Store, config_path: Path) -> None:
    rows = json.loads(run("costs", "--json", config=config_path).stdout)["rows"]
    assert [(row["job_id"], row["units"], row["source"], row["raw_sha256"]) for row in rows[:2]] == [
        ("1", 0.1, "seff", "abc"), ("2", 0.2, "seff", "abc"),
    ]  # fmt: skip
    assert rows[0]["ended"] == "2026-11-18T11:06:40Z"
    table = list(csv.DictReader(io.StringIO(run("costs", "--csv", config=config_path).stdout)))
    assert [row["job_id"] for row in table] == [row["job_id"] for row in rows]
    assert sum(Decimal(row["units"]) for row in table if row["unit"] == "BU" and row["kind"] == "cpu") == Decimal("5.3")
    summed = run("costs", "--by", "site", "--csv", config=config_path).stdout.splitlines()
    assert summed[:2] == ["site,kind,unit,units,jobs,sources,job_ids", "lumi,cpu,core-hours,2.5,1,formula,lumi/5"]


def test_people_see_a_table_of_some_days(filled: Store, config_path: Path) -> None:
    done = run("costs", "--by", "month", "--since", "2026-12-01", config=config_path)
    assert done.returncode == 0
    assert done.stdout.split("\n")[0].split() == ["MONTH", "KIND", "UNIT", "UNITS", "JOBS", "SOURCES", "JOB_IDS"]
    assert "2026-12  cpu   BU          5.00   1     seff     puhti2/4" in done.stdout
    assert "2026-11" not in done.stdout
    assert run("costs", "--until", "2026-11-01", config=config_path).stderr == "no job has a final bill yet\n"
    assert run("costs", "--csv", "--json", config=config_path).returncode == 2
    assert run("costs", "--by", "user", config=config_path).returncode == 2


def test_no_name_becomes_a_formula_of_a_spreadsheet(store: Store, config_path: Path) -> None:
    store.write(lambda connection: ledger.insert(connection, [entry("9", 1, job_name='=HYPERLINK("x")')]))
    (row,) = csv.DictReader(io.StringIO(run("costs", "--csv", config=config_path).stdout))
    assert row["job_name"] == '\'=HYPERLINK("x")'


def test_without_a_store_there_are_no_costs(config_path: Path) -> None:
    assert json.loads(run("costs", "--json", config=config_path).stdout) == {"by": None, "rows": []}


def test_what_was_kept_elsewhere_is_added_once(filled: Store) -> None:
    more = [*ENTRIES, entry("6", 1)]
    assert filled.write(lambda connection: ledger.insert(connection, more)) == 1
    assert filled.write(lambda connection: ledger.insert(connection, more)) == 0
    with filled.snapshot() as connection:
        assert ledger.entries(connection, project="p2") == [ENTRIES[3]]
        assert ledger.entries(connection, campaign="nightly") == [ENTRIES[1]]
        assert {one.job_id for one in ledger.entries(connection)} == {"1", "2", "3", "4", "5", "6"}


def test_a_bill_is_in_the_ledger_once_and_stays_when_the_job_is_forgotten(store: Store) -> None:
    def billed(units: float) -> None:
        bill = Bill("seff", "cpu", "BU", units, "project_2001234")
        store.write(lambda connection: bills.keep(connection, "puhti2", "77", bill, final=True, now=5.0))

    def expect(connection: sqlite3.Connection, *, new: bool) -> None:
        jobs.expect(
            connection,
            "puhti2",
            "77",
            job_name="a",
            project="p",
            partition="small",
            campaign="c",
            new=new,
            now=2.0,
        )

    store.write(lambda connection: jobs.track(connection, "puhti2", "77", token=None, now=1.0))
    store.write(lambda connection: expect(connection, new=True))
    billed(3.0)
    billed(4.0)  # it ran again
    store.write(lambda connection: connection.execute("UPDATE jobs SET final = 1"))
    store.write(lambda connection: expect(connection, new=True))  # the site was set up anew
    with store.snapshot() as connection:
        (kept,) = ledger.entries(connection)
        counted = [one.value for one in counters.read(connection) if one.name == "billing_units_total"]
    assert (kept.job_id, kept.units, kept.campaign, kept.project) == ("77", 4.0, "c", "project_2001234")
    assert counted == [4.0]


def test_bills_of_before_there_was_a_ledger_stand_in_it(tmp_path: Path) -> None:
    scripts = sorted((Path(ledger.__file__).parent / "migrations").glob("*.sql"))
    earlier = [script for script in scripts if script.name < "0013"]
    path = tmp_path / "old.sqlite3"
    with closing(sqlite3.connect(path)) as old:
        for script in earlier:
            old.executescript(script.read_text())
        old.executescript(
            "INSERT INTO tracked (site, root_id, campaign, since) VALUES ('puhti2', '77', 'nightly', 1);"
            "INSERT INTO jobs (site, job_id, root_id, project, campaign, state, state_since, end_time, final, seen)"
            " VALUES ('puhti2', '77', '77', 'p1', 'nightly', 'completed', 1, 1795000000, 1, 1);"
            "INSERT INTO bills VALUES ('puhti2', '77', 'seff', 'cpu', 'BU', 4.25, NULL, 1, 5);"
            "INSERT INTO bills VALUES ('puhti2', '77', 'formula', 'cpu', 'BU', 4.2512, NULL, 0, 4);"
            f"PRAGMA user_version = {len(earlier)};"
        )
    path.chmod(0o600)
    with Store(path) as store, store.snapshot() as connection:
        (kept,) = ledger.entries(connection)
        assert bills.of_job(connection, "puhti2", "77") == Bill("seff", "cpu", "BU", 4.25)
    assert (kept.job_id, kept.units, kept.source, kept.project, kept.campaign, kept.end_time, kept.entered) == (
        "77", 4.25, "seff", "p1", "nightly", 1795000000, 5,
    )  # fmt: skip


_CENTS = st.integers(0, 10**9).map(lambda cents: cents / 100)


@given(st.lists(st.tuples(_CENTS, st.sampled_from(["cpu", "gpu"]), st.sampled_from(["p1", "p2", None])), max_size=30))
def test_sums_are_exact_and_leave_nobody_out(rows: list[tuple[float, str, str | None]]) -> None:
    entries = [
        entry(str(number), units, kind=kind, project=project) for number, (units, kind, project) in enumerate(rows)
    ]
    sums = added_up(entries, "project")
    assert sorted(job for one in sums for job in one.job_ids) == sorted(f"puhti2/{one.job_id}" for one in entries)
    for kind in ("cpu", "gpu"):
        cents = sum(round(units * 100) for units, own, _ in rows if own == kind)
        assert sum((one.units for one in sums if one.kind == kind), Decimal(0)) == Decimal(cents) / 100
