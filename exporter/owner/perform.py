"""Carrying out what a person asked for."""

from __future__ import annotations

import sqlite3
from typing import Any

from exporter.config import Config
from exporter.errors import InputError
from exporter.launch.launcher import Launcher
from exporter.launch.spec import Spec
from exporter.probes import ProbeContext
from exporter.store import jobs
from exporter.store.requests import Request
from exporter.yamlfile import load_model_text


def perform(request: Request, context: ProbeContext, config: Config) -> dict[str, Any]:
    """Carries out a request.

    Returns:
        What came of it, for the person: for a launch `token`, `site`, `job_id`, `state`, `run_dir`, `dashboard_port`
        and `error`; else `site` and `job_id`.

    Raises:
        RayslurmError: it could not be done.
    """
    with context.client.for_person():
        if request.kind == "launch":
            return _launch(request, context, config)
        job_id = str(request.payload["job_id"])
        if request.kind == "cancel":
            context.client.cancel(job_id)
            return {"site": request.site, "job_id": job_id}
        return _track(request.site, job_id, context)


def _launch(request: Request, context: ProbeContext, config: Config) -> dict[str, Any]:
    spec = load_model_text(request.payload["spec"], Spec, name=request.payload["name"])
    submission = Launcher(config, context.store, context.clock).launch(context.client, spec)
    return {
        "token": submission.token,
        "site": submission.site,
        "job_id": submission.job_id,
        "state": submission.state,
        "run_dir": submission.run_dir,
        "dashboard_port": submission.dashboard_port,
        "error": submission.error,
    }


def _track(site: str, job_id: str, context: ProbeContext) -> dict[str, Any]:
    try:
        root_id = jobs.root_of(job_id)
    except ValueError as error:
        raise InputError(str(error)) from None

    def track(connection: sqlite3.Connection) -> bool:
        return jobs.track(connection, site, root_id, now=context.clock())

    new = context.store.write(track)
    return {"site": site, "job_id": root_id, "new": new}
