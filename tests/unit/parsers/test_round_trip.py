"""What is printed by Slurm's rules is read back as it was."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter.parsers import sacct
from exporter.records import AccountingRecord
from tests.unit.parsers.printing import Printed, delimited, fixed, tables

Table = tuple[list[str], list[list[Printed]]]


def expected(columns: list[str], jobs: list[list[Printed]]) -> tuple[AccountingRecord, ...]:
    records = []
    for job, *steps in jobs:
        read = [record(columns, step) for step in steps]
        fields = merged(columns, job)
        for name in ("max_rss_bytes", "memory_peak_bytes"):
            values = [value for step in read if (value := getattr(step, name)) is not None]
            fields[name] = max(values, default=None)
        records.append(AccountingRecord(**fields, steps=tuple(read)))  # type: ignore[arg-type]  # fields by name
    return tuple(records)


def merged(columns: list[str], row: Printed) -> dict[str, object]:
    fields: dict[str, object] = {}
    for column in columns:
        fields.update(row.fields.get(column, {}))
    return fields


def record(columns: list[str], row: Printed) -> AccountingRecord:
    return AccountingRecord(**merged(columns, row))  # type: ignore[arg-type]  # fields by name


def check(table: Table, text: str) -> None:
    columns, jobs = table
    parsed = sacct.parse(text)
    assert parsed.warnings == ()
    assert parsed.records == expected(columns, jobs)


DELIMITERS = ["|", ";", "||", " | ", "\t", "\x1f", "\x1e", "\x0b", "\x85", "@|@", "~::~", "~x~", "QQ", "\u2028"]


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], deadline=None)
@given(table=tables(), delimiter=st.sampled_from(DELIMITERS), ends=st.booleans())
def test_delimited(table: Table, delimiter: str, ends: bool) -> None:
    columns, jobs = table
    if delimiter.isalnum() and "NotKnownToUs" in columns:
        return  # where letters are the delimiter, only known columns tell it
    cells = "".join(row.cells[column] for job in jobs for row in job for column in columns)
    if not set(delimiter.strip(" ")) & set(cells):
        check(table, delimited(columns, jobs, delimiter, ends=ends))


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], deadline=None)
@given(table=tables(), spare=st.integers(1, 5))
def test_fixed_widths(table: Table, spare: int) -> None:
    columns, jobs = table
    check(table, fixed(columns, jobs, spare))


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], deadline=None)
@given(table=tables(), delimiter=st.sampled_from(["|", "\x1f", "::"]), name=st.text("ab|\x1f: ü", min_size=1))
def test_a_name_with_the_delimiter_is_whole_when_it_comes_last(table: Table, delimiter: str, name: str) -> None:
    columns, jobs = table
    columns = [column for column in columns if column not in {"JobName", "NotKnownToUs"}] + ["JobName"]
    if not name.strip():
        return
    jobs = [
        [Printed({**row.cells, "JobName": name}, {**row.fields, "JobName": {"job_name": name}}) for row in job]
        for job in jobs
    ]
    check((columns, jobs), delimited(columns, jobs, delimiter, ends=False))


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], deadline=None)
@given(table=tables())
def test_a_line_break_in_a_name_never_makes_a_wrong_record(table: Table) -> None:
    columns, jobs = table
    columns = [column for column in columns if column not in {"JobName", "NotKnownToUs"}] + ["JobName"]
    broken = [
        [
            Printed({**row.cells, "JobName": "one\ntwo"}, {**row.fields, "JobName": {"job_name": "one\ntwo"}})
            for row in job
        ]
        for job in jobs
    ]
    parsed = sacct.parse(delimited(columns, broken, "|", ends=False))
    rows = [row for job in broken for row in job]
    if rows:  # what follows the last row need not be of its name
        rows[-1].fields["JobName"] = {"job_name": None}
        assert [warning.text for warning in parsed.warnings] == ["two"]
    assert parsed.records == expected(columns, broken)
