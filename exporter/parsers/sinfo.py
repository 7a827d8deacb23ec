"""What `sinfo` prints of partitions and their nodes, in the format that rayslurm asks for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, tzinfo
from typing import TypeVar

from exporter.errors import InputError
from exporter.parsers.text import first_line, is_around, lines_of, quoted
from exporter.parsers.values import count, duration, integer
from exporter.records import Parsed, ParseWarning, PartitionRecord

SOURCE = "sinfo"

DELIMITER = "|"

_KEY = "PARTITION"
_MIB = 1024**2
_NO_LIMIT = frozenset({"infinite", "unlimited", "n/a"})
_STATES = {"up": "up", "down": "down", "drain": "drain", "inactive": "inactive", "inact": "inactive"}

ValueT = TypeVar("ValueT", int, float)


def parse(text: str, *, timezone: tzinfo = UTC) -> Parsed[PartitionRecord]:
    """Read what `sinfo -o "%R|..."` prints: one row for each partition and kind of node in it.

    Columns are known by their heads; those that are not known are read over. Of the nodes of a partition the largest
    counts. A cell that is not understood is a warning, and None in the record.

    Args:
        text: the output with its header, and with what was printed around it.
        timezone: not used; the text has no times.

    Raises:
        InputError: the text has no such header or no partition, or a row is broken: a partition that is left out would
            be taken for one that does not exist.
    """
    del timezone
    lines = lines_of(text)
    start = next((number for number, line in enumerate(lines) if _head(line) is not None), None)
    columns = None if start is None else _head(lines[start])
    if start is None or columns is None:
        first = first_line(lines)
        told = "the text is empty" if first is None else f"it begins {quoted(first)}"
        raise InputError(f"not what sinfo prints with columns set apart by {DELIMITER}: {told}")
    warnings: list[ParseWarning] = []
    kinds: dict[str, list[PartitionRecord]] = {}
    for number, line in enumerate(lines[start + 1 :], start + 2):
        if is_around(line) or line.split(DELIMITER)[0].strip() == _KEY:
            continue
        if DELIMITER not in line:
            warnings.append(ParseWarning(number, line, "not a row"))
            continue
        cells = [cell.strip() for cell in line.split(DELIMITER)]
        if len(cells) != len(columns) or not cells[columns.index(_KEY)]:
            raise InputError(f"sinfo printed a row that is not whole: {quoted(line)}")
        reader = _Row(number, line, dict(zip(columns, cells, strict=True)))
        record = reader.record()
        warnings += reader.warnings
        kinds.setdefault(record.name, []).append(record)
    if not kinds:
        raise InputError("sinfo printed no partition, only its header")
    return Parsed(tuple(_together(rows) for rows in kinds.values()), tuple(warnings))


def _head(line: str) -> list[str] | None:
    names = [cell.strip() for cell in line.split(DELIMITER)]
    return names if len(names) > 1 and _KEY in names and len(set(names)) == len(names) else None


class _Row:
    """One row: a partition and one kind of node in it."""

    def __init__(self, number: int, line: str, cells: Mapping[str, str]) -> None:
        self._number = number
        self._line = line
        self._cells = cells
        self.warnings: list[ParseWarning] = []

    def record(self) -> PartitionRecord:
        least, most = self._job_size()
        nodes = self._read("NODES", count)
        # A partition without nodes, as where they are made on demand, says nothing of their size.
        there = nodes != 0
        cpus = [
            limit
            for limit in (self._read("CPUS", _largest) if there else None, self._read("MAX_CPUS_PER_NODE", _limit))
            if limit is not None
        ]
        shared = self._cells.get("OVERSUBSCRIBE", "")
        return PartitionRecord(
            name=self._cells[_KEY].removesuffix("*"),
            state=_STATES.get(self._cells.get("AVAIL", "").lower()),
            max_time_seconds=self._read("TIMELIMIT", _time),
            min_nodes=least if least is not None and least > 1 else None,
            max_nodes=most,
            nodes=nodes if there else None,
            max_cpus_per_node=min(cpus, default=None),
            max_memory_bytes_per_node=self._read("MEMORY", _memory) if there else None,
            max_gpus_per_node=self._read("GRES", _gpus) if there else None,
            whole_nodes=shared.startswith("EXCLUSIVE") if shared else None,
        )

    def _read(self, column: str, read: Callable[[str], ValueT | None]) -> ValueT | None:
        cell = self._cells.get(column, "")
        try:
            return read(cell) if cell else None
        except ValueError as error:
            self.warnings.append(ParseWarning(self._number, self._line, f"{column}: {error}"))
            return None

    def _job_size(self) -> tuple[int | None, int | None]:
        """Returns how many nodes a job must and may have: `1-infinite`, `2-16`, or `4` for both."""
        cell = self._cells.get("JOB_SIZE", "")
        least, dash, most = cell.partition("-")
        if not dash or cell in _NO_LIMIT:
            most = least
        try:
            return _limit(least), _limit(most)
        except ValueError as error:
            self.warnings.append(ParseWarning(self._number, self._line, f"JOB_SIZE: {error}"))
            return None, None


def _limit(cell: str) -> int | None:
    return None if cell.lower() in _NO_LIMIT else count(cell)


def _time(cell: str) -> float | None:
    return None if cell.lower() in _NO_LIMIT else duration(cell)


def _largest(cell: str) -> int | None:
    """Without `--exact` it is the smallest node's number, and a plus sign says that others have more."""
    return None if cell.endswith("+") else count(cell)


def _memory(cell: str) -> int | None:
    if cell.endswith("+"):
        return None
    number = integer(cell)
    return None if number is None else number * _MIB


def _gpus(cell: str) -> int | None:
    """Counts the GPUs of `gpu:a100:4(S:0-1),gpu:v100:2,nvme:800`; a node without any prints `(null)`."""
    if cell.lower() in _NO_LIMIT:
        return None
    total = 0
    for entry in re.sub(r"\([^()]*\)", "", cell).split(","):
        words = entry.split(":")
        if words[0] == "gpu":
            number = integer(words[-1]) if len(words) > 1 and words[-1][:1].isdigit() else 1
            if number is None:
                raise ValueError("not a number of GPUs")
            total += number
    return total


def _together(rows: list[PartitionRecord]) -> PartitionRecord:
    """Joins the kinds of node of a partition; what isn't known of one kind isn't known of the partition."""
    first = rows[0]
    return PartitionRecord(
        name=first.name,
        state=first.state,
        max_time_seconds=first.max_time_seconds,
        min_nodes=first.min_nodes,
        max_nodes=first.max_nodes,
        nodes=_of_all(sum, (row.nodes for row in rows)),
        max_cpus_per_node=_of_all(max, (row.max_cpus_per_node for row in rows)),
        max_memory_bytes_per_node=_of_all(max, (row.max_memory_bytes_per_node for row in rows)),
        max_gpus_per_node=_of_all(max, (row.max_gpus_per_node for row in rows)),
        whole_nodes=first.whole_nodes,
    )


def _of_all(join: Callable[[list[int]], int], values: Iterable[int | None]) -> int | None:
    known = list(values)
    whole = [value for value in known if value is not None]
    return join(whole) if len(whole) == len(known) else None
