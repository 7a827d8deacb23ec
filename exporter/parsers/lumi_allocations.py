"""What `lumi-allocations` prints of projects' balances, and the file per project that it reads them from."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, tzinfo
from typing import Any

from exporter.errors import InputError
from exporter.parsers.balances import amount, decimals, local_time
from exporter.parsers.text import NOISE, first_line, is_around, is_json, lines_of, quoted
from exporter.records import AllocationRecord, Parsed, ParseWarning

KIND = "lumi-allocations"

_PROVIDER = "lumi"
_UPDATED = "Data updated:"
_HEAD = re.compile(r"(CPU|GPU|Storage|QPU) \(used/allocated\)\Z")
_UNITS = {
    "cpu": ("core/hours", "core-hours"),
    "gpu": ("gpu/hours", "gpu-hours"),
    "storage": ("TB/hours", "TB-hours"),
    "qpu": ("qpu/secs", "qpu-seconds"),
}
"""By kind its unit as printed, and in the records."""
_CELL = re.compile(r"([0-9.]+)/([0-9.]+)\s+\(\s*([0-9]+\.[0-9]%|N/A)\) (\S+)\Z")
_PROJECT = re.compile(r"[A-Za-z][A-Za-z0-9_-]*\Z")
_BILLING = {"cpu": "cpu_hours", "gpu": "gpu_hours", "storage": "storage_hours", "qpu": "qpu_secs"}
_ERROR = re.compile(r"\berror\b|\bTraceback\b|not found", re.IGNORECASE)
_LARGEST = 1e15


def parse(text: str, *, timezone: tzinfo = UTC) -> Parsed[AllocationRecord]:
    """Read what `lumi-allocations` prints: one record a project and kind.

    Where nothing is granted (`(N/A)`) what was used stays and the rest is None. The QPU's column is there only where a
    listed project has some. A cell whose percentage is not that of its two numbers is a warning and no record. Of
    several tables the last that names a project tells of it.

    Args:
        text: the output, with or without what was printed around it. A table without rows is no project.
        timezone: the zone of the time in `Data updated:`.

    Raises:
        InputError: there is no table in the text; quotes what the command said, which ends with status 0 all the same.
    """
    lines = lines_of(text)
    warnings: list[ParseWarning] = []
    tables: list[list[AllocationRecord]] = []
    kinds: list[str] | None = None
    updated: int | None = None
    for number, raw in enumerate(lines, 1):
        line = raw.strip()
        found = _kinds(line)
        if found is not None:
            kinds = found
            tables.append([])
        elif line.startswith(_UPDATED):
            try:
                updated = local_time(line.removeprefix(_UPDATED).strip(), timezone)
                if updated is None:
                    warnings.append(ParseWarning(number, raw, "a local time that occurs twice"))
            except ValueError as error:
                updated = None
                warnings.append(ParseWarning(number, raw, str(error)))
        elif kinds is not None and not is_around(line):
            read, problems = _row(line, kinds, updated)
            tables[-1].extend(read)
            if problems:
                warnings.append(ParseWarning(number, raw, "; ".join(problems)))
        elif _ERROR.search(line):
            warnings.append(ParseWarning(number, raw, "lumi-allocations says so"))
    if kinds is None:
        _refuse(lines)
    latest = {(each.project, each.kind): each for table in tables for each in _once(table, warnings, lines)}
    return Parsed(tuple(latest.values()), tuple(sorted(warnings, key=lambda each: each.line)))


def _kinds(line: str) -> list[str] | None:
    """The kinds of a header's columns; None where the line is no header."""
    first, *others = (cell.strip() for cell in line.split("|"))
    heads = [_HEAD.match(cell) for cell in others]
    if first != "Project" or not heads:
        return None
    kinds = [head[1].lower() if head else "" for head in heads]
    return kinds if any(kinds) and len(set(kinds)) == len(kinds) else None


def _row(line: str, kinds: list[str], updated: int | None) -> tuple[list[AllocationRecord], list[str]]:
    project, *cells = (cell.strip() for cell in line.split("|"))
    if len(cells) != len(kinds):
        return [], [f"{len(cells) + 1} cells where the header has {len(kinds) + 1}"]
    if not _PROJECT.match(project):
        return [], ["no project"]
    records, problems = [], []
    for kind, cell in zip(kinds, cells, strict=True):
        if not kind:
            problems.append("a column that is not known")
            continue
        try:
            used, granted = _cell(cell, _UNITS[kind][0])
        except ValueError as error:
            problems.append(f"{kind}: {error}")
            continue
        if used is not None:
            records.append(_record(project, kind, used, granted, updated))
    return records, problems


