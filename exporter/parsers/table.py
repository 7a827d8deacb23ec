"""Tables as Slurm's tools print them: a header, then rows, delimited or in columns of fixed width.

Reading is led by the header. Text before it (prompts, warnings of `srun` or of the locale) is passed over; a line
after it that is no row is handed on as a stray, in its place between the rows, since it may have been one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from exporter.errors import InputError
from exporter.parsers.ids import is_fragment
from exporter.parsers.layout import Delimited, Dialect, Fixed, Span, find_layout, is_foreign_header
from exporter.parsers.text import NOISE, first_line, lines_of, quoted

_LONGEST_BREAK = 64
"""So many lines at most are looked at for the rest of a row whose text contains line breaks."""
_FEWEST_TELLING = 3
"""A line before the header with fewer cells than this may be anything."""


class Row(NamedTuple):
    """A row of a table.

    Attributes:
        line: 1-based number of its first line.
        text: the line as it came.
        cells: column to cell; columns in lower case.
        cut: columns whose cell fills its width, so that its end may be missing.
        joined: whether surplus delimiters were taken into the name. Where another cell is then not understood, the
            surplus was elsewhere.
    """

    line: int
    text: str
    cells: dict[str, str]
    cut: frozenset[str] = frozenset()
    joined: bool = False


@dataclass(frozen=True, slots=True)
class Stray:
    """A line within a table that is no row.

    Attributes:
        line: 1-based number.
        text: the line as it came.
        reason: why it is no row.
        row_like: whether it may have been a row before something garbled it.
        id_text: the id in it, where it has one.
    """

    line: int
    text: str
    reason: str
    row_like: bool = True
    id_text: str = ""


@dataclass(slots=True)
class Table:
    """A table.

    Attributes:
        columns: those of the header, in lower case.
        fixed: whether its columns have fixed widths.
        items: rows and strays in the order of the text.
    """

    columns: tuple[str, ...]
    fixed: bool = False
    items: list[Row | Stray] = field(default_factory=list)


def read_tables(text: str, dialect: Dialect, *, tool: str) -> list[Table]:
    """Read every table of a dialect in a text; a table of another kind after the first is passed over.

    Raises:
        InputError: no line is the tool's header; quotes the first line that is not empty.
    """
    lines = lines_of(text)
    tables: list[Table] = []
    position = 0
    while position < len(lines):
        layout = find_layout(lines, position, dialect)
        if layout is None:
            position += 1
            continue
        table = Table(layout.columns, fixed=isinstance(layout, Fixed))
        if not tables and isinstance(layout, Delimited):
            table.items.extend(_DelimitedBody(lines, layout, dialect).before_header(position))
        tables.append(table)
        position = _read_body(lines, position + layout.header_lines, layout, dialect, table)
    if not tables:
        first = first_line(lines)
        if first is None:
            raise InputError(f"not what {tool} prints: the text is empty")
        raise InputError(f"not what {tool} prints: no header with {dialect.id_name}; it begins {quoted(first)}")
    return tables


def _read_body(lines: Sequence[str], position: int, layout: Delimited | Fixed, dialect: Dialect, table: Table) -> int:
    """Read rows up to the next header, whose position is returned."""
    reader: _DelimitedBody | _FixedBody = (
        _DelimitedBody(lines, layout, dialect) if isinstance(layout, Delimited) else _FixedBody(lines, layout, dialect)
    )
    while position < len(lines):
        if not lines[position].strip():
            position += 1
            continue
        if find_layout(lines, position, dialect) is not None:
            return position
        item, taken = reader.read(position)
        if isinstance(item, Stray) and is_foreign_header(lines, position, dialect):
            position += 1
            while position < len(lines) and find_layout(lines, position, dialect) is None:
                position += 1
            return position
        table.items.append(item)
        position += taken
    return position


class _FixedBody:
    """Rows in columns of fixed width."""

    def __init__(self, lines: Sequence[str], layout: Fixed, dialect: Dialect) -> None:
        self._lines = lines
        self._layout = layout
        self._dialect = dialect

    def read(self, position: int) -> tuple[Row | Stray, int]:
        line = self._lines[position]
        for cells, spans in self._readings(line):
            cut = {
                column
                for column, cell, span in zip(self._layout.columns, cells, spans, strict=True)
                if self._is_cut(cell, span)
            }
            row = _as_dict(self._layout.columns, cells)
            column = self._dialect.id_name.lower()
            if self._dialect.is_id(row[column], column in cut):
                return Row(position + 1, line, row, frozenset(cut)), 1
        reason = "not a row: its cells are not in the columns of the header"
        return Stray(position + 1, line, reason, row_like=len(line.split()) > 1 and not NOISE.match(line)), 1

    def _readings(self, line: str) -> Iterator[tuple[list[str], tuple[Span, ...]]]:
        """The ways to cut a line into cells: Slurm counts widths in bytes, who lays out its text anew in characters.

        A character that Slurm has cut in its middle comes as a replacement character, which stands for one byte.
        """
        as_bytes = line
        if not line.isascii():
            as_bytes = line.replace("\ufffd", "?").encode("utf-8", "replace").decode("latin-1")
        for raw in dict.fromkeys((as_bytes, line)):
            for spans in self._layout.arrangements:
                cells = _slice(raw, spans)
                if cells is not None and raw is line:
                    yield cells, spans
                elif cells is not None:
                    yield [cell.encode("latin-1").decode("utf-8", "replace") for cell in cells], spans

    def _is_cut(self, cell: str, span: Span) -> bool:
        if self._dialect.ruled:
            return cell.endswith("+") and len(cell.encode("utf-8", "replace")) >= span.width
        return span.end is not None and len(cell.encode("utf-8", "replace")) >= span.width


def _slice(raw: str, spans: Sequence[Span]) -> list[str] | None:
    """Cut a line into cells; None where a cell reaches over its column's edge or floats in its middle."""
    cells = []
    reached = 0
    for span in spans:
        cell = raw[span.start : span.end]
        stripped = cell.strip(" ")
        if raw[reached : span.start].strip(" ") or (stripped and not _touches(cell, span)):
            return None
        reached = len(raw) if span.end is None else span.end
        cells.append(stripped)
    return None if raw[reached:].strip(" ") else cells


