"""What `sacct` prints, as accounting records: delimited (`-P`, `-p`), or a default table that has cut nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from math import inf
from typing import TextIO

from exporter.errors import InputError
from exporter.parsers.accounting import Fields, Problems, RowReader
from exporter.parsers.agreement import agreed, agreed_fields
from exporter.parsers.ids import JobId, cut_job_id, job_id
from exporter.parsers.layout import Dialect
from exporter.parsers.plain import NotPlainError, PlainRows
from exporter.parsers.table import Row, Stray, Table, read_tables
from exporter.parsers.text import first_line, is_json, lines_of, quoted
from exporter.records import AccountingRecord, Parsed, ParseWarning

KIND = "sacct"

_TYPED = """
    JobID JobIDRaw User UID Group GID Account AssocID Partition QOS QOSRAW QOSREQ Cluster State ExitCode
    DerivedExitCode ReqCPUS AllocCPUS NCPUS ReqNodes AllocNodes NNodes NTasks NodeList Submit Eligible Start End Elapsed
    ElapsedRaw Timelimit TimelimitRaw Planned PlannedCPU PlannedCPURAW Reserved ResvCPU ResvCPURAW CPUTime CPUTimeRAW
    TotalCPU UserCPU SystemCPU Suspended AveCPU MinCPU MinCPUNode MinCPUTask AveCPUFreq ReqCPUFreq ReqCPUFreqMin
    ReqCPUFreqMax ReqCPUFreqGov AveDiskRead AveDiskWrite MaxDiskRead MaxDiskReadNode MaxDiskReadTask MaxDiskWrite
    MaxDiskWriteNode MaxDiskWriteTask AvePages MaxPages MaxPagesNode MaxPagesTask AveRSS MaxRSS MaxRSSNode MaxRSSTask
    AveVMSize MaxVMSize MaxVMSizeNode MaxVMSizeTask ConsumedEnergy ConsumedEnergyRaw ReqMem ReqTRES AllocTRES AllocGRES
    ReqGRES TRESUsageInAve TRESUsageInMax TRESUsageInMaxNode TRESUsageInMaxTask TRESUsageInMin TRESUsageInMinNode
    TRESUsageInMinTask TRESUsageInTot TRESUsageOutAve TRESUsageOutMax TRESUsageOutMaxNode TRESUsageOutMaxTask
    TRESUsageOutMin TRESUsageOutMinNode TRESUsageOutMinTask TRESUsageOutTot Restarts Priority DBIndex Flags Layout
    WCKeyID ReservationId BlockID SegmentSize SLUID Reason FailedNode
"""
_TEXT = """
    JobName SubmitLine Comment AdminComment SystemComment Extra WorkDir StdErr StdIn StdOut Constraints Container WCKey
    Reservation ReservationReq Licenses McsLabel
"""
_BY_STEP = frozenset({"maxrss", "tresusageintot"})
"""Columns of which a job's own value is that of its largest step."""


def _identity(text: str) -> JobId | None:
    """The id of a job or step; no whole one ends in `+`, the mark of what a column has cut."""
    return cut_job_id(text) if text.endswith("+") else job_id(text)


def _is_id(text: str, _cut: bool) -> bool:
    return _identity(text) is not None


_DIALECT = Dialect(
    id_name="JobID",
    known=frozenset((_TYPED + _TEXT).lower().split()),
    typed=frozenset(_TYPED.lower().split()),
    name_column="jobname",
    name_like=re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z"),
    is_id=_is_id,
    ruled=True,
    pads=False,
)


_PIECE_JOBS = 4
"""So many jobs are put together at once; with more, their rows no longer fit where the processor is fast."""
_INSTEAD = "type: sacct -P -j JOBID -o JobID,JobName,State,ExitCode,Elapsed"
_SAYS_ERROR = re.compile(r"\S{1,40} error: |\S{1,40}: error: ")
_MARKED = re.compile(r"(?:.*\s)?[0-9]\S*\+(?=\s|\Z)|\s*[0-9].*\S\+(?=\s|\Z)")
"""A line with an id in it, and the mark of what was cut."""
_FIRST_CELL = re.compile(r"\s*([0-9][^\s|]{0,60})(?:[|\s]+\S)")


