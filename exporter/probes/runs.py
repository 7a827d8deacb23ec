"""What launched jobs say of themselves: their supervisors' `status.json` and, when they have ended, `summary.json`.

While a job comes up its folder is looked into every 2 minutes, and at once when its tunnel answers; then once more for
what its nodes have noticed meanwhile, and again when a tunnel has been mended. A living tunnel tells nearly all, so it
is every hour after that; without one the heartbeat is looked for every 10 minutes. At its end a job's summary is read
once. All files that are due are read in one session, which counts as one command.

A file that isn't there says something, one that can't be read says nothing: its job is as if not looked at, and is
looked at again later and later, up to every 10 minutes.
"""

from __future__ import annotations

import json
import logging
import re
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from exporter.client.transport import RemoteContent
from exporter.errors import InputError, SiteError
from exporter.probes.base import ProbeContext, Unhurried
from exporter.store import runs, supervised
from exporter.store.runs import Run, Unread

_log = logging.getLogger(__name__)

LOOK_SECONDS = 30.0
"""Between two looks into the store for jobs to read of."""

STARTING_SECONDS = 120.0
"""Between two looks into the folder of a job whose Ray isn't ready yet, has just become so, or has a mended tunnel."""

LIVING_SECONDS = 3600.0
"""The same where a tunnel tells of its Ray."""

UNSEEN_SECONDS = 600.0
"""The same where Ray was ready and no tunnel tells of it."""

RETRY_SECONDS = 60.0
"""Before the folder of an ended job is looked into once more for its summary: file systems lag."""

READS_PER_HOUR = 15
"""All that are running are read together, so this is enough; what has ended is read within it too."""

NEWS_PER_HOUR = 10
"""Of these at most for what is no beginning and no end, such as a tunnel that comes and goes."""

MAX_BYTES = 1 << 20
"""More than this is no summary."""

_FORGET_SECONDS = 7 * 86400.0
_FILES_PER_READ = 40


