"""Lines of a text as a terminal or a pipe hands them on, and how messages quote them."""

from __future__ import annotations

import re

_ANSI = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]{0,200}(?:\x07|\x1b\\)|[()][A-Za-z0-9])")
NOISE = re.compile(r"(?:sacct|squeue|srun|sbatch|slurm\w*|perl|-?bash|manpath|ssh|module)(?:-\w+)?: ", re.IGNORECASE)
"""What programs and the shell say around a report, at the beginning of a line."""
_AROUND = re.compile(
    r"\s*(?:[^\s@]+@\S+[^$#%]{0,200}[$#%>](?:\s|\Z)|\[[^\]]{1,200}\][$#%>](?:\s|\Z)|[$#>]+ |rc=[0-9]+\s*\Z"
    r"|-[-\s+]+\Z|--- [a-z][^:|]*\Z|(?:LANGUAGE|LC_[A-Z]+|LANG) = |are supported and installed on your system)"
)
_LONGEST_QUOTE = 160


def lines_of(text: str) -> list[str]:
    """Split at line feeds alone, since a delimiter may be what str.splitlines takes for an end of line.

    Escape codes of terminals, carriage returns at the end of lines and a byte order mark are left out.
    """
    text = text.removeprefix("\ufeff")
    if "\x1b" in text:
        text = _ANSI.sub("", text)
    return [line.rstrip("\r") for line in text.split("\n")]


def quoted(line: str) -> str:
    """A line for a message, cut where it is long."""
    return repr(line if len(line) <= _LONGEST_QUOTE else line[:_LONGEST_QUOTE] + "…")


def first_line(lines: list[str]) -> str | None:
    """The first line that is not blank, without the blanks around it."""
    return next((line.strip() for line in lines if line.strip()), None)


def is_around(line: str) -> bool:
    """Whether a line belongs to what surrounds a report: blank, a prompt, a rule of dashes, a program's warning."""
    return not line.strip() or NOISE.match(line) is not None or _AROUND.match(line) is not None


def is_json(lines: list[str]) -> bool:
    """Whether a text begins as JSON does, after what may be printed around it."""
    first = next((line.strip() for line in lines if not is_around(line)), "")
    return first.startswith(("{", "[{", '["')) or first in {"[", "[]"}
