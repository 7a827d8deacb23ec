"""The collectors: every module of this folder that has a `collect` function. They read the store and nothing else."""

from __future__ import annotations

import importlib
import pkgutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from exporter.config import Config
from exporter.metrics.catalogue import Families
from exporter.store.db import Store

__all__ = ["Collector", "Scrape", "collectors"]


@dataclass(frozen=True, slots=True)
class Scrape:
    """What a collector works with: one state of the store for all collectors of a scrape.

    Attributes:
        connection: a read-only snapshot.
        now: epoch seconds.
    """

    connection: sqlite3.Connection
    store: Store
    config: Config
    now: float


Collector = Callable[[Scrape, Families], None]


@cache
def collectors() -> dict[str, Collector]:
    """Returns all collectors by the names of their modules, found by looking in this folder."""
    found: dict[str, Collector] = {}
    for module_info in pkgutil.iter_modules(__path__):
        collect = getattr(importlib.import_module(f"{__name__}.{module_info.name}"), "collect", None)
        if collect is not None:
            found[module_info.name] = collect
    return found
