"""The tables with which CSC's `seff` ends for a job that had GPUs: load, memory and energy per host and GPU."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from exporter.records import GpuUse

_GIB = 1024.0**3
_TITLE = "GPU job efficiency:"
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")
_GPU = re.compile(r"[0-9A-Za-z][0-9A-Za-z:._/-]*\Z")
_NUMBER = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,6})?\Z")
_SECTIONS: dict[str, dict[str, tuple[str, float]]] = {
    "Host memory": {},
    "GPU load": {"Mean (%)": ("load_mean_ratio", 0.01), "Max (%)": ("load_max_ratio", 0.01)},
    "GPU memory": {"Mean (GiB)": ("memory_mean_bytes", _GIB), "Max (GiB)": ("memory_max_bytes", _GIB)},
    "GPU energy": {"Energy (Wh)": ("energy_joules", 3600.0)},
}
"""By a section's title its columns, the fields they fill, and what their unit is worth."""
_MEANS = (
    ("load_mean_ratio", "load_max_ratio", 0.005),
    ("memory_mean_bytes", "memory_max_bytes", 0.005 * _GIB),
)
"""A mean, its maximum, and by how much rounding may put the mean above it."""


@dataclass(slots=True)
class GpuTables:
    """Reads the tables line by line."""

    _section: str | None = None
    _columns: list[str] | None = None
    _found: dict[tuple[str, str], dict[str, float | None]] = field(default_factory=dict)
    _printed: dict[str, set[tuple[str, str]]] = field(default_factory=dict)

    def begins(self, line: str) -> bool:
        """Whether a line is the title of the tables or of one of them, from which on lines are for `take`."""
        if line == _TITLE:
            return True
        if line not in _SECTIONS:
            return False
        self._section, self._columns = line, None
        return True

    @property
    def reading(self) -> bool:
        """Whether the lines of a section are being read."""
        return self._section is not None

    def end_section(self) -> None:
        """What follows is no part of the section."""
        self._section = None

    def take(self, line: str) -> str | None:
        """Read a header or row of the section.

        Returns:
            What is wrong with the line; None where it was understood.
        """
        wanted = _SECTIONS[self._section or "Host memory"]
        if self._columns is None:
            names = re.split(r"\s{2,}", line)
            self._columns = names
            heads = ["Hostname", "GPU Id"] if wanted or self._section != "Host memory" else ["Hostname"]
            missing = [name for name in (*heads, *wanted) if name not in names]
            if missing or names[: len(heads)] != heads:
                self._columns = []
                return f"not the header of {self._section}: no column {', '.join(missing) or heads[0]}"
            return None
        cells = line.split()
        if not self._columns:
            return f"a row of {self._section} below a header that was not understood"
        if len(cells) != len(self._columns):
            return f"{len(cells)} cells where {self._section} has {len(self._columns)}"
        if not wanted:
            return None
        return self._row(dict(zip(self._columns, cells, strict=True)), wanted)

    def _row(self, row: dict[str, str], wanted: dict[str, tuple[str, float]]) -> str | None:
        host, gpu = row["Hostname"], row["GPU Id"]
        if not _HOST.match(host) or not _GPU.match(gpu):
            return "no host and GPU"
        if not all(_NUMBER.match(row[name]) for name in wanted):
            return "not a number"
        values = self._found.setdefault((host, gpu), {})
        self._printed.setdefault(self._section or "", set()).add((host, gpu))
        problem = None
        for name, (key, worth) in wanted.items():
            # A percentage is moved by its decimal point, which multiplying would not do to the last digit.
            value = float(f"{row[name]}e-2") if worth == 0.01 else float(row[name]) * worth  # noqa: PLR2004 - percent
            if key in values and values[key] != value:
                problem, values[key] = "printed twice, and not the same", None
            else:
                values[key] = value
        for mean, most, slack in _MEANS:
            one, other = values.get(mean), values.get(most)
            if one is not None and other is not None and one > other + slack:
                values[mean] = values[most] = None
                problem = "a mean above the maximum"
        if values.get("energy_joules") == 0:
            values["energy_joules"] = None
        return problem

    def uneven(self) -> str | None:
        """What is odd about the tables: a GPU that some have and others have not is perhaps another, misspelt."""
        odd = [each for each in self._found if any(each not in printed for printed in self._printed.values())]
        return f"not in every table: {', '.join(' '.join(each) for each in odd)}" if odd else None

    def gpus(self) -> tuple[GpuUse, ...]:
        """What was read, by host and GPU in the order printed."""
        return tuple(GpuUse(host, gpu, **values) for (host, gpu), values in self._found.items())
