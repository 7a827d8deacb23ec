"""Files that are there as a whole or not at all, whatever dies meanwhile."""

from __future__ import annotations

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Waits until a file, or what a folder names, is on disk.

    Raises:
        OSError: it cannot be told so.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put_in_place(new: Path, path: Path, *, over: bool) -> None:
    """Gives a file its name once it is on disk; where that is a second name, the first one stays.

    Args:
        new: the file as it was made, in the same folder.
        path: its place.
        over: whether what is there may go.

    Raises:
        FileExistsError: something is there, and may not go; also where somebody made it in this moment.
        OSError: it cannot be put there, as on file systems without hard links where nothing may go.
    """
    sync(new)
    if over:
        new.replace(path)
    else:
        path.hardlink_to(new)  # unlike a rename, a link never takes a place
    sync(path.parent)
