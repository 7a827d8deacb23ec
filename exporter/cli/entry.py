"""Where `rayslurm` starts: an interrupt ends it quietly, also while it is still being loaded."""

from __future__ import annotations

import sys

_INTERRUPTED = 130


def main() -> None:
    """Loads and runs the command line; 130 where it was interrupted."""
    try:
        from exporter.cli.main import run  # noqa: PLC0415 - what takes long is loaded where an interrupt is expected

        run()
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
