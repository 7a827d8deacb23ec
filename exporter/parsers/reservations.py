"""What `scontrol -o show reservation` prints: a line for each reservation of nodes, as `Key=value` words."""

from __future__ import annotations

import re
from datetime import UTC, tzinfo

from exporter.errors import InputError
from exporter.parsers.moments import moments
from exporter.parsers.text import first_line, is_around, lines_of, quoted
from exporter.records import Parsed, ParseWarning, ReservationRecord

SOURCE = "reservations"

_NONE = "No reservations in the system"
_WORD = re.compile(r"(?:^|\s)([A-Z][A-Za-z]*)=(\S*)")
_NOTHING = frozenset({"", "(null)", "n/a"})


def parse(text: str, *, timezone: tzinfo = UTC) -> Parsed[ReservationRecord]:
    """Read the reservations of a site.

    Args:
        text: the output, with what was printed around it.
        timezone: the site's, for its local times.

    Returns:
        One record a reservation; none where the site says that it has none.

    Raises:
        InputError: it is no such output.
    """
    lines = lines_of(text)
    records: list[ReservationRecord] = []
    warnings: list[ParseWarning] = []
    told = False
    for number, line in enumerate(lines, 1):
        if is_around(line) or not line.strip():
            continue
        if line.strip() == _NONE:
            told = True
            continue
        words = dict(_WORD.findall(line))
        if "ReservationName" not in words:
            warnings.append(ParseWarning(number, line, "no reservation"))
            continue
        told = True
        try:
            records.append(_record(words, timezone))
        except ValueError as error:
            warnings.append(ParseWarning(number, line, str(error)))
    if not told:
        first = first_line(lines)
        said = "the text is empty" if first is None else f"it begins {quoted(first)}"
        raise InputError(f"not what scontrol prints of reservations: {said}")
    return Parsed(tuple(records), tuple(warnings))


def _record(words: dict[str, str], timezone: tzinfo) -> ReservationRecord:
    begin, end = (_moment(words.get(name, ""), timezone) for name in ("StartTime", "EndTime"))
    flags = words.get("Flags", "")
    nodes = words.get("NodeCnt", "")
    partition = words.get("PartitionName", "")
    return ReservationRecord(
        name=words["ReservationName"],
        start_time=begin,
        end_time=end,
        nodes=int(nodes) if re.fullmatch(r"[0-9]{1,9}", nodes) else None,
        partition=None if partition in _NOTHING else partition,
        flags=tuple(flag for flag in flags.split(",") if flag not in _NOTHING),
    )


def _moment(text: str, timezone: tzinfo) -> int | None:
    """Returns a time; of two that a local time may mean in the night when clocks go back, the earlier."""
    found = moments(text, timezone)
    return found[0] if found else None
