"""Tables of disk areas with capacity and number of files, used and allowed, as sites print them on CSC's systems."""

from __future__ import annotations

import re
from decimal import Decimal

from exporter.errors import InputError
from exporter.parsers.text import first_line, is_around, is_json, lines_of, quoted
from exporter.records import Parsed, ParseWarning, WorkspaceRecord

_ROW = re.compile(r"(/\S+)\s+([^/\s]+)/(\S+)\s+([^/\s]+)/(\S+)(?:\s+(n/a|N/A|-|[1-9][0-9]{0,4}d))?\Z")
_AMOUNT = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?|\.[0-9]{1,6})([kKMGTPE]?)(\*?)\Z")
_NO_LIMIT = frozenset({"-", "n/a", "N/A", "none", "None", "unlimited"})
_PROJECT = re.compile(r"project_[^/\s]+\Z")
_HEAD = re.compile(r'Project:\s+(project_\S+)(?:\s+".*")?\Z')
_KNOWN = re.compile(
    r"Disk area\s+Capacity\s*\(used/max\)|Personal home folder\Z|Quota for your projects:|Status of your allocations:"
    r"|(?:Home folder|Project) is hosted on \S+\Z"
)
_TABLE_AFTER = re.compile(r"Data updated:|Project\s+\|")
"""The balances that lumi-workspaces prints below the areas, which are another parser's."""
_HOMES = ("/users/", "/home/")
_POWER = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}
_LARGEST = 2**63


def read_areas(text: str, *, tool: str) -> Parsed[WorkspaceRecord]:
    """Read a table of disk areas: one record an area.

    Capacities' units are steps of 1024, those of files steps of 1000, in either case. A row that is not understood is a
    warning and no record, and so is a number beyond all quotas. An area printed twice with different values gives both,
    and a warning.

    Args:
        text: the output, with or without what was printed around it; the header may be missing.
        tool: what printed it, for messages.

    Raises:
        InputError: the text has no area; quotes its first line.
    """
    lines = lines_of(text)
    records: dict[WorkspaceRecord, None] = {}
    paths: set[str] = set()
    warnings: list[ParseWarning] = []
    headed = False
    project: str | None = None
    for number, raw in enumerate(lines, 1):
        line = raw.strip()
        if _TABLE_AFTER.match(line):
            break
        if (match := _HEAD.match(line)) is not None:
            project = match[1]
        elif line == "Personal home folder":
            project = None
        elif line.startswith("/"):
            problem = _take(line, project, records, paths)
            if problem is not None:
                warnings.append(ParseWarning(number, raw, problem))
        elif _KNOWN.match(line):
            headed = headed or line.startswith("Disk area")
        elif headed and not is_around(line):
            warnings.append(ParseWarning(number, raw, f"not a line of {tool}"))
    if not records and not headed:
        _refuse(lines, tool, warnings)
    return Parsed(tuple(records), tuple(warnings))


def _take(line: str, project: str | None, records: dict[WorkspaceRecord, None], paths: set[str]) -> str | None:
    """Add a row's record; returns what is wrong with it."""
    try:
        record = _area(line, project)
    except ValueError as error:
        return str(error)
    again = record not in records and record.path in paths
    records[record] = None
    paths.add(record.path)
    return "an area printed already, with other values" if again else None


def _area(line: str, head: str | None) -> WorkspaceRecord:
    """The record of a row.

    Raises:
        ValueError: it is none.
    """
    match = _ROW.match(line)
    if match is None:
        raise ValueError("not path, capacity used/max, files used/max")
    path, *cells, cleanup = match.groups()
    used, used_mark = _amount(cells[0], 1024)
    limit, limit_mark = _amount(cells[1], 1024, limit=True)
    files, files_mark = _amount(cells[2], 1000)
    most_files, most_mark = _amount(cells[3], 1000, limit=True)
    if limit_mark or most_mark:
        raise ValueError("a limit marked as if it were a use")
    marked = used_mark or files_mark
    pairs = [pair for pair in ((used, limit), (files, most_files)) if pair[1] is not None]
    above = any(part is not None and whole is not None and part > whole for part, whole in pairs)
    last = path.rstrip("/").rpartition("/")[2]
    named = last if _PROJECT.match(last) else None
    if named is not None and head is not None and named != head:
        raise ValueError(f"an area of {named} below the heading of {head}")
    return WorkspaceRecord(
        path=path,
        project=named or (None if path.startswith(_HOMES) else head),
        used_bytes=None if used is None else float(used),
        limit_bytes=None if limit is None else float(limit),
        used_files=_whole(files),
        limit_files=_whole(most_files),
        over_quota=True if marked or above else (False if len(pairs) > 1 else None),
        cleanup_days=int(cleanup[:-1]) if cleanup and cleanup.endswith("d") else None,
    )


def _amount(text: str, step: int, *, limit: bool = False) -> tuple[Decimal | None, bool]:
    """Read `7.2T*`, `.97k`, `37` as a number and whether it is marked; None where there is no limit.

    Raises:
        ValueError: it is none of these.
    """
    if limit and text in _NO_LIMIT:
        return None, False
    match = _AMOUNT.match(text)
    if match is None:
        raise ValueError(f"{quoted(text)} is not an amount")
    value = Decimal(match[1]) * step ** _POWER[match[2].upper()]
    if value >= _LARGEST:
        raise ValueError(f"{quoted(text)} is beyond all quotas")
    if limit and value == 0:
        return None, bool(match[3])  # Lustre's way to say that there is no limit
    return value, bool(match[3])


def _whole(value: Decimal | None) -> int | None:
    return None if value is None else round(value)


def _refuse(lines: list[str], tool: str, warnings: list[ParseWarning]) -> None:
    first = first_line(lines)
    if first is None:
        raise InputError(f"not what {tool} prints: the text is empty")
    if is_json(lines):
        raise InputError(f"not what {tool} prints but JSON; it begins {quoted(first)}")
    if warnings:
        raise InputError(f"not what {tool} prints: {warnings[0].reason} in {quoted(warnings[0].text.strip())}")
    raise InputError(f"not what {tool} prints: no disk area; it begins {quoted(first)}")
