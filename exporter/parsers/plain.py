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

    def __iter__(self) -> Iterator[tuple[JobId, Row]]:
        """Give each row with its id.

        Raises:
            NotPlainError: the text isn't plain; what was given of it before may be wrong.
        """
        columns, delimiter, ends = self.columns, self._layout.delimiter, self._layout.ends
        width = len(columns) + ends
        at = columns.index(self._id_name.lower())
        seen: set[str] = set()
        job = ""
        for number, line in enumerate(self._lines, 2):
            cells = line.split(delimiter)
            if len(cells) != width or self._id_name in line or (ends and cells[-1]):
                if line or next(self._lines, ""):
                    raise NotPlainError
                return
            identity = job_id(cells[at])
            if identity is None:
                raise NotPlainError
            if identity.job != job:
                job = identity.job
                if job in seen:
                    raise NotPlainError
                seen.add(job)
            yield identity, Row(number, line, dict(zip(columns, cells, strict=False)))
