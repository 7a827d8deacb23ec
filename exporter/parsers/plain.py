"""What `sacct -P` prints as a rule: a header, then nothing but whole rows, those of a job one after another.

Such a text can be read row by row and each job be told as soon as the next one begins. Whatever else may come - a line
that is no row, a broken row, a second table, a job that comes again - is left to the reader of tables, which knows what
to make of it and needs the whole text for that.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from itertools import pairwise

from exporter.parsers.ids import JobId, job_id
from exporter.parsers.layout import Delimited, Dialect, find_layout
from exporter.parsers.table import Row

_USUAL_STEPS = frozenset({"batch", "extern", "0"})


class NotPlainError(Exception):
    """Something in the text needs a closer look."""


class PlainRows:
    """The rows of a plain text.

    Args:
        lines: the text's lines, without their ends.
        dialect: how the tool heads its tables.

    Raises:
        NotPlainError: the text doesn't begin with a plain header.
    """

    def __init__(self, lines: Iterable[str], dialect: Dialect) -> None:
        self._lines = iter(lines)
        self._id_name = dialect.id_name
        layout = find_layout([next(self._lines, "")], 0, dialect)
        if not isinstance(layout, Delimited) or not layout.delimiter or layout.padded or dialect.pads:
            raise NotPlainError
        if len(set(layout.columns)) < len(layout.columns):
            raise NotPlainError
        self._layout = layout
        self.columns = layout.columns

    def __iter__(self) -> Iterator[tuple[JobId, Row]]:
        """Give each row with its id.

        Raises:
            NotPlainError: the text isn't plain; what was given of it before may be wrong.
        """
        columns = self.columns
        for number, line, cells, identity in self._looked_at():
            yield identity, Row(number, line, dict(zip(columns, cells, strict=False)))

    def check(self) -> None:
        """Look at every row.

        Raises:
            NotPlainError: the text isn't plain.
        """
        for _ in self._looked_at():
            pass

    def _looked_at(self) -> Iterator[tuple[int, str, list[str], JobId]]:
        delimiter, ends, id_name = self._layout.delimiter, self._layout.ends, self._id_name
        width = len(self.columns) + ends
        at = self.columns.index(id_name.lower())
        jobs, highest, in_order = array("q"), -1, True
        before, steps = JobId("", "", None, is_step=False), "\n"  # which begins no cell
        for number, line in enumerate(self._lines, 2):
            cells = line.split(delimiter)
            if len(cells) != width or id_name in line or (ends and cells[-1]):
                if line or any(self._lines):  # anything but the end
                    raise NotPlainError
                break
            cell = cells[at]
            if cell.startswith(steps) and cell[len(steps) :] in _USUAL_STEPS:
                yield number, line, cells, JobId(cell, before.job, before.array, True)
                continue
            identity = job_id(cell)
            if identity is None:
                raise NotPlainError
            if identity.job != before.job:
                before, steps = identity, f"{identity.job}."
                jobs.append(hash(identity.job))
                job_number = int(identity.job) if identity.job.isdecimal() else -1
                in_order, highest = in_order and job_number > highest, job_number
            yield number, line, cells, identity
        if not in_order and any(one == next_one for one, next_one in pairwise(sorted(jobs))):
            raise NotPlainError  # a job comes again, after others
