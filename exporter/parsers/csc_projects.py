"""What `csc-projects` prints of projects' balances at CSC."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import UTC, tzinfo

from exporter.errors import InputError
from exporter.parsers.balances import NOT_GRANTED, amount, decimals, local_time
from exporter.parsers.text import first_line, is_around, is_json, lines_of, quoted
from exporter.records import CscAllocationRecord, Parsed, ParseWarning

KIND = "csc-projects"

_PROJECT = re.compile(r"Project:\s+([A-Za-z][A-Za-z0-9_-]*)(?:\s+Owner:(?:\s.*)?)?\Z")
_DATES = re.compile(r"Start:\s+(\S+)\s+End:\s+(\S+)(?:\s+Status:\s+(\S.*))?\Z")
_TITLE = re.compile(r'Title:\s+"?(.*?)"?\Z')
_GRANT = re.compile(r"Latest resource grant:\s+(\S+)\Z")
_UPDATED = re.compile(r"Project info updated:\s+(\S.*)\Z")
_UNITS = re.compile(r"(CPU|GPU|Storage|Cloud|QPU) BU:\s+(\S+)\s+(\S+)\s+(\S+)\Z")
_HEADER = re.compile(r"Billing units\s+Budget\s+Used\s+Remain\Z")
_BETWEEN = re.compile(r"-{30,}\Z")
"""The rule between projects: what follows belongs to no project until the next is named."""
_NEVER = frozenset({"N/A", "n/a", "None", "-"})


@dataclass(slots=True)
class _Project:
    """A project that is being read, the number of its line, and of its table in the text."""

    name: str
    number: int
    table: int
    about: dict[str, str | int | None] = field(default_factory=dict)
    rows: dict[str, tuple[float | None, float | None]] = field(default_factory=dict)
    spoilt: set[str] = field(default_factory=set)

    @property
    def said(self) -> tuple[object, ...]:
        """All that is said of it."""
        return self.about, self.rows, self.spoilt


def parse(text: str, *, timezone: tzinfo = UTC) -> Parsed[CscAllocationRecord]:
    """Read what `csc-projects` prints: one record a project and kind of billing units.

    Dates are midnight of the day in the site's zone. `N/A` in place of a budget is None. A row whose three numbers do
    not fit each other is a warning and no record; so is a project that one table has twice and differently.

    Args:
        text: the output, with or without what was printed around it.
        timezone: the zone of the site's local times.

    Raises:
        InputError: the text names no project; quotes its first line.
    """
    lines = lines_of(text)
    reader = _Reader(lines, timezone)
    for number, raw in enumerate(lines, 1):
        reader.take(number, raw.strip())
    parsed = reader.parsed()
    if not parsed.records and not any(project.spoilt for project in reader.projects):
        _refuse(lines, reader.projects)
    return parsed


class _Reader:
    """Puts lines together into projects."""

    def __init__(self, lines: list[str], timezone: tzinfo) -> None:
        self.projects: list[_Project] = []
        self._lines = lines
        self._timezone = timezone
        self._updated: int | None = None
        self._warnings: list[ParseWarning] = []
        self._orphaned = False
        self._table = 0

    def take(self, number: int, line: str) -> None:
        """Read the next line."""
        if (match := _PROJECT.match(line)) is not None:
            self.projects.append(_Project(match[1], number, self._table))
            self._orphaned = False
        elif line.startswith("Project:"):
            self._warn(number, "not a project: whose lines follow is not known")
            self._orphaned = True
        elif (match := _UPDATED.match(line)) is not None:
            self._updated = self._time(number, match[1])
            self._table += 1
        elif _BETWEEN.match(line):
            self._orphaned = True
        elif is_around(line) or _HEADER.match(line):
            pass
        elif self.projects:
            problem = (
                "of a project that is not known" if self._orphaned else self._about(self.projects[-1], line, number)
            )
            if problem is not None:
                self._warn(number, problem)
        elif _UNITS.match(line):
            self._warn(number, "a row before any project")

    def _about(self, project: _Project, line: str, number: int) -> str | None:
        """Read a line on a project; returns what is wrong with it."""
        if (match := _UNITS.match(line)) is not None:
            return _row(project, match[1].lower(), match.groups()[1:])
        if (match := _DATES.match(line)) is not None:
            found: dict[str, str | int | None] = {
                "start_time": self._time(number, match[1]),
                "end_time": self._time(number, match[2]),
                "status": match[3],
            }
        elif (match := _TITLE.match(line)) is not None:
            found = {"title": match[1] or None}
        elif (match := _GRANT.match(line)) is not None:
            found = {"last_grant_time": self._time(number, match[1])}
        else:
            return "not a line of csc-projects"
        if any(key in project.about and project.about[key] != value for key, value in found.items()):
            project.about.update(dict.fromkeys(found))
            self._orphaned = True
            return "printed twice, and not the same"
        project.about.update(found)
        return None

    def _time(self, number: int, text: str) -> int | None:
        if text in _NEVER:
            return None
        try:
            time = local_time(text, self._timezone)
        except ValueError as error:
            self._warn(number, f"{text}: {error}")
            return None
        if time is None:
            self._warn(number, "a local time that occurs twice")
        return time

    def _warn(self, number: int, reason: str) -> None:
        self._warnings.append(ParseWarning(number, self._lines[number - 1], reason))

    def parsed(self) -> Parsed[CscAllocationRecord]:
        """The records of the lines taken; of a project printed again in a later table the last one's."""
        records: dict[tuple[str, str], CscAllocationRecord] = {}
        for project in self._one_each():
            if not project.rows and not project.spoilt:
                self._warn(project.number, "a project without a balance")
            for kind, (used, granted) in project.rows.items():
                records[project.name, kind] = replace(
                    CscAllocationRecord("csc", project.name, kind, "BU", used, granted, updated_time=self._updated),
                    remaining=None if used is None or granted is None else granted - used,
                    **project.about,  # type: ignore[arg-type]  # fields by name
                )
        return Parsed(tuple(records.values()), tuple(sorted(self._warnings, key=lambda each: each.line)))

    def _one_each(self) -> list[_Project]:
        """The projects, without those that one table has twice and differently: one of the two is another's."""
        told: dict[tuple[int, str], list[_Project]] = {}
        for project in self.projects:
            told.setdefault((project.table, project.name), []).append(project)
        doubtful = [each for each in told.values() if any(one.said != each[0].said for one in each)]
        for first, *others in doubtful:
            for project in (first, *others):
                self._warn(project.number, "a project that is there twice, and not the same")
                project.spoilt.update(project.rows)
        left_out = {id(project) for each in doubtful for project in each}
        return [project for project in self.projects if id(project) not in left_out]


