"""The secrets of the jobs' Rays on this machine: a file each, for its owner alone."""

from __future__ import annotations

import os
from pathlib import Path

from exporter.errors import StoreError
from exporter.store import submissions
from exporter.store.db import Store


def secret_path(state_dir: Path, token: str) -> Path:
    """Returns where the secret of a job's Ray is kept on this machine."""
    return state_dir / "secrets" / f"{token}.ray"


def keep_secret(state_dir: Path, token: str, secret: str) -> None:
    """Keeps the secret of a job's Ray in a file that only its owner can read.

    Raises:
        StoreError: it cannot be written.
    """
    path = secret_path(state_dir, token)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
            file.write(secret)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise StoreError(f"{path}: {error.strerror}; is there room on its disk?") from None


def sweep_secrets(state_dir: Path, store: Store) -> None:
    """Removes the secrets of jobs that have ended, and of launches that became none."""
    for path in (state_dir / "secrets").glob("*.ray"):
        with store.snapshot() as connection:
            needed = submissions.is_open(connection, path.stem)
        if not needed:
            path.unlink(missing_ok=True)
