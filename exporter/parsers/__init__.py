"""Texts that sites print, read into records. Pure: no clock, no I/O, no names of sites.

A parser is a module in this folder with `KIND`, the word by which the command line knows it, and `parse`. It is found
by looking here; nothing else need be told of it. Modules without `KIND` are what parsers share.
"""

from __future__ import annotations

import importlib
import pkgutil
from datetime import UTC, tzinfo
from typing import Any, Protocol

from exporter.records import Parsed


class Parser(Protocol):
    """What a parser's `parse` is."""

    def __call__(self, text: str, *, timezone: tzinfo = UTC) -> Parsed[Any]:
        """Read a text.

        Args:
            text: what the site printed.
            timezone: the zone of the site's local times.

        Raises:
            InputError: the text is of another kind; the message quotes the line.
        """
        ...  # pragma: no cover - a protocol's method has no body


def parsers() -> dict[str, Parser]:
    """Every parser in this folder by its kind.

    Raises:
        RuntimeError: two modules claim the same kind.
        TypeError: a module has a kind and no `parse`.
    """
    found: dict[str, Parser] = {}
    claimed: dict[str, str] = {}
    for module_info in sorted(pkgutil.iter_modules(__path__), key=lambda each: each.name):
        module = importlib.import_module(f"{__name__}.{module_info.name}")
        kind = getattr(module, "KIND", None)
        if kind is None:
            continue
        if kind in claimed:
            raise RuntimeError(f"parsers {claimed[kind]} and {module_info.name} both claim the kind {kind!r}")
        if not callable(getattr(module, "parse", None)):
            raise TypeError(f"parser {module_info.name} has the kind {kind!r} and no function parse")
        claimed[kind] = module_info.name
        found[kind] = module.parse
    return found