@dataclass(slots=True, eq=False)
class _Attempt:
    """One row of a job, its steps, and what makes totals over them unknown."""

    job: str
    row: Row
    fields: Fields
    table: int
    steps: list[AccountingRecord] = field(default_factory=list)
    step_rows: dict[str, tuple[Row, int]] = field(default_factory=dict)
    unclear: set[str] = field(default_factory=set)

    def marks(self) -> tuple[object, object]:
        """What two rows of one attempt have in common: their text, or their times, as a requeue submits anew."""
        submit = self.fields.get("submit_time")
        text = self.row.text
        return text, text if submit is None else (submit, self.fields.get("start_time"))

    def settled(self, attempts: tuple[AccountingRecord, ...] = ()) -> AccountingRecord:
        """The record, with what follows from the steps."""
        self.fields["max_rss_bytes"] = self._largest("maxrss", "max_rss_bytes")
        self.fields["memory_peak_bytes"] = self._largest("tresusageintot", "memory_peak_bytes")
        return AccountingRecord(**self.fields, steps=tuple(self.steps), attempts=attempts)

    def _largest(self, column: str, name: str) -> float | None:
        if column in self.unclear:
            return None
        largest: float | None = self.fields.get(name)
        for step in self.steps:
            value: float | None = getattr(step, name)
            if value is not None and (largest is None or value > largest):
                largest = value
        return largest


def parse(text: str, *, timezone: tzinfo = UTC) -> Parsed[AccountingRecord]:
    """Read what `sacct` prints.

    Columns are known by the header, in any order and number. Steps are attached to their job by id; a step whose job
    has no row is a warning, as is every row that is not understood. Where one id has several rows (`--duplicates`) the
    latest attempt is the record and the earlier ones are its `attempts`. Of several tables the last that names a job
    tells of it. Times are UTC epoch seconds, durations seconds, sizes bytes, energy joules, frequencies hertz.

    A table of fixed width is read where none of its cells was cut: what a cut one said is gone, and of an id that is
    whose row it is.

    Args:
        text: the output, with or without what was printed around it.
        timezone: the zone of the site's local times. Epoch seconds (SLURM_TIME_FORMAT=%s) need none.

    Raises:
        InputError: the text has no header of sacct's, is JSON, or has cut cells; quotes the line and says what to type
            instead.
    """
    records: list[AccountingRecord] = []
    warnings: list[ParseWarning] = []
    try:
        for piece in _pieces(PlainRows(lines_of(text), _DIALECT), timezone):
            records += piece.records
            warnings += piece.warnings
    except NotPlainError:
        return _parse_any(text, timezone)
    return Parsed(tuple(records), tuple(warnings))


def parse_file(file: TextIO, *, timezone: tzinfo = UTC) -> Iterator[Parsed[AccountingRecord]]:
    """Read what `sacct` printed into a file, job by job, so that memory doesn't grow with the file.

    That is so for a file with nothing but a header and rows; any other is read as a whole. The pieces put together are
    what `parse` returns.

    Args:
        file: open for reading, with its line breaks left as they are; read twice.
        timezone: as in `parse`.

    Raises:
        InputError: as `parse` does, before the first piece.
    """
    try:
        PlainRows(_bare_lines(file), _DIALECT).check()
    except NotPlainError:
        file.seek(0)
        yield _parse_any(file.read(), timezone)
        return
    file.seek(0)
    yield from _pieces(PlainRows(_bare_lines(file), _DIALECT), timezone)


def _bare_lines(file: TextIO) -> Iterator[str]:
    for line in file:
        if "\x1b" in line:
            raise NotPlainError
        yield line.rstrip("\n").rstrip("\r")


