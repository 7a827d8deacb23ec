"""What of a brought folder is left out, and which files look like secrets. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

LEFT_OUT = (
    ".git",
    ".hg",
    ".svn",
    "__pycache__",
    "*.pyc",
    "*.pyo",
    ".venv",
    "node_modules",
    ".ipynb_checkpoints",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    ".hypothesis",
    ".tox",
    ".nox",
    ".DS_Store",
    "rayslurm.yaml",
)
"""Names that are left out of every folder: what programs make anew, histories, and rayslurm's own configuration."""

ENVIRONMENT_MARKS = frozenset({"pyvenv.cfg", "conda-meta"})
"""What a folder holds that is an environment of Python's venv or of conda, whatever its name."""

HEAD_BYTES = 64 * 1024
"""How much of a file is looked at for a private key."""

_SECRETS = (
    ".env",
    ".env.*",
    "*.env",
    ".netrc",
    ".pgpass",
    ".my.cnf",
    ".git-credentials",
    ".pypirc",
    ".npmrc",
    ".s3cfg",
    ".boto",
    "rclone.conf",
    ".vault-token",
    "credentials.json",
    "kaggle.json",
    "id_rsa",
    "id_dsa",
    "id_ecdsa",
    "id_ecdsa_sk",
    "id_ed25519",
    "id_ed25519_sk",
    "*.p12",
    "*.pfx",
    "*.ppk",
    "*.kdbx",
    "**/.ssh/**",
    "**/.gnupg/**",
    "**/.aws/**",
    "**/.azure/**",
    "**/.kube/**",
    "**/.config/gcloud/**",
    "**/.docker/config.json",
)
_HARMLESS = re.compile(r".*\.(example|sample|template|dist)")
_KEY_BEGINS = rb"\s*-----BEGIN ([A-Z0-9]+ )*PRIVATE KEY( BLOCK)?-----"
_PRIVATE_KEY = re.compile(rb"^" + _KEY_BEGINS + rb"|\APuTTY-User-Key-File-", re.MULTILINE)
_PRIVATE_KEY_IN_DIFF = re.compile(rb"^[-+ ](" + _KEY_BEGINS + rb"|PuTTY-User-Key-File-)", re.MULTILINE)


def is_left_out(path: Sequence[str], patterns: Iterable[str], *, is_folder: bool) -> bool:
    """Tells whether a path within a brought folder is left out by one of the patterns.

    Args:
        path: its parts, from the brought folder on.
        patterns: as `matches` has them.
        is_folder: whether it is a folder.
    """
    return any(matches(pattern, path, is_folder=is_folder) for pattern in patterns)


def matches(pattern: str, path: Sequence[str], *, is_folder: bool) -> bool:
    """Tells whether a pattern means a path.

    `*`, `?` and `[...]` stand for characters of a name, `**` between slashes for any folders, at the end for all that
    is in one. A pattern without a slash means the name wherever it is, one with a slash the path from the brought
    folder on; with a slash at its end it means folders alone.

    Args:
        pattern: the pattern.
        path: the parts of the path.
        is_folder: whether it is a folder.
    """
    if pattern.endswith("/") and not is_folder:
        return False
    if "/" not in pattern.rstrip("/"):
        return fnmatchcase(path[-1], pattern.rstrip("/"))
    parts = [part for part in pattern.split("/") if part not in {"", "."}]
    parts += ["*"] if parts[-1:] == ["**"] else []  # what is in a folder, not the folder
    return bool(parts) and _match(parts, path)


def _match(pattern: Sequence[str], path: Sequence[str]) -> bool:
    # By the table of a subsequence match, so that many `**` cost no more than few.
    reached = [True] + [False] * len(path)
    for part in pattern:
        if part == "**":
            for position in range(1, len(path) + 1):
                reached[position] = reached[position] or reached[position - 1]
        else:
            before = reached
            reached = [False] + [before[number] and fnmatchcase(name, part) for number, name in enumerate(path)]
    return reached[-1]


def secret(path: Sequence[str], head: bytes) -> str | None:
    """Returns why a file looks like a secret; None where it doesn't.

    Args:
        path: the parts of its path, of which the folders count as well.
        head: its first `HEAD_BYTES`.
    """
    if _PRIVATE_KEY.search(head):
        return "it holds a private key"
    lower = [part.lower() for part in path]
    if _HARMLESS.fullmatch(lower[-1]):
        return None
    return "by its name" if any(matches(pattern, lower, is_folder=False) for pattern in _SECRETS) else None


def secret_in_diff(diff: bytes) -> str | None:
    """Returns why a diff looks as if it told a secret, which may be in lines that it takes away; None where it doesn't.

    Args:
        diff: the whole of it, as git has it.
    """
    return "it holds a private key" if _PRIVATE_KEY_IN_DIFF.search(diff) else None
