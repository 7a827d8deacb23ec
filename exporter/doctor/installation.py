"""The configuration file, Python with its libraries, and this machine's clock."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from exporter.config import Config
from exporter.config_files import check_files
from exporter.doctor.finding import Finding, look, well, wrong

DISTRIBUTION = "rayslurm-exporter"

_TIMEX_BYTES = 512
"""More than `struct timex` has anywhere; all zeros in it ask and set nothing."""

_NOT_SYNCHRONISED = 5
"""TIME_ERROR of adjtimex(2): the clock is not kept right by anything."""


def check_configuration(path: Path, config: Config) -> Iterator[Finding]:
    """Yields what there is to say of a file that was read well."""
    facts = path.stat()
    if facts.st_uid not in {0, os.geteuid()}:
        yield wrong(
            "configuration",
            f"{path} belongs to another account (uid {facts.st_uid}), who decides by it what is done as you",
            f"make it yours: chown {os.geteuid()} {path}",
        )
    elif facts.st_mode & 0o022:
        yield wrong(
            "configuration",
            f"{path} can be written by others (mode {facts.st_mode & 0o777:04o})",
            f"run: chmod go-w {path}",
        )
    else:
        yield well("configuration", f"{path} is valid; sites: {', '.join(sorted(config.sites))}")


def check_named_files(config: Config) -> Iterator[Finding]:
    """Yields what is wrong with the files that the configuration names, as `rayslurm config check` has it."""
    faults = check_files(config)
    for fault in faults:
        text, _, cure = fault.partition("; ")
        yield wrong("files", text, cure or "put it there, or write another path")
    if not faults:
        yield well("files", "what the configuration names is there; keys and credentials are for you alone")


def check_python(wanted: Callable[[], list[str]] | None = None) -> Iterator[Finding]:
    """Yields whether the libraries are there.

    Args:
        wanted: gives their names; those that the distribution asks for where left out.
    """
    missing = []
    names = (wanted or _required)()
    for name in names:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    here = f"Python {platform.python_version()} ({sys.executable})"
    if missing:
        yield wrong(
            "python",
            f"{here} lacks {', '.join(missing)}",
            f"install rayslurm anew: {sys.executable} -m pip install {DISTRIBUTION}",
        )
    elif not names:
        yield look("python", f"{here}: {DISTRIBUTION} isn't installed in it, so what it needs isn't known")
    else:
        yield well("python", f"{here}, with the {len(names)} libraries that rayslurm asks for")


def _required() -> list[str]:
    try:
        lines = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return [re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in lines if "extra ==" not in line]


def clock_state() -> int | None:
    """Returns what the kernel says of the clock, as adjtimex(2) has it; None where it can't be asked."""
    try:
        said: int = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (OSError, AttributeError):
        return None
    return said if said >= 0 else None


def check_clock(state: Callable[[], int | None] = clock_state) -> Iterator[Finding]:
    """Yields whether this machine's clock is kept right."""
    said = state()
    if said is None:
        yield look("clock", "it can't be told whether anything keeps it right")
    elif said == _NOT_SYNCHRONISED:
        yield look(
            "clock",
            "the kernel says that nothing keeps it right; the times of jobs, of keys and of campaigns hang on it",
            "let NTP keep it, for example: timedatectl set-ntp true (in a container, on the machine around it)",
        )
    else:
        yield well("clock", "it is kept right (by the kernel: synchronised)")
