"""What `seff` prints, as reports: Slurm's own, and CSC's with billing and GPUs in each of its dialects."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from typing import Any, NoReturn

from exporter.errors import InputError
from exporter.parsers import values
from exporter.parsers.ids import job_id
from exporter.parsers.seff_checks import contradictions
from exporter.parsers.seff_gpus import GpuTables
from exporter.parsers.states import state_word
from exporter.parsers.text import first_line, is_around, is_json, lines_of, quoted
from exporter.records import Parsed, ParseWarning, SeffReport

KIND = "seff"

_CLOCK = r"((?:[1-9][0-9]{0,8}-)?(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9])"
_AMOUNT = r"([0-9]{1,12}\.[0-9]{2})"
_SIZE = _AMOUNT + r" ([KMGTPE])B"
_STATE = re.compile(r"([A-Z_]+)(?: \(exit code ([0-9]{1,3})\))?\Z")
_COUNT = re.compile(r"[1-9][0-9]{0,8}\Z")
_TASK = re.compile(r"[0-9]{1,20}_[0-9]{1,10}\Z")
_WALL = re.compile(_CLOCK + r"\Z")
_CPU = re.compile(_AMOUNT + "% of " + _CLOCK + r" core-walltime\Z")
_USED = re.compile(_SIZE + r"( \(estimated maximum\))?\Z")
_MEMORY = re.compile(_AMOUNT + "% of " + _SIZE + rf"(?: \({_SIZE}/(?:node|core)\))?\Z")
_CONSUMED = re.compile(_AMOUNT + r" CSC billing units\b", re.IGNORECASE)
_BILLED_ON = re.compile(r"\bbilled on\b", re.IGNORECASE)
_UNITS = re.compile(_AMOUNT + r"(?: (?:(CPU|GPU|Storage|Cloud) )?BUs?)?\Z", re.IGNORECASE)
_LINE = re.compile(r"([A-Za-z][A-Za-z /-]{0,39}):(?:\s+(.*))?\Z")
_COMPONENT = re.compile(r"(?:(cpu|mem|memory|gpu|nvme) (?:bus?|usage)|(non-interactive) bus?)\Z")
_COMPONENTS = {"memory": "mem", "non-interactive": "non_interactive"}
_HEAD = frozenset({"Array Job ID", "Cluster", "Partition", "User/Group", "State"})
"""Lines that come before all others."""
_SAID = re.compile(
    r"WARNING: Efficiency statistics |Efficiency not available for jobs in |GPU job efficiency:"
    r"|The task which had the largest memory consumption differs by "
)
_LOOK_ALIKE = frozenset({"Job Wall-time", "Mem Efficiency"})
"""Lines of nn_seff, whose reports begin as seff's do."""
_REFUSALS = re.compile(
    r"Job not found|Badly formatted array jobid|Usage: seff|seff Version|(?:\S{1,40}: ){0,2}seff: .{0,40}not found"
)
_TROUBLE = re.compile(r".*\berror: ", re.IGNORECASE)

Fields = dict[str, Any]


def _id(text: str) -> str | None:
    identity = job_id(text)
    return None if identity is None or identity.is_step else identity.text


def _matched(pattern: re.Pattern[str], text: str, what: str) -> re.Match[str]:
    match = pattern.match(text)
    if match is None:
        raise ValueError(f"not {what}")
    return match


def _name(key: str) -> Callable[[str], Fields]:
    return lambda text: {key: text or None}


def _count(key: str) -> Callable[[str], Fields]:
    return lambda text: {key: int(_matched(_COUNT, text, "a number").group())}


def _clock(key: str) -> Callable[[str], Fields]:
    return lambda text: {key: values.duration(_matched(_WALL, text, "a duration").group())}


def _task(text: str) -> Fields:
    return {"array_job_id": _matched(_TASK, text, "the id of an array's task").group()}


def _owner(text: str) -> Fields:
    user, slash, group = text.partition("/")
    if not slash or "/" in group:
        raise ValueError("not user/group")
    return {"user": user.strip() or None, "group": group.strip() or None}


def _state(text: str) -> Fields:
    match = _matched(_STATE, text, "a state")
    word, _ = state_word(match[1])
    code = None if match[2] is None else int(match[2])
    if code is not None and code > 255:  # noqa: PLR2004 - a byte
        raise ValueError("not an exit code")
    return {"state": word, "exit_code": code}


def _ratio(percent: str) -> float:
    return float(f"{percent}e-2")


def _cpu(text: str) -> Fields:
    match = _matched(_CPU, text, "a share of core-walltime")
    return {"cpu_efficiency_ratio": _ratio(match[1]), "core_walltime_seconds": values.duration(match[2])}


