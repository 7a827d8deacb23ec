"""The bench measures what it says: rows that the parser knows whole, and a table that tells what is met."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

from exporter.parsers import sacct
from exporter.records import AccountingRecord
from tests.bench.measured import Line, beside, show
from tests.bench.rows import table


def test_every_field_is_told_by_the_rows_and_every_row_is_understood() -> None:
    parsed = sacct.parse(table(4_000))
    assert parsed.warnings == ()
    assert len(parsed.records) == 1_000
    told = {
        field.name
        for record in parsed.records
        for each in (record, *record.steps)
        for field in fields(AccountingRecord)
        if getattr(each, field.name) not in (None, ())
    }
    never = {"array_id", "signal", "attempts"}  # of other kinds of jobs
    assert told == {field.name for field in fields(AccountingRecord)} - never


def test_no_two_jobs_are_alike() -> None:
    records = sacct.parse(table(4_000)).records
    assert len({(record.submit_time, record.elapsed_seconds, record.total_cpu_seconds) for record in records}) == 1_000


def test_the_peers_sacct_prints_the_columns_that_are_asked_for(tmp_path: Path) -> None:
    words = ["-o", "JobID,Start,MaxRSS", "-P", "--delimiter=;|;"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.fake_sacct", *words],
        env={"BENCH_SACCT": f"{tmp_path}:5"}, cwd=Path(__file__).parents[2],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    header, first, *others = done.stdout.splitlines()
    assert header == "JobID;|;Start;|;MaxRSS"
    assert first.startswith("4000000;|;2026-")
    assert len(others) == 4


def test_the_table_says_what_is_met() -> None:
    text = show([beside("scrape", "1 ms", "bare 2 ms", 0.5, 2), beside("parse", "9 s", "split 1 s", 9, 2)])
    assert [line.split()[-1] for line in text.splitlines()] == ["MET", "yes", "NO"]
    assert "0.50" in text
    assert show([Line("peer", "", "reportseff: could not be installed")]).endswith("could not be installed")
