"""What things are called at the site: a job, whose name carries the token that is its identity, and its files."""

from __future__ import annotations

import re
import secrets

SCRIPT = "job.sbatch"
"""The name of the batch script in the run folder."""

OUTPUT = "slurm-{job_id}.out"
"""The name of the file there that the job prints to."""

_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"
_LENGTH = 12
_NAMED = re.compile(rf"(?P<name>.+)\.rs(?P<token>[{_ALPHABET}]{{{_LENGTH}}})")


def new_token() -> str:
    """Returns a token that no other job has: 60 random bits."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH))


def slurm_name(name: str, token: str) -> str:
    """Returns the name that Slurm gets: the readable one with the token."""
    return f"{name}.rs{token}"


def split_name(job_name: str) -> tuple[str, str | None]:
    """Returns the readable name and the token of a job's name at the site; no token where we didn't start it."""
    match = _NAMED.fullmatch(job_name)
    return (match["name"], match["token"]) if match else (job_name, None)
