"""One row of `sacct` as the fields of an accounting record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import tzinfo
from functools import lru_cache
from typing import Any

from exporter.parsers import values
from exporter.parsers.ids import JobId
from exporter.parsers.moments import Moments, moments, settle
from exporter.parsers.states import cut_state_word, state_word
from exporter.parsers.table import Row

_WRAP = 2**31
"""Slurm keeps planned CPU seconds in 32 bits: beyond this, what it prints has wrapped around."""
_ENDED_UNSTARTED = frozenset({"CANCELLED", "DEADLINE"})
"""States that a job can end in without ever having started."""
_KEPT = 256
"""So many different cells of a column are remembered: a job and its steps say much the same, and so do jobs."""

Fields = dict[str, Any]
Problems = dict[str, str]
_Read = Callable[..., Any]


def _name(cell: str) -> str | None:
    return None if not cell.strip() or cell == "(null)" else cell


def _word(cell: str) -> str | None:
    """A name that has no blanks around it; where there are some, the cell is damaged."""
    if cell != cell.strip():
        raise ValueError("blanks around a name")
    return _name(cell)


def _state(cell: str) -> tuple[str | None, int | None]:
    return (cut_state_word(cell.removesuffix("+")), None) if cell.endswith("+") else state_word(cell)


_COLUMNS: tuple[tuple[str, str, _Read], ...] = (
    ("jobname", "job_name", _name),
    ("user", "user", _word),
    ("account", "project", _word),
    ("partition", "partition", _word),
    ("state", "state", _state),
    ("exitcode", "exit_code", values.exit_code),
    ("elapsedraw", "elapsed_seconds", values.raw_seconds),
    ("elapsed", "elapsed", values.duration),
    ("submit", "submit_time", moments),
    ("start", "start_time", moments),
    ("end", "end_time", moments),
    ("alloctres", "tres_allocated", values.tres),
    ("reqcpus", "req_cpus", values.count),
    ("alloccpus", "alloc_cpus", values.count),
    ("ncpus", "ncpus", values.count),
    ("reqnodes", "req_nodes", values.count),
    ("allocnodes", "alloc_nodes", values.count),
    ("nnodes", "nnodes", values.count),
    ("planned", "planned_seconds", values.duration),
    ("reserved", "reserved", values.duration),
    ("timelimitraw", "time_limit_seconds", values.raw_minutes),
    ("timelimit", "timelimit", values.duration),
    ("plannedcpu", "plannedcpu", values.duration),
    ("resvcpu", "resvcpu", values.duration),
    ("plannedcpuraw", "planned_cpu_seconds", values.raw_seconds),
    ("resvcpuraw", "resvcpuraw", values.raw_seconds),
    ("cputimeraw", "cpu_time_seconds", values.raw_seconds),
    ("cputime", "cputime", values.duration),
    ("totalcpu", "total_cpu_seconds", values.duration),
    ("avecpu", "ave_cpu_seconds", values.duration),
    ("avecpufreq", "ave_cpu_freq_hertz", values.frequency),
    ("avediskread", "ave_disk_read_bytes", values.size),
    ("avediskwrite", "ave_disk_write_bytes", values.size),
    ("maxrss", "max_rss_bytes", values.size),
    ("tresusageintot", "memory_peak_bytes", values.tres_usage_memory),
    ("reqmem", "memory_requested_bytes", str),  # what it is worth depends on other cells
    ("consumedenergyraw", "energy_joules", values.energy),
    ("consumedenergy", "consumedenergy", values.energy),
    ("restarts", "restarts", values.integer),
)
"""What each column's cell is read as, in the order in which problems are told. What is no field serves another one."""
_PLACES = {column: place for place, (column, _, _) in enumerate(_COLUMNS)}
_FIELDS = {column: name for column, name, _ in _COLUMNS}
_SELDOM_AGAIN = frozenset({"avecpu", "avediskread", "avediskwrite", "maxrss", "tresusageintot"})
"""Columns whose cells are different in almost every row: to remember them costs more than to read them."""
_MAY_BE_CUT = frozenset({"jobname", "user", "account", "partition", "state"})
"""Columns in which a cell that the width has cut is no fault: of a name nothing is known, a state may be completed."""
_TIMES = {"submit": "submit_time", "start": "start_time", "end": "end_time"}
_TELL_THE_SAME = (
    ("elapsedraw", "elapsed"),
    ("alloccpus", "ncpus"),
    ("planned", "reserved"),
    ("timelimitraw", "timelimit"),
    ("plannedcpu", "resvcpu"),
    ("plannedcpuraw", "resvcpuraw"),
    ("cputimeraw", "cputime"),
)


