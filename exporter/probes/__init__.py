"""What to ask a site, how often, and where it goes: every module of this folder that has a `make` function."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from functools import cache

from exporter.probes.base import Probe, ProbeContext, Unhurried

__all__ = ["Probe", "ProbeContext", "Unhurried", "probe_makers"]


@cache
def probe_makers() -> dict[str, Callable[[], Probe]]:
    """Returns all probes by name, found by looking in this folder; each call of a maker gives a new object.

    Raises:
        RuntimeError: two files carry the same name.
    """
    found: dict[str, Callable[[], Probe]] = {}
    for module_info in pkgutil.iter_modules(__path__):
        maker = getattr(importlib.import_module(f"{__name__}.{module_info.name}"), "make", None)
        if maker is None:
            continue
        name = maker().name
        if name in found:
            raise RuntimeError(f"two probes are named {name}")
        found[name] = maker
    return found
