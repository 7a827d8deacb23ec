"""What two rows that tell of the same thing both say."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import fields, replace
from typing import Any, TypeVar

from exporter.records import AccountingRecord, QueueRecord

_ONE_CELL = frozenset({"exit_code", "signal"})
"""Printed as one, `0:9`: where the two rows differ in either, neither is known."""

_RecordT = TypeVar("_RecordT", AccountingRecord, QueueRecord)


def agreed(one: _RecordT, other: _RecordT) -> _RecordT:
    """A record in which every field is None on which the two differ; they have the same id.

    A table does not print a job twice with different values: one of the rows is garbled, and which is not known.
    """
    differing = {each.name for each in fields(one) if getattr(one, each.name) != getattr(other, each.name)}
    return replace(one, **dict.fromkeys(_whole_cells(differing, {each.name for each in fields(one)})))  # type: ignore[arg-type]  # only fields that may be None differ


def agreed_fields(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The same for what is not a record yet; a field that is not there is None."""
    names = one.keys() | other.keys()
    differing = _whole_cells({name for name in names if one.get(name) != other.get(name)}, names)
    return {name: None if name in differing else one.get(name) for name in names}


def _whole_cells(differing: set[str], names: AbstractSet[str]) -> set[str]:
    return differing | (_ONE_CELL & names) if differing & _ONE_CELL else differing
