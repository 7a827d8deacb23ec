"""A store with something of everything in it, taken in by the probes themselves."""

from __future__ import annotations

from pathlib import Path

from exporter.client.replay import Exchange
from exporter.probes.areas import AreasProbe
from exporter.probes.balances import BalancesProbe
from exporter.probes.jobs import JobsProbe
from exporter.probes.reports import ReportsProbe
from exporter.store import jobs, probe_runs, samples, submissions, tunnels
from exporter.store.db import Store
from exporter.store.samples import Sample
from exporter.store.tunnels import Health
from tests.site_texts import AREAS, BILLED, PROJECTS, SEFF
from tests.slurm_texts import HELPFORMAT, finished, sacct, squeue
from tests.unit.conftest import Clock, MakeSite

SITE = "puhti2"


def as_puhti(config_path: Path) -> Path:
    """Makes the configured site one that is billed and printed as Puhti."""
    text = config_path.read_text()
    config_path.write_text(text.replace("    project:", "    profile: puhti\n    closed: false\n    project:"))
    return config_path


def follow(store: Store, job_id: str) -> None:
    store.write(lambda connection: jobs.track(connection, SITE, job_id, now=1.0))


def fill(store: Store, make_site: MakeSite, clock: Clock) -> None:
    """A running job whose tunnel has died, a waiting one, an array, finished ones; balances and disk areas."""
    store.write(
        lambda connection: submissions.intend(
            connection, token="abcdefghjkmn", site=SITE, campaign="nightly", name="train", run_dir="x", now=1.0,
            spec={"project": "project_2001234", "partition": "small", "cluster": {"nodes": 2}},
            tunnels={"dashboard": [8100]},
        )
    )  # fmt: skip
    store.write(lambda connection: submissions.submitted(connection, "abcdefghjkmn", "77", now=2.0))
    for job_id in ("78", "79", "80"):
        follow(store, job_id)
    running = {"STATE": "RUNNING", "TIME": "1:30", "START_TIME": "1794999910", "NODELIST": "r[01-02]"}
    gpus = {"TRES_ALLOC": "cpu=4,mem=6000M,node=2,billing=5,gres/gpu=8"}
    queue = squeue(
        {"JOBID": "77", "NAME": "train.rsabcdefghjkmn", **running, **gpus},
        {"JOBID": "78", "REASON": "Priority", "START_TIME": "1795000500"},
    )
    accounting = sacct(*finished("79", "FAILED", ExitCode="7:0"), *finished("80_1"), *finished("80_2"))
    context, _ = make_site(
        [
            Exchange("queue", queue),
            Exchange("accounting_fields", HELPFORMAT),
            Exchange("accounting", accounting),
            Exchange("seff", SEFF.format(job_id="79", state="FAILED", used="00:03:21", ratio="50.25") + BILLED),
            Exchange("csc-projects", PROJECTS),
            Exchange("csc-workspaces", AREAS),
        ]
    )
    for probe in (JobsProbe(), ReportsProbe(), BalancesProbe(), AreasProbe()):
        probe.run(context)
    store.write(
        lambda connection: probe_runs.note_run(
            connection, SITE, "jobs", at=clock.now, duration_seconds=0.25, error=None
        )
    )
    store.write(
        lambda connection: probe_runs.note_run(
            connection, SITE, "reports", at=clock.now, duration_seconds=0.5, error="down", reason="slurmdbd_unreachable"
        )
    )
    expiry = Sample("ssh_certificate_expiry_timestamp_seconds", 1795100000)
    store.write(lambda connection: samples.replace(connection, SITE, "certificate", [expiry], now=clock.now))
    for state, ago in (("up", 60), ("target_down", 0)):
        health = Health(SITE, "77", tunnels.DASHBOARD, state, clock.now - ago, 0.125, clock.now + 50)
        store.write(lambda connection, health=health: tunnels.keep(connection, [health]))  # type: ignore[misc]
