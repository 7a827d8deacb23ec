"""Where the columns of a table are: what a header line tells of its delimiter or its widths."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

_RULE = re.compile(r"\s*-+(?: +-+)*\s*\Z")
_NOT_WORD = re.compile(r"[^A-Za-z0-9_]+")
_LONGEST_DELIMITER = 16


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one of Slurm's tools heads its tables.

    Attributes:
        id_name: the column of ids as the tool spells it; a header has it, and no table is of use without.
        known: every column known, in lower case; others are read over.
        typed: those whose values have neither delimiters nor line breaks in them.
        name_column: the column of job names, which may have both.
        name_like: what a column's name looks like.
        is_id: whether a cell is an id; the second argument says whether the column's width may have cut it.
        ruled: whether tables of fixed width have a rule of dashes below the header.
        pads: whether cells of a delimited table may be padded though the header is not (`squeue -o "%.5D|%.4C"`).
    """

    id_name: str
    known: frozenset[str]
    typed: frozenset[str]
    name_column: str
    name_like: re.Pattern[str]
    is_id: Callable[[str, bool], bool]
    ruled: bool
    pads: bool


@dataclass(frozen=True, slots=True)
class Delimited:
    """A table whose cells are set apart by a delimiter.

    Attributes:
        columns: in lower case.
        delimiter: empty for a table of one column.
        ends: whether each line ends in a delimiter (`sacct -p`).
        padded: columns whose header is padded, and the width that then cuts their cells.
    """

    columns: tuple[str, ...]
    delimiter: str
    ends: bool = False
    padded: Mapping[str, int] = field(default_factory=dict)
    header_lines: int = 1


@dataclass(frozen=True, slots=True)
class Span:
    """Where a column is, in bytes; cells touch its left or right edge. `end` None: to the end of the line."""

    start: int
    end: int | None
    left: bool
    right: bool
    width: int
    """From so many bytes on a cell may have been cut."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """A table of columns with fixed widths; each arrangement is one way to lay the columns out."""

    columns: tuple[str, ...]
    arrangements: tuple[tuple[Span, ...], ...]
    header_lines: int


def find_layout(lines: Sequence[str], position: int, dialect: Dialect) -> Delimited | Fixed | None:
    """Read the line at a position as a dialect's header; None where it is none."""
    line = lines[position]
    if dialect.id_name not in line:
        return None
    if dialect.ruled and position + 1 < len(lines) and _RULE.match(lines[position + 1]):
        ruled = _ruled(line, lines[position + 1], dialect)
        if ruled is not None:
            return ruled
    delimited = _delimited(line, dialect)
    return delimited if delimited is not None or dialect.ruled else _justified(line, dialect)


def is_foreign_header(lines: Sequence[str], position: int, dialect: Dialect) -> bool:
    """Whether a line heads a table that has no ids: known columns only, or a rule below it."""
    line = lines[position]
    if position + 1 < len(lines) and _RULE.match(lines[position + 1]):
        return all(dialect.name_like.match(name) for name in line.split())
    names = [name for name in re.split(r"[^A-Za-z0-9_]+", line) if name]
    return len(names) > 1 and all(name.lower() in dialect.known for name in names)


def _ruled(line: str, rule: str, dialect: Dialect) -> Fixed | None:
    names = line.split()
    runs = [match.span() for match in re.finditer("-+", rule)]
    if len(names) != len(runs) or dialect.id_name not in names:
        return None
    if not all(dialect.name_like.match(name) for name in names):
        return None
    columns = tuple(_whole_name(name, end - start, dialect) for name, (start, end) in zip(names, runs, strict=True))
    spans = tuple(Span(start, end, left=True, right=True, width=end - start) for start, end in runs)
    return Fixed(columns, (spans,), header_lines=2)


def _whole_name(name: str, width: int, dialect: Dialect) -> str:
    """Complete a column's name that its own width has cut, where only one fits."""
    name = name.lower()
    if name in dialect.known or len(name) < width:
        return name
    fitting = [known for known in dialect.known if known.startswith(name)]
    return fitting[0] if len(fitting) == 1 else name