def _used(text: str) -> Fields:
    match = _matched(_USED, text, "a size")
    return {"memory_used_bytes": values.size(match[1] + match[2]), "memory_used_is_estimate": match[3] is not None}


def _memory(text: str) -> Fields:
    match = _matched(_MEMORY, text, "a share of memory")
    return {"memory_efficiency_ratio": _ratio(match[1]), "memory_allocated_bytes": values.size(match[2] + match[3])}


_READERS: dict[str, Callable[[str], Fields]] = {
    "Array Job ID": _task,
    "Cluster": _name("cluster"),
    "Partition": _name("partition"),
    "User/Group": _owner,
    "State": _state,
    "Nodes": _count("nodes"),
    "Cores per node": _count("cores_per_node"),
    "Cores": _count("cores"),
    "CPU Utilized": _clock("cpu_used_seconds"),
    "CPU Efficiency": _cpu,
    "Job Wall-clock time": _clock("wall_clock_seconds"),
    "Memory Utilized": _used,
    "Memory Efficiency": _memory,
    "Billed project": _name("billed_project"),
}
_LAST = ("State", "CPU Efficiency", "Memory Efficiency")
"""Lines without which the report of a job that has started is not whole."""


def parse(text: str, *, timezone: tzinfo = UTC) -> Parsed[SeffReport]:
    """Read what `seff` prints, for one job or for several one after the other.

    Values are as printed: durations in seconds, sizes in bytes (seff's GB is 1024³), percentages as ratios, which may
    be over 1. A running job's are what seff prints for it. Values that contradict each other (used and allocated time
    against the percentage, components against the total) are warnings; seff rounds, which is none.

    Args:
        text: the output, with or without what was printed around it.
        timezone: not used; seff prints no times.

    Raises:
        InputError: there is no report in the text; says what the tool said instead, or quotes the line.
    """
    del timezone
    lines = lines_of(text)
    reader = _Reader(lines)
    for number, line in enumerate(lines, 1):
        reader.take(number, line.strip())
    parsed = reader.parsed()
    if not parsed.records:
        _refuse(lines, fragment=reader.fragment, empty_report=reader.empty_report)
    return parsed


@dataclass(slots=True)
class _Report:
    """A report that is being read.

    Attributes:
        fields: what its lines said.
        lines: label to the number of its line.
        closed: whether a line came that cannot be of the same report, so that the rest is nobody's.
    """

    fields: Fields
    number: int
    text: str
    lines: dict[str, int] = field(default_factory=dict)
    components: dict[str, float] = field(default_factory=dict)
    unit_words: set[str] = field(default_factory=set)
    billed_on: bool = False
    gpus: GpuTables = field(default_factory=GpuTables)
    closed: bool = False