def _touches(cell: str, span: Span) -> bool:
    """Whether a cell that is not blank is at an edge of its column at which its kind is printed."""
    if span.left and cell[0] != " ":
        return True
    if not span.right:
        return False
    return len(cell.rstrip(" ")) == (span.width if span.end is None else span.end - span.start)


class _DelimitedBody:
    """Rows set apart by a delimiter, which Slurm never escapes in names, nor does it line breaks."""

    def __init__(self, lines: Sequence[str], layout: Delimited, dialect: Dialect) -> None:
        self._lines = lines
        self._layout = layout
        self._dialect = dialect
        self._width = len(layout.columns)
        self._id_at = layout.columns.index(dialect.id_name.lower())
        self._named_last = layout.columns[-1] == dialect.name_column
        self._may_join = self._named_last and all(column in dialect.typed for column in layout.columns[:-1])
        self._padded = dialect.pads or bool(layout.padded)
        self._suspect = -1

    def read(self, position: int) -> tuple[Row | Stray, int]:
        cells, taken, joined = self._gathered(position)
        if len(cells) != self._width:
            if self._is_fragment(cells):
                self._suspect = position + 1
            return self._stray(position, cells, f"{len(cells)} cells where the header has {self._width}"), 1
        if not self._has_id(cells):
            return self._stray(position, cells, f"no id: {quoted(cells[self._id_at])}"), 1
        if position == self._suspect:
            return self._stray(position, cells, "may be the rest of the line before it"), 1
        if self._named_last:
            cells, taken = self._with_whole_name(position, cells, taken)
        text = "\n".join(self._lines[position : position + taken])
        row = _as_dict(self._layout.columns, cells)
        for column in row if self._padded else ():
            if column != self._dialect.name_column or column in self._layout.padded:
                row[column] = row[column].strip(" ")
        cut = frozenset(column for column, width in self._layout.padded.items() if len(row[column]) >= width)
        return Row(position + 1, text, row, cut, joined), taken

    def _gathered(self, position: int) -> tuple[list[str], int, bool]:
        """The cells of a row, how many lines it takes, and whether surplus ones were joined into its name."""
        cells = self._split(self._lines[position])
        if len(cells) > self._width and self._may_join:
            name = self._layout.delimiter.join(cells[self._width - 1 :])
            return [*cells[: self._width - 1], name], 1, True
        if len(cells) < self._width and (whole := self._whole(position, cells)) is not None:
            return *whole, False
        return cells, 1, False

    def before_header(self, header: int) -> Iterator[Stray]:
        """Lines before the header that are rows by their looks; whether its columns are theirs is not known."""
        if self._width < _FEWEST_TELLING:
            return
        for position in range(header):
            if self._is_row(position):
                yield self._stray(position, self._split(self._lines[position]), "a row before the header")

    def _stray(self, position: int, cells: Sequence[str], reason: str) -> Stray:
        row_like = len(cells) > 1 or self._is_fragment(cells)
        id_text = self._id_of(cells) if self._has_id(cells) else ""
        return Stray(position + 1, self._lines[position], reason, row_like, id_text)

    def _split(self, line: str) -> list[str]:
        if not self._layout.delimiter:
            return [line.strip(" ")]
        cells = line.split(self._layout.delimiter)
        if self._layout.ends and (len(cells) <= self._width or not cells[-1].strip(" ")):
            del cells[-1]  # empty, or not ended: its end is missing
        return cells

    def _has_id(self, cells: Sequence[str]) -> bool:
        return len(cells) > self._id_at and self._dialect.is_id(self._id_of(cells), False)

    def _id_of(self, cells: Sequence[str]) -> str:
        return cells[self._id_at].strip(" ") if self._padded else cells[self._id_at]

    def _is_row(self, position: int) -> bool:
        if position >= len(self._lines):
            return False
        cells = self._split(self._lines[position])
        whole = len(cells) == self._width or (len(cells) > self._width and self._may_join)
        return whole and self._has_id(cells)

    def _begins_row(self, cells: Sequence[str]) -> bool:
        return len(cells) > 1 and self._has_id(cells)

    def _is_fragment(self, cells: Sequence[str]) -> bool:
        return len(cells) == 1 < self._width and is_fragment(cells[0].strip(" "))

    def _whole(self, position: int, cells: list[str]) -> tuple[list[str], int] | None:
        """A row that line breaks in a text cell have broken: its cells, and how many lines it takes."""
        if not self._begins_row(cells):
            return None
        text = self._lines[position]
        for taken in range(2, _LONGEST_BREAK):
            at = position + taken - 1
            if at >= len(self._lines) or self._begins_row(self._split(self._lines[at])):
                return None
            text += "\n" + self._lines[at]
            cells = self._split(text)
            if len(cells) > self._width:
                return None
            if len(cells) == self._width:
                broken = (column for column, cell in zip(self._layout.columns, cells, strict=True) if "\n" in cell)
                return None if any(column in self._dialect.typed for column in broken) else (cells, taken)
        return None

    def _with_whole_name(self, position: int, cells: list[str], taken: int) -> tuple[list[str], int]:
        """Take the lines after a row into its name, where they can be nothing else.

        That is so between two rows for lines without a delimiter. Where such lines end the table they may be anything
        that was printed after it: they stay, and the name is not known.
        """
        more: list[str] = []
        at = position + taken
        next_begins = False
        while at < len(self._lines) and len(more) < _LONGEST_BREAK:
            line = self._lines[at]
            cells_there = self._split(line)
            next_begins = self._begins_row(cells_there)
            if len(cells_there) > 1 or NOISE.match(line) or find_layout(self._lines, at, self._dialect):
                break
            more.append(line)
            at += 1
        if not any(line.strip() for line in more):
            return cells, taken
        if next_begins and not self._is_fragment(self._split(more[-1])):
            return [*cells[:-1], "\n".join([cells[-1], *more])], at - position
        return [*cells[:-1], ""], taken


def _as_dict(columns: Sequence[str], cells: Sequence[str]) -> dict[str, str]:
    """Column to cell; of a column printed twice the first."""
    return dict(zip(reversed(columns), reversed(cells), strict=True))