def _record(
    project: str, kind: str, used: float, granted: float | None, updated: int | None = None
) -> AllocationRecord:
    return AllocationRecord(
        provider=_PROVIDER,
        project=project,
        kind=kind,
        unit=_UNITS[kind][1],
        used=used,
        granted=granted,
        remaining=None if granted is None else granted - used,
        updated_time=updated,
    )


def _cell(cell: str, unit: str) -> tuple[float | None, float | None]:
    """Used and granted; nothing for a cell that is `N/A` alone, as older versions print it."""
    if cell == "N/A":
        return None, None
    match = _CELL.match(cell)
    if match is None:
        raise ValueError("not used/allocated (percent) unit")
    if match[4] != unit:
        raise ValueError(f"not in {unit}")
    used, granted = amount(match[1]), amount(match[2])
    if (match[3] == "N/A") != (granted == 0):
        raise ValueError("N/A that does not fit what is granted")
    if granted == 0:
        return used, None
    percent = float(match[3].removesuffix("%"))
    slack = [0.5 / 10 ** decimals(printed) for printed in (match[1], match[2])]
    least = (used - slack[0]) / (granted + slack[1]) * 100
    most = (used + slack[0]) / max(granted - slack[1], slack[1]) * 100
    if not least - 0.0501 <= percent <= most + 0.0501:
        raise ValueError("the percentage is not that of the two numbers")
    return used, granted


def _once(records: list[AllocationRecord], warnings: list[ParseWarning], lines: list[str]) -> list[AllocationRecord]:
    """The records without those of a project printed twice with different amounts: one of them is garbled."""
    by_name: dict[tuple[str, str], list[AllocationRecord]] = {}
    last = {line.partition("|")[0].strip(): number for number, line in enumerate(lines, 1)}
    for record in records:
        by_name.setdefault((record.project, record.kind), []).append(record)
    kept = []
    for (project, kind), same in by_name.items():
        if all(each == same[0] for each in same):
            kept.append(same[0])
            continue
        number = last[project]
        warnings.append(ParseWarning(number, lines[number - 1], f"{kind}: printed twice, and not the same"))
    return kept


def _refuse(lines: list[str]) -> None:
    first = first_line(lines)
    if first is None:
        raise InputError("not what lumi-allocations prints: the text is empty")
    said = next((line.strip() for line in lines if _ERROR.search(line)), None)
    if said is not None:
        raise InputError(f"no table of allocations: lumi-allocations says {quoted(said)}")
    if is_json(lines):
        raise InputError(f"not what lumi-allocations prints but JSON; it begins {quoted(first)}")
    raise InputError(f"not what lumi-allocations prints: no line 'Project | CPU …'; it begins {quoted(first)}")


def parse_project_json(text: str, project: str) -> Parsed[AllocationRecord]:
    """Read the file that LUMI keeps on a project, from which `lumi-allocations` prints.

    Args:
        text: the content of `/var/lib/project_info/users/PROJECT/PROJECT.json`.
        project: whose file it is.

    Returns:
        One record for each kind that the file has; when it was written the file does not tell. An amount that is no
        number is a warning.

    Raises:
        InputError: it is not such a file, or another project's; quotes its first line.
    """
    lines = lines_of(text)
    first = first_line([line for line in lines if not NOISE.match(line)])
    if first is None:
        raise InputError(f"not the file of {project}: the text is empty")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError(f"not the file of {project}: no JSON; it begins {quoted(first)}") from None
    billing = content.get("billing") if isinstance(content, dict) else None
    if not isinstance(billing, dict):
        raise InputError(f"not the file of {project}: it has no billing; it begins {quoted(first)}")
    name = content.get("name", project)
    if name != project:
        raise InputError(f"not the file of {project} but of {quoted(str(name))}")
    records, warnings = [], []
    for kind, key in _BILLING.items():
        if key not in billing:
            continue
        line = next((number for number, each in enumerate(lines, 1) if f'"{key}"' in each), 1)
        try:
            used, granted = _number(billing[key], "used"), _number(billing[key], "alloc")
        except ValueError as error:
            warnings.append(ParseWarning(line, lines[line - 1], f"{key}: {error}"))
            continue
        records.append(_record(project, kind, used, granted or None))
    return Parsed(tuple(records), tuple(warnings))


def _number(part: Any, key: str) -> float:
    value = part.get(key) if isinstance(part, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _LARGEST:
        raise ValueError(f"{key} is not an amount")
    return float(value)