class _Reader:
    """Puts lines together into reports."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines
        self.fragment: str | None = None
        self.empty_report: str | None = None
        self._records: list[SeffReport] = []
        self._warnings: list[ParseWarning] = []
        self._report: _Report | None = None

    def take(self, number: int, line: str) -> None:
        """Read the next line."""
        match = _LINE.match(line)
        label, value = (match[1], (match[2] or "").strip()) if match else ("", "")
        if label == "Job ID":
            self._end()
            identity = _id(value)
            if identity is None:
                self._warn(number, "not a job's id: whose report follows is not known")
            else:
                self._report = _Report({"job_id": identity}, number, line)
        elif self._report is None or self._report.closed:
            if self._is_ours(label, line):
                self.fragment = self.fragment or line
                self._warn(number, "a line of a report without a line 'Job ID:'")
        else:
            self._take_in(self._report, number, line, label, value)

    def _is_ours(self, label: str, line: str) -> bool:
        return (
            label in _READERS
            or (bool(label) and _COMPONENT.match(label.casefold()) is not None)
            or line.startswith("Job consumed ")
            or GpuTables().begins(line)
        )

    def _take_in(self, report: _Report, number: int, line: str, label: str, value: str) -> None:
        component = _COMPONENT.match(label.casefold())
        if label in _LOOK_ALIKE:
            raise InputError(
                f"not what seff prints but what another tool does (nn_seff?): line {number} {quoted(line)}"
            )
        if report.gpus.begins(line):
            return
        if label in _READERS:
            self._field(report, number, label, lambda: _READERS[label](value))
        elif component is not None:
            name = component[1] or component[2]
            self._field(report, number, label, lambda: self._component(report, name, value))
        elif line.startswith("Job consumed "):
            rest = line.removeprefix("Job consumed ")
            self._field(report, number, "Job consumed", lambda: self._consumed(report, rest))
        elif (problem := self._other(report, line)) is not None:
            self._warn(number, problem)

    @staticmethod
    def _other(report: _Report, line: str) -> str | None:
        """What is wrong with a line that is none of the report's own; None where nothing is."""
        if _SAID.match(line) or is_around(line):
            if line.startswith("--"):
                report.gpus.end_section()
            return None
        if _REFUSALS.match(line):
            return "seff says so"
        return report.gpus.take(line) if report.gpus.reading else "not a line of seff's"

    def _field(self, report: _Report, number: int, label: str, read: Callable[[], Fields]) -> None:
        """Take a line of the report, unless it can only be of another one, whose beginning was lost."""
        report.gpus.end_section()
        late = label in _HEAD and not report.lines.keys() <= _HEAD
        if late or label in report.lines:
            self._warn(number, "printed twice, or of another report, whose line 'Job ID:' is missing")
            report.closed = True
            return
        report.lines[label] = number
        try:
            report.fields.update(read())
        except ValueError as error:
            self._warn(number, str(error))

    @staticmethod
    def _component(report: _Report, name: str, value: str) -> Fields:
        match = _matched(_UNITS, value, "an amount of billing units")
        key = _COMPONENTS.get(name.casefold(), name.casefold())
        if key in report.components:
            raise ValueError("a component printed twice")
        report.components[key] = float(match[1])
        report.unit_words.add((match[2] or "").casefold())
        return {}

    @staticmethod
    def _consumed(report: _Report, rest: str) -> Fields:
        match = _matched(_CONSUMED, rest, "an amount of billing units")
        report.billed_on = _BILLED_ON.search(rest) is not None
        return {"billing_units": float(match[1])}

    def _end(self) -> None:
        report, self._report = self._report, None
        if report is None:
            return
        if not report.lines:
            self.empty_report = report.text
            self._warn(report.number, "a job's id and no report")
            return
        read = report.fields
        _complete_cores(read)
        missing = [label for label in _LAST if label not in report.lines]
        if missing and (read.get("state") != "PENDING" or "State" in missing):
            self._warn(report.number, f"a report without {', '.join(missing)}")
        if (uneven := report.gpus.uneven()) is not None:
            self._warn(report.number, uneven)
        mixed = len(report.unit_words) > 1
        for found in contradictions(read, {} if mixed else report.components, billed_on=report.billed_on):
            number = report.lines.get(found.label, report.number)
            self._warn(number, found.reason)
            for key in found.doubtful:
                read[key] = None
        self._records.append(SeffReport(**read, billing_components=report.components, gpus=report.gpus.gpus()))

    def _warn(self, number: int, reason: str) -> None:
        self._warnings.append(ParseWarning(number, self._lines[number - 1], reason))

    def parsed(self) -> Parsed[SeffReport]:
        """The reports of the lines taken."""
        self._end()
        return Parsed(tuple(self._records), tuple(sorted(self._warnings, key=lambda each: each.line)))


def _complete_cores(read: Fields) -> None:
    """The cores of the whole job, where nodes and cores per node are printed in their place.

    seff rounds the cores per node down, so the product may be too small; core-walltime over wall-clock time is not.
    """
    nodes, per_node = read.get("nodes"), read.get("cores_per_node")
    if "cores" in read or nodes is None or per_node is None:
        return
    cores, wall = read.get("core_walltime_seconds"), read.get("wall_clock_seconds")
    if nodes == 1:
        read["cores"] = per_node
    elif cores and wall and cores % wall == 0 and nodes * per_node <= cores / wall < nodes * (per_node + 1):
        read["cores"] = int(cores / wall)


def _refuse(lines: list[str], *, fragment: str | None, empty_report: str | None) -> NoReturn:
    """Raise the error of a text without a report."""
    first = first_line(lines)
    if first is None:
        raise InputError("not what seff prints: the text is empty")
    if fragment is not None:
        raise InputError(f"not a whole report of seff's: no line 'Job ID: …' before {quoted(fragment)}")
    if empty_report is not None:
        raise InputError(f"not a whole report of seff's: nothing after {quoted(empty_report)}")
    for at, line in enumerate(lines):
        if _REFUSALS.match(line.strip()):
            trouble = next((each.strip() for each in reversed(lines[:at]) if _TROUBLE.match(each)), None)
            after = "" if trouble is None else f", after {quoted(trouble)}"
            hint = "; ask for one task of the array, ID_TASK" if line.strip().startswith("Badly") else ""
            raise InputError(f"no report: seff says {quoted(line.strip())}{after}{hint}")
    if is_json(lines):
        raise InputError(f"not what seff prints but JSON; it begins {quoted(first)}")
    raise InputError(f"not what seff prints: no line 'Job ID: …'; it begins {quoted(first)}")
