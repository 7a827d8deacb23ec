"""What `squeue` prints, as queue records: its default table, `-l`, and `-o` or `-O` with any columns."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, tzinfo
from typing import TypeVar

from exporter.parsers import values
from exporter.parsers.agreement import agreed
from exporter.parsers.ids import JobId, cut_job_id, job_id
from exporter.parsers.layout import Dialect
from exporter.parsers.moments import Moments, moments, settle
from exporter.parsers.states import WAITING_STATES, cut_state_word, state_code, state_word
from exporter.parsers.table import Row, Stray, read_tables
from exporter.records import Parsed, ParseWarning, QueueRecord

KIND = "squeue"

_T = TypeVar("_T")
_TYPED = """
    JOBID ARRAY_JOB_ID ARRAY_TASK_ID HET_JOB_ID HET_JOB_OFFSET STATE ST USER UID GROUP ACCOUNT PARTITION QOS CLUSTER
    TIME TIME_LIMIT TIME_LEFT TIME_MIN SUBMIT_TIME START_TIME END_TIME ELIGIBLE_TIME ACCRUE_TIME PENDING_TIME DEADLINE
    NODES CPUS MIN_CPUS MIN_MEMORY MIN_TMP_DISK TASKS NODELIST SCHEDNODES PRIORITY RESTART_COUNT
    TRES_ALLOC TRES_PER_NODE TRES_PER_JOB TRES_PER_TASK TRES_PER_SOCKET EXIT_CODE DERIVED_EC CPUS_PER_TASK NICE
    OVER_SUBSCRIBE CONTIGUOUS REQUEUE REBOOT CORE_SPEC SOCKETS_PER_NODE CORES_PER_SOCKET THREADS_PER_CORE S:C:T
    MAX_CPUS MAX_NODES ALLOC_NODES ALLOC_SID ASSOC_ID BATCH_FLAG EXEC_HOST REQ_NODES EXC_NODES REASON NODELIST(REASON)
    DEPENDENCY LICENSES
"""
_TEXT = """
    NAME COMMENT ADMIN_COMMENT SYSTEM_COMMENT COMMAND WORK_DIR FEATURES RESERVATION WCKEY STDERR STDIN STDOUT CONTAINER
    NETWORK BURST_BUFFER BURST_BUFFER_STATE PREFER MCSLABEL
