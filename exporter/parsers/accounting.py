"""One row of `sacct` as an accounting record."""

from __future__ import annotations

from collections.abc import Callable
from datetime import tzinfo
from typing import TypeVar

from exporter.parsers import values
from exporter.parsers.ids import JobId
from exporter.parsers.moments import Moments, moments, settle
from exporter.parsers.states import cut_state_word, state_word
from exporter.parsers.table import Row
from exporter.records import AccountingRecord

_T = TypeVar("_T")
_WRAP = 2**31
"""Slurm keeps planned CPU seconds in 32 bits: beyond this, what it prints has wrapped around."""
_ENDED_UNSTARTED = frozenset({"CANCELLED", "DEADLINE"})
"""States that a job can end in without ever having started."""


class RowReader:
    """Reads the cells of one row and keeps what was wrong with them.

    Attributes:
        problems: column to what was wrong with its cell.
    """

    def __init__(self, row: Row, identity: JobId, timezone: tzinfo) -> None:
        self.problems: dict[str, str] = {}
        self._row = row
        self._identity = identity
        self._timezone = timezone

    def record(self) -> AccountingRecord:
        """The record of the row alone: without steps, attempts, and what follows from them."""
        state, uid = self._state()
        exit_code, signal = self._read(values.exit_code, "exitcode") or (None, None)
        elapsed = self._agreeing(("elapsedraw", values.raw_seconds), ("elapsed", values.duration))
        submit, start, end = self._times(elapsed)
        amounts = self._read(values.tres, "alloctres")
        req_cpus = self._read(values.count, "reqcpus")
        alloc_cpus = self._agreeing(("alloccpus", values.count), ("ncpus", values.count))
        req_nodes = self._read(values.count, "reqnodes")
        started = bool(elapsed) or start is not None
        alloc_nodes = self._alloc_nodes(started=started)
        planned = self._agreeing(("planned", values.duration), ("reserved", values.duration))
        return AccountingRecord(
            job_id=self._identity.text,
            array_id=self._identity.array,
            job_name=self._text("jobname"),
            user=self._text("user"),
            project=self._text("account"),
            partition=self._text("partition"),
            state=state,
            cancelled_by_uid=uid,
            exit_code=exit_code,
            signal=signal,
            req_cpus=req_cpus,
            alloc_cpus=alloc_cpus,
            req_nodes=req_nodes,
            alloc_nodes=alloc_nodes,
            submit_time=submit,
            start_time=start,
            end_time=end,
            elapsed_seconds=elapsed,
            time_limit_seconds=self._agreeing(("timelimitraw", values.raw_minutes), ("timelimit", values.duration)),
            planned_seconds=planned,
            planned_cpu_seconds=self._planned_cpu(state, planned, req_cpus, started=started),
            cpu_time_seconds=self._agreeing(("cputimeraw", values.raw_seconds), ("cputime", values.duration)),
            total_cpu_seconds=self._read(values.duration, "totalcpu"),
            ave_cpu_seconds=self._read(values.duration, "avecpu"),
            ave_cpu_freq_hertz=self._read(values.frequency, "avecpufreq"),
            ave_disk_read_bytes=self._read(values.size, "avediskread"),
            ave_disk_write_bytes=self._read(values.size, "avediskwrite"),
            max_rss_bytes=self._read(values.size, "maxrss"),
            memory_peak_bytes=self._read(values.tres_usage_memory, "tresusageintot"),
            memory_requested_bytes=self._requested_memory(alloc_cpus or req_cpus, alloc_nodes or req_nodes),
            energy_joules=self._energy(),
            billing_tres=None if amounts is None else amounts.get("billing"),
            tres_allocated=amounts,
            restarts=self._read(values.integer, "restarts"),
        )

    def _cell(self, column: str) -> str:
        return self._row.cells.get(column, "")

    def _text(self, column: str) -> str | None:
        """A name; None where it is empty or its end may be missing."""
        cell = self._cell(column)
        return None if column in self._row.cut or not cell.strip() or cell == "(null)" else cell

    def _read(self, read: Callable[[str], _T | None], column: str) -> _T | None:
        cell = self._cell(column)
        if not cell:
            return None
        if column in self._row.cut:
            self.problems[column] = "cut by the column's width"
            return None
        try:
            return read(cell)
        except ValueError as error:
            self.problems[column] = str(error)
            return None

    def _agreeing(
        self,
        first: tuple[str, Callable[[str], _T | None]],
        second: tuple[str, Callable[[str], _T | None]],
    ) -> _T | None:
        """The value of two columns that tell the same; None where they tell different things."""
        one = self._read(first[1], first[0])
        other = self._read(second[1], second[0])
        if one is not None and other is not None and one != other:
            self.problems[first[0]] = f"not the same as {second[0]}"
            return None
        return other if one is None else one

    def _state(self) -> tuple[str | None, int | None]:
        cell = self._cell("state")
        try:
            if cell.endswith("+"):
                return cut_state_word(cell.removesuffix("+")), None
            return state_word(cell)
        except ValueError as error:
            self.problems["state"] = str(error)
            return None, None

    def _times(self, elapsed: float | None) -> tuple[int | None, int | None, int | None]:
        names = ("submit", "start", "end")
        read = [self._read(self._moments, name) or () for name in names]
        settled = settle(read[0], read[1], read[2], elapsed)
        for name, possible, time in zip(names, read, settled, strict=True):
            if possible and time is None:
                self.problems[name] = "a local time that occurs twice, or contradicts the others"
        return settled

    def _moments(self, text: str) -> Moments:
        return moments(text, self._timezone)

    def _alloc_nodes(self, *, started: bool) -> int | None:
        """AllocNodes; where the table has none, NNodes of what has started, of which it is the same."""
        if "allocnodes" in self._row.cells:
            return self._read(values.count, "allocnodes")
        nodes = self._read(values.count, "nnodes")
        return nodes if started else None

    def _planned_cpu(
        self, state: str | None, planned: float | None, cpus: int | None, *, started: bool
    ) -> float | None:
        """Planned CPU seconds, unless Slurm reckoned them from a start that never was, or they wrapped around."""
        formatted = self._agreeing(("plannedcpu", values.duration), ("resvcpu", values.duration))
        raw = self._agreeing(("plannedcpuraw", values.raw_seconds), ("resvcpuraw", values.raw_seconds))
        if formatted is not None and raw is not None and formatted != raw and (formatted - raw) % 2**32 != 0:
            self.problems["plannedcpuraw"] = "not the same as plannedcpu"
            return None
        value = raw if formatted is None else formatted
        if value is None:
            return None
        words = {self._cell("planned").upper(), self._cell("reserved").upper()}
        never = self._cell("start") == "None" or "INVALID" in words
        if never or (state in _ENDED_UNSTARTED and not started):
            return None
        if planned is not None and cpus is not None and planned * cpus >= _WRAP and value != planned * cpus:
            return None
        return value

    def _requested_memory(self, cpus: int | None, nodes: int | None) -> float | None:
        def read(text: str) -> float | None:
            if self._identity.is_step and text[-1] in "cn":
                return None  # the job's, per CPU or node; the step does not tell how many the job has
            return values.requested_memory(text, cpus=cpus, nodes=nodes)

        return self._read(read, "reqmem")

    def _energy(self) -> float | None:
        """ConsumedEnergyRaw; the rounded ConsumedEnergy only where there is no other."""
        if self._cell("consumedenergyraw"):
            return self._read(values.energy, "consumedenergyraw")
        return self._read(values.energy, "consumedenergy")
