"""What two rows that tell of the same thing both say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from exporter.records import AccountingRecord, QueueRecord

_RecordT = TypeVar("_RecordT", AccountingRecord, QueueRecord)


def agreed(one: _RecordT, other: _RecordT) -> _RecordT:
    """A record in which every field is None on which the two differ; they have the same id.

    A table does not print a job twice with different values: one of the rows is garbled, and which is not known.
    """
    differing = {each.name: None for each in fields(one) if getattr(one, each.name) != getattr(other, each.name)}
    return replace(one, **differing)  # type: ignore[arg-type]  # only fields that may be None differ


def agreed_fields(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The same for what is not a record yet; a field that is not there is None."""
    names = one.keys() | other.keys()
    return {name: one.get(name) if one.get(name) == other.get(name) else None for name in names}
