"""`make bench`: measures speed as ratios within one run, prints them as a table and leaves them in build/bench.json."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.bench import parsing, peers, serving, starting
from tests.bench.measured import Line, show, write

EVIDENCE = Path("build/bench.json")


def main() -> None:
    lines: list[Line] = []
    for part in (serving, parsing, starting, peers):
        print(f"measuring: {part.__name__.rpartition('.')[2]} ...", file=sys.stderr, flush=True)
        lines += part.measure()
    write(lines, EVIDENCE)
    print(show(lines))


if __name__ == "__main__":
    main()