def _pieces(rows: PlainRows, timezone: tzinfo) -> Iterator[Parsed[AccountingRecord]]:
    """Some jobs of a plain text after others; it tells nothing of a job but in its rows."""
    reader = RowReader(rows.columns, timezone)
    collector, job, count = _Collector(reader), "", 0
    for identity, row in rows:
        if identity.job != job:
            job, count = identity.job, count + 1
            if count % _PIECE_JOBS == 0:
                yield collector.parsed()
                collector = _Collector(reader)
        collector.add_row(identity, row, 0)
    yield collector.parsed()


def _parse_any(text: str, timezone: tzinfo) -> Parsed[AccountingRecord]:
    tables = _tables(text)
    collector = _Collector(RowReader((), timezone))
    for number, table in enumerate(tables):
        _refuse_cut(table)
        collector.reader = RowReader(table.columns, timezone)
        for item in table.items:
            collector.add(item, number)
        collector.end_table()
    return collector.parsed()


def _tables(text: str) -> list[Table]:
    """The tables of a text; where there are none the error says what to type."""
    try:
        return read_tables(text, _DIALECT, tool=KIND)
    except InputError as error:
        lines = lines_of(text)
        if is_json(lines):
            raise InputError(f"JSON is not read; {_INSTEAD}") from None
        if not text.strip() or _SAYS_ERROR.match(first_line(lines) or ""):
            raise
        headless = any((cell := _FIRST_CELL.match(line)) and _is_id(cell[1], True) for line in lines)
        rows = "; rows without a header are not read" if headless else ""
        raise InputError(f"{error}{rows}; {_INSTEAD}") from None


def _refuse_cut(table: Table) -> None:
    """Raise an error where the widths of a table's columns have cut any of its cells."""
    for item in table.items if table.fixed else ():
        cut = bool(item.cut) if isinstance(item, Row) else _MARKED.match(item.text) is not None
        if cut:
            raise InputError(
                f"cut by the width of its column: line {item.line} {quoted(item.text.strip())}; {_INSTEAD}"
            )


