"""The sites that rayslurm knows: every module of this folder that has a `PROFILE`."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from exporter.sites.profile import Partition, SiteProfile

__all__ = ["Partition", "SiteProfile", "profiles"]


@cache
def profiles() -> dict[str, SiteProfile]:
    """Returns all site profiles by name, found by looking in this folder.

    Raises:
        RuntimeError: two files carry the same name.
    """
    found: dict[str, SiteProfile] = {}
    for module_info in pkgutil.iter_modules(__path__):
        profile = getattr(importlib.import_module(f"{__name__}.{module_info.name}"), "PROFILE", None)
        if profile is None:
            continue
        if profile.name in found:
            raise RuntimeError(f"two site files are named {profile.name}")
        found[profile.name] = profile
    return found