@dataclass(slots=True)
class RunsProbe(Unhurried):
    """Reads of the jobs of one site."""

    name: str = "runs"
    keeps_seconds: float = 0
    _looked: dict[str, float] = field(default_factory=dict)
    _answered: set[str] = field(default_factory=set)
    _settled: set[str] = field(default_factory=set)
    _unreadable: dict[str, tuple[float, float]] = field(default_factory=dict)
    """When a job's folder could not be read, and how many seconds it is left alone from then on."""

    def run(self, context: ProbeContext) -> float:
        """See `Probe.run`."""
        now = context.clock()
        with context.store.snapshot() as connection:
            waiting = runs.unread(connection, context.site.name, now=now, since=now - _FORGET_SECONDS)
        self._answered &= {job.job_id for job in waiting}
        self._settled &= {job.job_id for job in waiting}
        self._looked = {job.job_id: self._looked[job.job_id] for job in waiting if job.job_id in self._looked}
        self._unreadable = {
            job.job_id: self._unreadable[job.job_id] for job in waiting if job.job_id in self._unreadable
        }
        due = [job for job in waiting if self._is_due(job, context)]
        most = READS_PER_HOUR if any(job.ended or not job.ready for job in due) else NEWS_PER_HOUR
        if not due or context.ledger.sent("read") >= most:
            return LOOK_SECONDS
        # What is asked together costs one command, so those whose turn comes soon are asked too.
        together = [*due, *(job for job in waiting if job not in due and not job.tunnel_up)][: _FILES_PER_READ // 2]
        files = context.client.read_many([path for job in together for path in _paths(job)], MAX_BYTES)
        failed = {job.job_id: why for job in together if (why := _failure(job, files.failed))}
        for job_id, why in failed.items():
            waited = self._unreadable.get(job_id, (now, 0.0))[1]
            self._unreadable[job_id] = (now, min(max(2 * waited, STARTING_SECONDS), UNSEEN_SECONDS))
            _log.warning("site %s: job %s: its folder can't be read: %s", context.site.name, job_id, why)
        told = [job for job in together if job.job_id not in failed]
        if not told:
            raise SiteError(f"{context.site.name}: no job's folder can be read: {failed[together[0].job_id]}")
        self._settled |= {job.job_id for job in told if job.ready}
        for job in told:
            self._unreadable.pop(job.job_id, None)
            context.store.write(lambda connection, job=job: self._take_in(connection, context, job, files.found))  # type: ignore[misc]  # a lambda with a default
        return LOOK_SECONDS

    def delay_after_failure(self) -> float:
        """See `Probe.delay_after_failure`."""
        return STARTING_SECONDS

    def _is_due(self, job: Unread, context: ProbeContext) -> bool:
        at, pause = self._unreadable.get(job.job_id, (0.0, 0.0))
        if 0 <= context.clock() - at < context.site.scaled(pause):
            return False
        if job.read is None:
            return True
        if job.tunnel_up and not job.ready and job.job_id not in self._answered:
            self._answered.add(job.job_id)  # once: its file may not be there
            return True
        if job.ended:
            wait = RETRY_SECONDS if job.job_id in self._looked else 0.0
        elif not job.ready or job.job_id not in self._settled or job.read < (job.mended or 0) <= context.clock():
            wait = STARTING_SECONDS
        else:
            wait = LIVING_SECONDS if job.tunnel_up else UNSEEN_SECONDS
        # What lies ahead was written while the clock was wrong.
        return not 0 <= context.clock() - job.read < context.site.scaled(wait)

    def _take_in(
        self, connection: sqlite3.Connection, context: ProbeContext, job: Unread, found: Mapping[str, RemoteContent]
    ) -> None:
        now = context.clock()
        status, summary = (
            _read(connection, context, job, found.get(f"{job.run_dir}/{name}"), name)
            for name in ("status.json", "summary.json")
        )
        # One that ended in the middle of its life says no more; looked for twice, since file systems lag.
        settled = job.ended and (summary is not None or job.job_id in self._looked)
        if job.ended:
            self._looked[job.job_id] = now
        run = _run(context.site.name, job.job_id, {**(status or {}), **(summary or {})}, summary, settled=settled)
        runs.keep(connection, run, now=now)
        if run.ready_time is not None and not job.ready:
            _log.info("site %s: job %s: Ray %s is ready", context.site.name, job.job_id, run.ray_version)


def make() -> RunsProbe:
    """Returns the probe for one site."""
    return RunsProbe()


def _paths(job: Unread) -> list[str]:
    names = ("summary.json", "status.json") if job.ended else ("status.json",)
    return [f"{job.run_dir}/{name}" for name in names]


def _failure(job: Unread, failed: Mapping[str, str]) -> str | None:
    """Returns which of a job's files could not be read, and why; None where none of them failed."""
    return next((f"{path}: {failed[path]}" for path in _paths(job) if path in failed), None)


def read_record(text: str, *, job_id: str, token: str) -> dict[str, Any] | None:
    """Returns what a supervisor wrote; None where it is another job's, or an earlier attempt's, in the same folder.

    Raises:
        InputError: it isn't what a supervisor writes.
    """
    try:
        record = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise InputError(f"no JSON: {text[:80]!r}") from None
    if not isinstance(record, dict):
        raise InputError(f"no object: {text[:80]!r}")
    for name, kinds in _KINDS.items():
        value = record.get(name)
        if value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
            raise InputError(f"{name} is {value!r:.80}")
        if isinstance(value, int | float) and not 0 <= value <= _LARGEST:
            raise InputError(f"{name} is {value!r:.80}")
    _lists(record)
    if (record.get("job_id"), record.get("token")) != (job_id, token):
        return None
    printable: dict[str, Any] = _printable(record)
    return printable


def _lists(record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "node_names": supervised.node_names(record),
        "tunnels": supervised.tunnels(record),
        "open_listeners": supervised.open_listeners(record),
    }


def _no_number(text: str) -> None:
    raise ValueError(text)


def _printable(value: Any) -> Any:
    """Returns a value with texts that neither steer a terminal nor lack an encoding."""
    if isinstance(value, str):
        return _STEERING.sub("", value).encode("utf-8", "backslashreplace").decode()
    if isinstance(value, list):
        return [_printable(each) for each in value]
    if isinstance(value, dict):
        return {str(_printable(key)): _printable(each) for key, each in value.items()}
    return value


_LARGEST = 4e9
"""Times are epoch seconds; nothing else that is read is larger."""

_STEERING = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(\x07|\x1b\\)|(?!\n)[\x00-\x1f\x7f-\x9f]")
"""Escape sequences (ECMA-48's CSI and OSC) and control characters but the line's end."""

_KINDS: dict[str, tuple[type, ...]] = {
    "phase": (str,),
    "phase_time": (int, float),
    "time": (int, float),
    "ready_time": (int, float),
    "ray_version": (str,),
    "session_name": (str,),
    "outcome": (str,),
    "reason": (str,),
    "exit_code": (int,),
    "nodes": (list,),
    "results": (list,),
}


def _read(
    connection: sqlite3.Connection, context: ProbeContext, job: Unread, content: RemoteContent | None, name: str
) -> dict[str, Any] | None:
    """Returns what stands in one of a job's files; what isn't understood is kept raw, and counted."""
    if content is None:
        return None
    text = content.content.decode("utf-8", errors="backslashreplace")
    try:
        return read_record(text, job_id=job.job_id, token=job.token)
    except InputError as error:
        _log.warning("site %s: job %s: %s: %s", context.site.name, job.job_id, name, error)
        context.keep(connection, name.removesuffix(".json"), text, faults=1)
        return None


def _run(site: str, job_id: str, record: Mapping[str, Any], summary: dict[str, Any] | None, *, settled: bool) -> Run:
    named = {name: record.get(name) for name in _KINDS if name in Run.__dataclass_fields__}
    return Run(site, job_id, **named, **_lists(record), heartbeat=record.get("time"), summary=summary, settled=settled)