def _justified(line: str, dialect: Dialect) -> Fixed | None:
    """Lay out columns by the header alone.

    Which columns are justified to the right the header does not tell. squeue's own formats begin with such columns and
    end with ones justified to the left, so one arrangement for each place where that may change.
    """
    found = list(re.finditer(r"\S+", line))
    names = [match[0] for match in found]
    if dialect.id_name not in names or not all(dialect.name_like.match(name) for name in names):
        return None
    last = len(found) - 1
    arrangements = []
    for first_left in range(last, -1, -1):
        spans = [_right(found, number) for number in range(first_left)]
        spans += [_left(found, number) for number in range(first_left, last)]
        spans.append(_right(found, last) if first_left == last else _left(found, last))
        arrangements.append(tuple(spans))
    return Fixed(tuple(name.lower() for name in names), tuple(arrangements), header_lines=1)


def _right(found: Sequence[re.Match[str]], number: int) -> Span:
    """A column that ends where its name does; the last one may also begin where it begins, and be of any length."""
    start = found[number - 1].end() + 1 if number else 0
    end = found[number].end()
    if number == len(found) - 1:
        return Span(start, None, left=True, right=True, width=end - start)
    return Span(start, end, left=False, right=True, width=end - start)


def _left(found: Sequence[re.Match[str]], number: int) -> Span:
    """A column that begins where its name does; `-O` leaves no blank between a full one and the next."""
    start = found[number].start()
    if number == len(found) - 1:
        return Span(start, None, left=True, right=False, width=0)
    end = found[number + 1].start()
    return Span(start, end, left=True, right=False, width=end - start - 1)


def _delimited(line: str, dialect: Dialect) -> Delimited | None:
    if line.strip() == dialect.id_name:
        return Delimited((dialect.id_name.lower(),), "")
    found = None
    for delimiter in _delimiters(line, dialect):
        layout = _cut_at(line, delimiter, dialect)
        if layout is None:
            continue
        unknown = [column for column in layout.columns if column not in dialect.known]
        if len(unknown) == len(set(unknown)):
            return layout
        # A column that is not known and comes twice is rather a part of the delimiter.
        found = found or layout
    return found


def _cut_at(line: str, delimiter: str, dialect: Dialect) -> Delimited | None:
    cells = line.split(delimiter)
    ends = len(cells) > 1 and not cells[-1].strip(" ")
    if ends:
        del cells[-1]
    names = [cell.strip(" ") for cell in cells]
    if dialect.id_name not in names or not all(dialect.name_like.match(name) for name in names):
        return None
    if len(names) == 1 and not ends:
        return None
    padded = {name.lower(): len(cell) for name, cell in zip(names, cells, strict=True) if len(cell) > len(name)}
    return Delimited(tuple(name.lower() for name in names), delimiter, ends, padded)


def _delimiters(line: str, dialect: Dialect) -> Iterator[str]:
    """What may be the delimiter: what stands next to the column of ids, longest first."""
    word = re.search(rf"(?<![A-Za-z0-9_]){re.escape(dialect.id_name)}(?![A-Za-z0-9_])", line)
    if word is not None:
        after = _NOT_WORD.match(line, word.end(), word.end() + _LONGEST_DELIMITER)
        before = _NOT_WORD.match(line[max(0, word.start() - _LONGEST_DELIMITER) : word.start()][::-1])
        for run, take in ((after[0] if after else "", _heads), (before[0][::-1] if before else "", _tails)):
            if run == " " and dialect.ruled:
                yield run
            if run.strip(" ") and "  " not in run:
                yield run
            yield from take(run.strip(" "))
    yield from _lettered_delimiters(line, dialect)


def _heads(run: str) -> Iterator[str]:
    return (run[:length] for length in range(len(run), 0, -1))


def _tails(run: str) -> Iterator[str]:
    return (run[-length:] for length in range(len(run), 0, -1))


def _lettered_delimiters(line: str, dialect: Dialect) -> Iterator[str]:
    """A delimiter of letters or digits: one that leaves nothing but known columns."""
    lower = line.lower()
    first = max((known for known in dialect.known if lower.startswith(known)), key=len, default="")
    for length in range(1, _LONGEST_DELIMITER + 1 if first else 0):
        delimiter = line[len(first) : len(first) + length]
        if delimiter.strip() and _all_known(line.split(delimiter), dialect):
            yield delimiter


def _all_known(cells: Sequence[str], dialect: Dialect) -> bool:
    whole = cells if cells[-1] else cells[:-1]
    return len(whole) > 1 and all(cell.lower() in dialect.known for cell in whole)