class _Collector:
    """Puts rows together into jobs.

    Args:
        reader: reads the rows to come.
    """

    def __init__(self, reader: RowReader) -> None:
        self.reader = reader
        self._warnings: list[ParseWarning] = []
        self._jobs: dict[str, list[_Attempt]] = {}
        self._repeated: set[str] = set()
        self._seen: dict[tuple[int, str, object], _Attempt] = {}
        self._lost: set[str] = set()
        self._waiting: list[tuple[JobId, Row]] = []
        self._current: _Attempt | None = None

    def add(self, item: Row | Stray, table: int) -> None:
        """Take the next row or stray."""
        if isinstance(item, Stray):
            self._warn(item.line, item.text, item.reason)
            if item.row_like:
                self._blur(self._current)
            if (lost := job_id(item.id_text)) is not None:
                self._lost.add(lost.job)
            return
        identity = _identity(item.cells["jobid"])
        if identity is None:
            self._warn(item.line, item.text, "no id")
        else:
            self.add_row(identity, item, table)

    def add_row(self, identity: JobId, row: Row, table: int) -> None:
        """Take the next row, whose id is known."""
        if identity.is_step:
            self._add_step(identity, row)
        else:
            self._add_job(identity, row, table)

    def end_table(self) -> None:
        """Attach the steps that came before their job, and give up those whose job never came."""
        for identity, row in self._waiting:
            attempts = self._jobs.get(identity.job)
            if attempts is None:
                self._warn(row.line, row.text, f"a step of job {identity.job}, which has no row")
            else:
                self._attach(identity, row, attempts[0])
        self._waiting.clear()
        self._current = None

    def parsed(self) -> Parsed[AccountingRecord]:
        """The jobs in the order of the text."""
        self.end_table()
        records = tuple(self._settled(job, attempts) for job, attempts in self._jobs.items())
        return Parsed(records, tuple(sorted(self._warnings, key=lambda each: each.line)))

    def _warn(self, line: int, text: str, reason: str) -> None:
        self._warnings.append(ParseWarning(line, text, reason))

    @staticmethod
    def _blur(attempt: _Attempt | None) -> None:
        """A row was lost that may have been a step of this job: its largest step is no longer known."""
        if attempt is not None:
            attempt.unclear.update(_BY_STEP)

    def _understood(self, row: Row, problems: Problems) -> bool:
        """Whether a row with problems may be used but for these."""
        if row.joined:
            self._warn(row.line, row.text, "more cells than the header has, and not only in the name")
            return False
        self._warn(row.line, row.text, "; ".join(f"{column}: {reason}" for column, reason in problems.items()))
        return True

    def _add_job(self, identity: JobId, row: Row, table: int) -> None:
        fields, problems = self.reader.read(row, identity)
        if problems and not self._understood(row, problems):
            self._blur(self._current)
            return
        attempts = self._jobs.setdefault(identity.job, [])
        attempt = _Attempt(identity.job, row, fields, table, unclear=problems.keys() & _BY_STEP)
        if attempts and attempts[-1].table != table:
            self._repeated.add(identity.job)
            attempts.clear()
        marks = [(table, identity.job, mark) for mark in attempt.marks()]
        earlier = self._seen.get(marks[0]) or self._seen.get(marks[1])
        if earlier is None:
            attempts.append(attempt)
        else:
            self._warn(earlier.row.line, earlier.row.text, f"printed again in line {row.line}")
            self._repeated.add(identity.job)
            earlier.fields = agreed_fields(earlier.fields, fields)
            earlier.unclear |= attempt.unclear
        self._current = earlier or attempt
        for mark in marks:
            self._seen.setdefault(mark, self._current)

    def _add_step(self, identity: JobId, row: Row) -> None:
        attempts = self._jobs.get(identity.job)
        if attempts is None:
            self._waiting.append((identity, row))
        else:
            current = self._current
            self._attach(identity, row, current if current and current.job == identity.job else attempts[-1])

    def _attach(self, identity: JobId, row: Row, attempt: _Attempt) -> None:
        fields, problems = self.reader.read(row, identity)
        if problems:
            if not self._understood(row, problems):
                self._blur(attempt)
                return
            attempt.unclear |= problems.keys() & _BY_STEP
        record = AccountingRecord(**fields)
        earlier = attempt.step_rows.setdefault(identity.text, (row, len(attempt.steps)))
        if earlier[0] is row or identity.cut:
            attempt.steps.append(record)
            return
        self._warn(row.line, row.text, f"the step was printed in line {earlier[0].line} already")
        if earlier[0].text != row.text:
            self._blur(attempt)
            attempt.steps[earlier[1]] = agreed(attempt.steps[earlier[1]], record)

    def _settled(self, job: str, attempts: list[_Attempt]) -> AccountingRecord:
        """The latest attempt, with the earlier ones."""
        if job in self._lost:
            for each in attempts:
                self._blur(each)
        *earlier, last = sorted(attempts, key=_order(attempts)) if len(attempts) > 1 else attempts
        if earlier and not last.row.cells.get("restarts") and job not in self._repeated:
            last.fields["restarts"] = len(earlier)
        return last.settled(tuple(each.settled() for each in earlier))


def _order(attempts: list[_Attempt]) -> Callable[[_Attempt], tuple[float, ...]]:
    """How to sort attempts: by submission, then start, where all tell it; else as they were printed."""

    def time(each: _Attempt, name: str) -> float:
        found: float | None = each.fields.get(name)
        return inf if found is None else found

    if any(time(each, "submit_time") == inf for each in attempts):
        if any(time(each, "start_time") == inf for each in attempts):
            return lambda each: (each.row.line,)
        return lambda each: (time(each, "start_time"), each.row.line)
    return lambda each: (time(each, "submit_time"), time(each, "start_time"), each.row.line)