"""
_GPU = re.compile(r"(?:gres[:/])?gpu(?:[:/](?P<model>[A-Za-z][A-Za-z0-9_.-]*))?(?:[:=](?P<count>[0-9]{1,6}))?\Z")
_ITEM = re.compile(r"(?:gres[:/])?[A-Za-z][A-Za-z0-9_./-]*(?::[A-Za-z][A-Za-z0-9_.-]*)?(?:[:=][0-9]{1,12}[KMGTP]?)?\Z")
_WHOLE = re.compile(r"[0-9]+-[0-9]{2}:[0-9]{2}:[0-9]{2}\Z|[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\Z")
"""What fills its column and is whole all the same, since no more can follow."""
_SOCKETS = re.compile(r"\((?:S|IDX):[0-9,-]*\)")


def _identity(text: str, cut: bool) -> JobId | None:
    """The id of a job. One that its column has cut is known only as far as the array it belongs to."""
    identity = cut_job_id(text) if cut and not text.endswith("]") else job_id(text)
    return None if identity is None or identity.is_step else identity


def _is_id(text: str, cut: bool) -> bool:
    return _identity(text, cut) is not None


_DIALECT = Dialect(
    id_name="JOBID",
    known=frozenset((_TYPED + _TEXT).lower().split()),
    typed=frozenset(_TYPED.lower().split()),
    name_column="name",
    name_like=re.compile(r"[A-Z][A-Z0-9_]*(?:\([A-Z]+\)|:[A-Z](?::[A-Z])*)?\Z"),
    is_id=_is_id,
    ruled=False,
    pads=True,
)


def parse(text: str, *, timezone: tzinfo = UTC) -> Parsed[QueueRecord]:
    """Read what `squeue` prints.

    Columns are known by the header, in any order and number. A table of fixed width cuts what is too long without a
    mark: a name that fills its column is None. Times are UTC epoch seconds, durations seconds. `end_time` of a job that
    runs is the end of its time limit.

    Args:
        text: the output, with or without what was printed around it. A header alone is an empty queue. Of several
            tables the last that names a job tells of it.
        timezone: the zone of the site's local times. Epoch seconds (SLURM_TIME_FORMAT=%s) need none.

    Raises:
        InputError: the text has no header of squeue's; quotes the first line.
    """
    records: dict[str, QueueRecord] = {}
    warnings: list[ParseWarning] = []
    for table in read_tables(text, _DIALECT, tool=KIND):
        rows: dict[str, Row] = {}
        for item in table.items:
            if isinstance(item, Stray):
                warnings.append(ParseWarning(item.line, item.text, item.reason))
                continue
            record = _read(item, timezone, warnings)
            if record is None:
                continue
            if earlier := rows.get(record.job_id):
                warnings.append(ParseWarning(earlier.line, earlier.text, f"printed again in line {item.line}"))
                record = agreed(records[record.job_id], record)
            rows[record.job_id] = item
            records[record.job_id] = record
    return Parsed(tuple(records.values()), tuple(sorted(warnings, key=lambda each: each.line)))


def _read(row: Row, timezone: tzinfo, warnings: list[ParseWarning]) -> QueueRecord | None:
    """The record of a row; what was wrong with it goes to the warnings."""
    identity = _identity(row.cells["jobid"], "jobid" in row.cut)
    if identity is None:
        return None  # the table's rows all have ids
    reader = _RowReader(row, identity, timezone)
    record = reader.record()
    if row.joined and reader.problems:
        reason = "more cells than the header has, and not only in the name"
        warnings.append(ParseWarning(row.line, row.text, reason))
        return None
    if reader.problems:
        reasons = "; ".join(f"{column}: {reason}" for column, reason in reader.problems.items())
        warnings.append(ParseWarning(row.line, row.text, reasons))
    return record


class _RowReader:
    """Reads the cells of one row; `problems` tells by column what was wrong."""

    def __init__(self, row: Row, identity: JobId, timezone: tzinfo) -> None:
        self.problems: dict[str, str] = {}
        self._row = row
        self._identity = identity
        self._timezone = timezone

    def record(self) -> QueueRecord:
        state = self._state()
        waits = None if state is None else state in WAITING_STATES
        submit = self._read(self._moments, "submit_time") or ()
        start = self._read(self._moments, "start_time") or ()
        end = self._read(self._moments, "end_time") or ()
        submit_time, start_time, end_time = settle(submit, start, end, None)
        for name, possible, time in (
            ("submit_time", submit, submit_time),
            ("start_time", start, start_time),
            ("end_time", end, end_time),
        ):
            if possible and time is None:
                self.problems[name] = "a local time that occurs twice"
        nodes = self._read(values.count, "nodes")
        place, reason = self._node_list_or_reason()
        return QueueRecord(
            job_id=self._identity.text,
            array_id=self._array_id(),
            job_name=self._text("name"),
            user=self._text("user"),
            project=self._text("account"),
            partition=self._text("partition"),
            state=state,
            pending_reason=None if waits is False else (self._reason() or reason),
            submit_time=submit_time,
            start_time=start_time if waits is False else None,
            expected_start_time=start_time if waits else None,
            end_time=end_time,
            elapsed_seconds=self._read(values.duration, "time"),
            time_limit_seconds=self._read(values.duration, "time_limit"),
            nodes=nodes,
            cpus=self._read(values.count, "cpus"),
            gpus=self._gpus(nodes),
            node_list=self._text("nodelist") or place,
            restarts=self._read(values.integer, "restart_count"),  # -O restartcnt
            tres_allocated=self._read(values.tres, "tres_alloc"),
        )

    def _cell(self, column: str) -> str:
        return self._row.cells.get(column, "")

    def _text(self, column: str) -> str | None:
        """A name; None where it is empty or its end may be missing."""
        cell = self._cell(column)
        return None if column in self._row.cut or not cell.strip() or cell in {"(null)", "N/A"} else cell

    def _read(self, read: Callable[[str], _T | None], column: str) -> _T | None:
        cell = self._cell(column)
        if not cell:
            return None
        if column in self._row.cut and column != "state" and not _WHOLE.match(cell):
            self.problems[column] = "may be cut by the column's width"
            return None
        try:
            return read(cell)
        except ValueError as error:
            self.problems[column] = str(error)
            return None

    def _moments(self, text: str) -> Moments:
        return moments(text, self._timezone)

    def _state(self) -> str | None:
        cut = "state" in self._row.cut
        word = self._read(cut_state_word if cut else lambda text: state_word(text)[0], "state")
        code = None if "st" in self.problems else self._code()
        if word is not None and code is not None and word != code:
            self.problems["st"] = "not the same as state"
            return None
        return word or code

    def _code(self) -> str | None:
        """The state by its code; codes have at most three letters, of which the column holds two."""
        cell = self._cell("st")
        try:
            return state_code("OOM" if cell == "OO" and "st" in self._row.cut else cell)
        except ValueError as error:
            self.problems["st"] = str(error)
            return None

    def _reason(self) -> str | None:
        reason = self._text("reason")
        return None if reason in {None, "None"} else reason

    def _node_list_or_reason(self) -> tuple[str | None, str | None]:
        """What stands in `NODELIST(REASON)`: nodes, or a reason in parentheses."""
        cell = self._text("nodelist(reason)")
        if cell is None:
            return None, None
        if cell.startswith("(") and cell.endswith(")"):
            reason = cell[1:-1]
            return None, None if reason in {"None", ""} else reason
        if cell.startswith("("):
            self.problems["nodelist(reason)"] = "a reason without an end"
            return None, None
        return cell, None

    def _array_id(self) -> str | None:
        """The array's id by the job's own, or by squeue's columns for it where ids are printed raw."""
        parent = self._cell("array_job_id")
        if self._identity.array is not None or not parent.isdecimal():
            return self._identity.array
        task = self._cell("array_task_id")
        is_array = task not in {"", "N/A"} or parent != self._identity.job
        return parent if is_array and "+" not in self._identity.job else None

    def _gpus(self, nodes: int | None) -> int | None:
        """GPUs of the whole job; None where no column tells (`N/A` per node says nothing of GPUs asked per job)."""
        allocated = self._read(values.tres, "tres_alloc")
        if allocated is not None and (number := values.gpus(allocated)) is not None:
            return number
        per_job = self._read(_asked_gpus, "tres_per_job")
        if per_job is not None:
            return per_job
        per_node = self._read(_asked_gpus, "tres_per_node")
        return None if per_node is None or nodes is None else per_node * nodes


def _asked_gpus(text: str) -> int | None:
    """GPUs in `gres:gpu:v100:4`, `gres/gpu:2` or `gpu:a100=4,gres:nvme:100`; a name without a number is one.

    Raises:
        ValueError: an item is not understood.
    """
    if values.is_unknown(text):
        return None
    total: int | None = None
    for item in _SOCKETS.sub("", text).split(","):
        match = _GPU.match(item)
        if match is not None:
            total = (total or 0) + int(match["count"] or 1)
        elif not _ITEM.match(item) or "gpu" in item.lower():
            raise ValueError("not a list of TRES")
    return total
