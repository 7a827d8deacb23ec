"""Carrying out what a person asked for."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from exporter.campaigns.files import CampaignFiles
from exporter.config import Config
from exporter.errors import BudgetExhaustedError, InputError, RayslurmError, RefusedError
from exporter.job_names import OUTPUT
from exporter.launch.bundle import SpecFile, take
from exporter.launch.launcher import Launcher
from exporter.launch.spec import Spec
from exporter.owner.campaigns import Campaigns
from exporter.parsers.sacct import parse as parse_sacct
from exporter.parsers.squeue import parse as parse_squeue
from exporter.probes import ProbeContext
from exporter.probes.jobs import SACCT_PER_HOUR
from exporter.store import chains, jobs, submissions
from exporter.store.requests import Request
from exporter.yamlfile import load_model_text

LOG_BYTES = 256 * 1024
"""How much of a job's output is read at most."""


def perform(
    request: Request, context: ProbeContext, config: Config, *, tell: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Carries out a request.

    Args:
        request: what was asked for.
        context: the site.
        config: the configuration.
        tell: told in words how far it is, where it takes long.

    Returns:
        What came of it, for the person: for a launch `token`, `site`, `job_id`, `state`, `run_dir`, `dashboard_port`,
        `error`, `created`, `brought`, the `files` and `bytes` of what it brought along, and `existing`: whether it is
        one of before with the same key; for a run of a campaign see `Campaigns.run_now`; for logs `path`, `size` in
        bytes and `text`, its end; else `site` and `job_id`.

    Raises:
        RayslurmError: it could not be done.
    """
    with context.client.for_person():
        if request.kind == "launch":
            return _launch(request, context, config, tell)
        if request.kind == "run":
            return Campaigns(config, CampaignFiles(config, context.store)).run_now(
                context, str(request.payload["campaign"])
            )
        job_id = str(request.payload["job_id"])
        return {"cancel": _cancel, "track": _track, "logs": _logs}[request.kind](request.site, job_id, context)


def _launch(request: Request, context: ProbeContext, config: Config, tell: Callable[[str], None]) -> dict[str, Any]:
    asked = request.payload
    folder = Path(asked.get("folder") or ".").absolute()
    spec = load_model_text(asked["spec"], Spec, name=asked["name"]).at(folder)
    launcher, key = Launcher(config, context.store, context.clock), asked.get("key")
    with take(config.state_dir, asked["bundle"]) if asked.get("bundle") else nullcontext() as bundle:
        earlier = launcher.earlier(spec, key)
        submission = earlier or launcher.launch(
            context.client,
            spec,
            force=bool(asked.get("force")),
            over_budget=bool(asked.get("over_budget")),
            key=key,
            bundle=bundle,
            spec_file=SpecFile.of(folder / Path(asked["name"]).name, asked["spec"]),
            tell=tell,
        )
    with context.store.snapshot() as connection:
        manifest = submissions.manifest(connection, submission.token)
    return {
        "existing": earlier is not None,
        "created": submission.created,
        "token": submission.token,
        "site": submission.site,
        "job_id": submission.job_id,
        "state": submission.state,
        "run_dir": submission.run_dir,
        "dashboard_port": submission.dashboard_port,
        "error": submission.error,
        "brought": manifest and manifest["total"],
    }


def _cancel(site: str, job_id: str, context: ProbeContext) -> dict[str, Any]:
    """Cancels a job. `scancel` is content with any number, so one that isn't followed is looked for first."""
    with context.store.snapshot() as connection:
        parts = jobs.jobs_of(connection, site, jobs.root_of(job_id))
        chain = chains.of_job(connection, site, job_id)
    if chain is not None:
        context.store.write(lambda connection: chains.end(connection, chain.token, "it was cancelled"))
        newest = chain.last.submission.job_id
        if newest is None:
            raise InputError(
                f"no further job is launched after {job_id}, but one may be there already: "
                f"{chain.last.submission.error or 'it is being submitted'}"
            )
        if newest != job_id:
            raise InputError(
                f"job {job_id} on {site} was followed by {newest}, and no further one follows that now; to end it as "
                f"well: rayslurm cancel {site}/{newest}"
            )
    named = [part for part in parts if job_id in {part.job_id, part.root_id}]
    if named and all(part.final for part in named):
        stopped = "" if chain is None or chain.end is not None else "; no further one follows it now"
        raise InputError(f"job {job_id} on {site} has ended already{stopped}, see `rayslurm status`")
    if not parts and not _may_be_in_queue(job_id, context):
        raise InputError(f"{site} has no job {job_id} of yours in its queue")
    context.client.cancel(job_id)
    return {"site": site, "job_id": job_id, "followed": bool(parts)}


def _may_be_in_queue(job_id: str, context: ProbeContext) -> bool:
    """Tells whether the queue names a job; also where it can't be asked for lack of budget: a cancel never waits."""
    try:
        answer = context.client.queue()
    except BudgetExhaustedError:
        return True
    queue = parse_squeue(answer.stdout, timezone=context.site.timezone)
    return jobs.root_of(job_id) in {jobs.root_of(record.job_id) for record in queue.records}


def _logs(site: str, job_id: str, context: ProbeContext) -> dict[str, Any]:
    """Reads the end of what a job has printed."""
    with context.store.snapshot() as connection:
        tracked = jobs.tracked(connection, site, jobs.root_of(job_id))
        if tracked is None or tracked.token is None:
            raise InputError(
                f"rayslurm did not launch job {job_id} on {site}, so it doesn't know where it prints; there, "
                f"`scontrol show job {job_id}` says so as StdOut while Slurm knows the job"
            )
        submission = submissions.get(connection, tracked.token)
        ended = all(part.final for part in jobs.jobs_of(connection, site, tracked.root_id))
    path = f"{submission.run_dir}/{OUTPUT.format(job_id=job_id)}"
    try:
        end = context.client.tail(path, LOG_BYTES)
    except FileNotFoundError:
        yet = "" if ended else " yet"
        raise RayslurmError(
            f"{site} has no {path}: job {job_id} has printed nothing{yet}, or its folder is gone"
        ) from None
    text = end.content.decode("utf-8", errors="replace")
    if len(end.content) < end.size:  # it begins in the middle of a line
        text = text.partition("\n")[2]
    return {"path": path, "size": end.size, "text": text}


def _track(site: str, job_id: str, context: ProbeContext) -> dict[str, Any]:
    """Follows a job that the site knows; one that we submitted and lost sight of becomes ours again."""
    try:
        root_id = jobs.root_of(job_id)
    except ValueError as error:
        raise InputError(str(error)) from None
    with context.store.snapshot() as connection:
        known = jobs.tracked(connection, site, root_id) is not None
    name = None if known else _name_at_site(root_id, context)

    def track(connection: sqlite3.Connection) -> bool:
        if submissions.adopt(connection, site, [(root_id, name)], now=context.clock()):
            return True
        return jobs.track(connection, site, root_id, now=context.clock())

    return {"site": site, "job_id": root_id, "new": context.store.write(track)}


def _name_at_site(root_id: str, context: ProbeContext) -> str:
    """Returns the name that the site has for a job, from the queue or else from accounting.

    Raises:
        InputError: neither knows the job.
    """
    zone = context.site.timezone
    queue = parse_squeue(context.client.queue().stdout, timezone=zone)
    names = [record.job_name for record in queue.records if jobs.root_of(record.job_id) == root_id]
    if not names:
        if context.ledger.sent("sacct") >= SACCT_PER_HOUR:
            raise RefusedError(
                f"job {root_id} is not in the queue, and accounting was asked {SACCT_PER_HOUR} times in the last hour, "
                "which is all that rayslurm asks it; try again later"
            )
        accounting = parse_sacct(context.client.accounting([root_id]).stdout, timezone=zone)
        names = [record.job_name for record in accounting.records if jobs.root_of(record.job_id) == root_id]
    if not names:
        raise InputError(f"{context.site.name} knows no job {root_id}: neither its queue nor its accounting names it")
    return names[0] or ""