class RowReader:
    """Reads the rows of one table.

    Args:
        columns: those that the table has, in lower case.
        timezone: the site's.
    """

    def __init__(self, columns: Sequence[str], timezone: tzinfo) -> None:
        self._timezone = timezone
        self._ambiguous = False
        self._pairs = [pair for pair in _TELL_THE_SAME if set(pair) <= set(columns)]
        paired = {second for _, second in self._pairs}
        names = _FIELDS | {second: _FIELDS[first] for first, second in _TELL_THE_SAME if second not in paired}
        unread = {"nnodes"} if "allocnodes" in columns else set()
        self._reads: list[tuple[str, str, _Read]] = []
        for column, _, read in _COLUMNS:
            if column in columns and column not in unread:
                read_cell = self._moment if column in _TIMES else read
                kept = read_cell if column in _SELDOM_AGAIN else lru_cache(_KEPT)(read_cell)
                self._reads.append((column, names[column], kept))
        self._rounded_energy = "consumedenergy" in columns
        self._requested_memory = lru_cache(_KEPT)(values.requested_memory)

    def read(self, row: Row, identity: JobId) -> tuple[Fields, Problems]:
        """Read a row.

        Returns:
            The fields of its record, without steps, attempts, and what follows from them; and column to what was wrong
            with its cell.
        """
        cells = row.cells
        found: Fields = {"job_id": identity.text, "array_id": identity.array}
        problems: Problems = {}
        for column, name, read in self._reads:
            if cell := cells[column]:
                try:
                    found[name] = read(cell)
                except ValueError as error:
                    problems[column] = str(error)
        if row.cut:
            self._forget_cut(row, found, problems)
        _take_apart(found)
        self._put_together(row, identity, found, problems)
        if len(problems) > 1:
            problems = dict(sorted(problems.items(), key=lambda each: _PLACES[each[0]]))
        return found, problems

    def _forget_cut(self, row: Row, found: Fields, problems: Problems) -> None:
        for column, name, _ in self._reads:
            if column in row.cut and column != "state":
                found.pop(name, None)
                if column not in _MAY_BE_CUT and row.cells[column]:
                    problems[column] = "cut by the column's width"

    def _put_together(self, row: Row, identity: JobId, found: Fields, problems: Problems) -> None:
        """Settle what depends on several cells."""
        get = found.get
        for first, second in self._pairs:
            _agree(first, second, found, problems)
        if self._ambiguous:
            _settle_times(found, problems)
        if "nnodes" in found:  # of what has started it is the same as AllocNodes, which the table doesn't have
            nodes = found.pop("nnodes")
            if get("elapsed_seconds") or get("start_time") is not None:
                found["alloc_nodes"] = nodes
        if "plannedcpu" in found or "planned_cpu_seconds" in found:
            found["planned_cpu_seconds"] = _planned_cpu(row, found, problems)
        if "memory_requested_bytes" in found:
            found["memory_requested_bytes"] = self._memory(identity, found, problems)
        if self._rounded_energy:
            _settle_energy(row, found, problems)

    def _moment(self, text: str) -> int | Moments | None:
        """Read a time as an epoch second, or where it occurs twice as all that it may mean."""
        found = moments(text, self._timezone)
        self._ambiguous = self._ambiguous or len(found) > 1
        return found[0] if len(found) == 1 else found or None

    def _memory(self, identity: JobId, found: Fields, problems: Problems) -> float | None:
        text = found["memory_requested_bytes"]
        if identity.is_step and text[-1] in "cn":
            return None  # the job's, per CPU or node; the step does not tell how many the job has
        cpus = found.get("alloc_cpus") or found.get("req_cpus")
        nodes = found.get("alloc_nodes") or found.get("req_nodes")
        try:
            return self._requested_memory(text, cpus=cpus, nodes=nodes)
        except ValueError as error:
            problems["reqmem"] = str(error)
            return None


def _take_apart(found: Fields) -> None:
    """Make fields of cells that tell more than one thing."""
    if (pair := found.get("state")) is not None:
        found["state"], found["cancelled_by_uid"] = pair
    if (pair := found.get("exit_code")) is not None:
        found["exit_code"], found["signal"] = pair
    if (amounts := found.get("tres_allocated")) is not None:
        found["billing_tres"] = amounts.get("billing")


def _agree(first: str, second: str, found: Fields, problems: Problems) -> None:
    """Keep one of two columns that tell the same; neither where they tell different things."""
    name = _FIELDS[first]
    one, other = found.get(name), found.pop(_FIELDS[second], None)
    if one is not None and other is not None and one != other:
        problems[first] = f"not the same as {second}"
        found[name] = None
    elif one is None:
        found[name] = other


def _settle_times(found: Fields, problems: Problems) -> None:
    """Choose among what ambiguous times may mean."""
    read = [found.get(name) for name in _TIMES.values()]
    submit, start, end = (each if isinstance(each, tuple) else () if each is None else (each,) for each in read)
    settled = settle(submit, start, end, found.get("elapsed_seconds"))
    for (column, name), possible, time in zip(_TIMES.items(), read, settled, strict=True):
        found[name] = time
        if possible is not None and time is None:
            problems[column] = "a local time that occurs twice, or contradicts the others"


def _settle_energy(row: Row, found: Fields, problems: Problems) -> None:
    """Keep ConsumedEnergyRaw; the rounded ConsumedEnergy only where there is no other."""
    rounded = found.pop("consumedenergy", None)
    if row.cells.get("consumedenergyraw"):
        problems.pop("consumedenergy", None)
    else:
        found["energy_joules"] = rounded


def _planned_cpu(row: Row, found: Fields, problems: Problems) -> float | None:
    """Planned CPU seconds, unless Slurm reckoned them from a start that never was, or they wrapped around."""
    formatted, raw = found.pop("plannedcpu", None), found.get("planned_cpu_seconds")
    if formatted is not None and raw is not None and formatted != raw and (formatted - raw) % 2**32 != 0:
        problems["plannedcpuraw"] = "not the same as plannedcpu"
        return None
    value: float | None = raw if formatted is None else formatted
    if value is None:
        return None
    words = {row.cells.get("planned", "").upper(), row.cells.get("reserved", "").upper()}
    never = row.cells.get("start") == "None" or "INVALID" in words
    started = bool(found.get("elapsed_seconds")) or found.get("start_time") is not None
    if never or (found.get("state") in _ENDED_UNSTARTED and not started):
        return None
    planned, cpus = found.get("planned_seconds"), found.get("req_cpus")
    if planned is not None and cpus is not None and planned * cpus >= _WRAP and value != planned * cpus:
        return None
    return value