def _row(project: _Project, kind: str, cells: tuple[str | None, ...]) -> str | None:
    """Read budget, used and what remains of one kind; returns what is wrong."""
    problem = None
    read: tuple[float | None, float | None] = (None, None)
    try:
        read = _balance(*(cell or "" for cell in cells))
    except ValueError as error:
        problem = str(error)
    if kind in project.rows and project.rows[kind] != read:
        problem = "printed twice, and not the same"
    if problem is None and kind not in project.spoilt:
        project.rows[kind] = read
        return None
    project.rows.pop(kind, None)
    project.spoilt.add(kind)
    return problem or "printed twice, and not the same"


def _balance(*cells: str) -> tuple[float | None, float | None]:
    """Used and granted of a row's three numbers, which must fit each other but for what rounding took from each."""
    budget, used, left = (None if cell in NOT_GRANTED else amount(cell) for cell in cells)
    if used is not None and used < 0:
        raise ValueError("less than nothing used")
    if budget is not None and used is not None and left is not None:
        last_digit = 10.0 ** -min(decimals(cell) for cell in cells)
        if abs(budget - used - left) > last_digit * 1.001:
            raise ValueError("what remains is not the budget less what was used")
    return used, budget


def _refuse(lines: list[str], projects: list[_Project]) -> None:
    first = first_line(lines)
    if first is None:
        raise InputError("not what csc-projects prints: the text is empty")
    if projects:
        raise InputError(
            f"not what csc-projects prints: no balance of {quoted(projects[0].name)}; it begins {quoted(first)}"
        )
    if is_json(lines):
        raise InputError(f"not what csc-projects prints but JSON; it begins {quoted(first)}")
    raise InputError(f"not what csc-projects prints: no line 'Project: …'; it begins {quoted(first)}")
