"""What `sacct -P` prints as a rule: a header, then nothing but whole rows, those of a job one after another.

Such a text can be read row by row and each job be told as soon as the next one begins. Whatever else may come - a line
that is no row, a broken row, a second table, a job that comes again - is left to the reader of tables, which knows what
to make of it and needs the whole text for that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from exporter.parsers.ids import JobId, job_id
from exporter.parsers.layout import Delimited, Dialect, find_layout
from exporter.parsers.table import Row


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

    def __iter__(self) -> Iterator[list[tuple[JobId, Row]]]:
        """Give the rows of each job, with their ids.

        Raises:
            NotPlainError: the text isn't plain; what was given of it before may be wrong.
        """
        columns, delimiter, ends, id_name = self.columns, self._layout.delimiter, self._layout.ends, self._id_name
        width = len(columns) + ends
        at = columns.index(id_name.lower())
        seen: set[str] = set()
        of_job: list[tuple[JobId, Row]] = []
        job = ""
        for number, line in enumerate(self._lines, 2):
            cells = line.split(delimiter)
            if len(cells) != width or id_name in line or (ends and cells[-1]):
                if line or any(self._lines):  # anything but the end
                    raise NotPlainError
                break
            identity = job_id(cells[at])
            if identity is None:
                raise NotPlainError
            if identity.job != job:
                if of_job:
                    yield of_job
                job, of_job = identity.job, []
                if job in seen:
                    raise NotPlainError
                seen.add(job)
            of_job.append((identity, Row(number, line, dict(zip(columns, cells, strict=False)))))
        if of_job:
            yield of_job
