"""Ids of jobs, array tasks, components of heterogeneous jobs and steps, as Slurm prints them."""

from __future__ import annotations

import re
from typing import NamedTuple

_ID = re.compile(
    r"(?P<job>(?P<base>[0-9]{1,20})(?P<task>_[0-9]{1,10}|_\[[0-9,:%.x-]+\])?(?:\+[0-9]{1,6})?)"
    r"(?:\.(?P<step>[A-Za-z0-9_]+(?:\+[0-9]{1,6})?))?\Z"
)
_CUT = re.compile(r"(?P<job>(?P<base>[0-9]{1,20})(?P<task>_[0-9]{1,10})?(?:\+[0-9]{1,6})?)(?P<step>\.[A-Za-z0-9_+]*)\Z")
_CUT_ARRAY = re.compile(r"(?P<base>[0-9]{1,20})_\[[0-9,:%.x-]*\Z")
_FRAGMENT = re.compile(r"[0-9][0-9A-Za-z_.+\[\],:%-]*\Z")


class JobId(NamedTuple):
    """An id taken apart.

    Attributes:
        text: as printed.
        job: the job's part, which its steps share.
        array: the id all tasks of an array share; None for a job that is no array.
        is_step: whether it names a step.
        cut: whether the column's width has cut it.
    """

    text: str
    job: str
    array: str | None
    is_step: bool
    cut: bool = False


def job_id(text: str) -> JobId | None:
    """Take an id apart: `123`, `123_4`, `999_[1-10%3]`, `4285795+0`, each also with a step (`123_4.batch`, `1.0+1`).

    Returns:
        None where the text is no id.
    """
    match = _ID.match(text)
    if match is None:
        return None
    job, base, task, step = match.groups()
    return JobId(text, job, base if task else None, step is not None)


def cut_job_id(text: str) -> JobId | None:
    """Take apart an id that ends in the `+` with which sacct marks what it cut (`3659617.bat+`, `999_[1-3+`).

    Returns:
        None where the text does not tell whose id it is: `123456_1+` may be a task's or that of its step.
    """
    kept = text.removesuffix("+")
    if match := _CUT.match(kept):
        return JobId(text, match["job"], match["base"] if match["task"] else None, is_step=True, cut=True)
    if match := _CUT_ARRAY.match(kept):
        return JobId(text, text, match["base"], is_step=False, cut=True)
    return None


def is_fragment(text: str) -> bool:
    """Whether a line on its own may be the beginning of an id that a stray newline has broken."""
    return _FRAGMENT.match(text) is not None
