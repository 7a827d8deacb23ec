"""Ended jobs to be archived, and a process that archives them to be killed: `python -m tests.ceph.archiving CONFIG`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from exporter.archive.collect import Collecting
from exporter.archive.uploading import Archiver, open_counters
from exporter.client.client import SiteClient
from exporter.client.replay import ReplayTransport
from exporter.config import Config, load_config
from exporter.probes import ProbeContext
from exporter.records import Bill, EfficiencyReport
from exporter.store import archive, bills, counters, probe_runs, reports, runs, submissions
from exporter.store.commands import CommandLedger
from exporter.store.db import Store
from exporter.store.runs import Run
from tests.ceph.rgw import Rgw

SITE = "practice"
EVIDENCE = Path(__file__).parents[2] / "build/archive-test.json"
SECRET = "hunter2-hunter2-hunter2"


def note(done: str, **numbers: float | str) -> None:
    """Adds to what `make archive-test` leaves."""
    EVIDENCE.parent.mkdir(exist_ok=True)
    before = json.loads(EVIDENCE.read_text()) if EVIDENCE.exists() else {"cases": []}
    before["cases"] = [case for case in before["cases"] if case["done"] != done] + [{"done": done, **numbers}]
    EVIDENCE.write_text(json.dumps(before, indent=1) + "\n")


def configure(folder: Path, rgw: Rgw | None, bucket: str, **more: Any) -> Config:
    """Writes a configuration with a practice site whose clock runs fast, and an archive."""
    folder.mkdir(exist_ok=True)
    key = folder / "id"
    key.touch(0o600)
    (folder / "known_hosts").touch()
    credentials = folder / "credentials"
    credentials.touch(0o600)
    credentials.write_text("[default]\naws_access_key_id = AKTEST\naws_secret_access_key = SKTEST\n")
    endpoint, bundle = (rgw.endpoint, str(rgw.ca_bundle)) if rgw else ("https://localhost:1", None)
    written = {
        "state_dir": str(folder / "state"),
        "archive": {
            "endpoint": endpoint, "bucket": bucket, "prefix": "mine", "credentials_file": str(credentials),
            **({"ca_bundle": bundle} if bundle else {}), **more,
        },
        "sites": {
            SITE: {
                "project": "project_1", "partition": "small", "practice_clock_factor": 3600,
                "ssh": {
                    "host": "127.0.0.1", "user": "maija", "key": str(key), "known_hosts": str(folder / "known_hosts"),
                },
            }
        },
    }  # fmt: skip
    path = folder / "rayslurm.yaml"
    path.write_text(yaml.safe_dump(written))
    return load_config(path)


def run_dir(job_id: str) -> str:
    return f"/scratch/run-{job_id}"


def make_jobs(store: Store, first: int, count: int, *, ended: float | None = None) -> list[str]:
    """Puts ended jobs into the store, each launched, billed, and done with."""
    end = int(ended if ended is not None else time.time() - 7200)
    names = [str(number) for number in range(first, first + count)]

    def write(connection: Any) -> None:
        for job_id in names:
            token = f"tok{int(job_id):09d}"
            submissions.intend(
                connection, token=token, site=SITE, campaign="nightly", name="train", run_dir=run_dir(job_id), now=1.0,
                spec={
                    "site": SITE, "project": "project_1", "partition": "small", "cluster": {"nodes": 1},
                    "ray": {"env": {"WANDB_API_KEY": SECRET, "MODE": "fast"}},
                }, tunnels={},
            )  # fmt: skip
            submissions.submitting(
                connection, token, run_dir(job_id), sent={"job.sbatch": f"#!/bin/sh\n# {job_id}\n"}, now=2.0
            )
            submissions.submitted(connection, token, job_id, now=3.0)
            connection.execute(
                "UPDATE jobs SET state = 'completed', final = 1, counted = 1, start_time = ?, end_time = ?, cpus = 4"
                " WHERE job_id = ?", (end - 60, end, job_id),
            )  # fmt: skip
            connection.execute("UPDATE tracked SET done = 1 WHERE root_id = ?", (job_id,))
            text = f"Job ID: {job_id}\nCluster: practice\n"
            digest = probe_runs.keep_raw(connection, SITE, "seff", text, now=time.time())
            bill = Bill("seff", "cpu", "BU", int(job_id) / 7, "project_1")
            bills.keep(connection, SITE, job_id, bill, final=True, now=end, raw_sha256=digest)
            reports.keep(connection, SITE, job_id, EfficiencyReport("seff", cpu_efficiency_ratio=0.5), now=end)
            summary = {"results": [{"path": "out/result.json", "size": 12}], "outcome": "completed"}
            runs.keep(connection, Run(SITE, job_id, outcome="completed", summary=summary, settled=True), now=end)
            counters.add(connection, "jobs_finished_total", site=SITE, campaign="nightly", state="completed")

    store.write(write)
    return names


def files_of(job_id: str) -> dict[str, bytes]:
    """What lies in the folders of a job at the site."""
    log = f"job {job_id}\nWANDB_API_KEY={SECRET}\nit said {SECRET} again\n" + "a line\n" * 2000
    return {
        f"{run_dir(job_id)}/slurm-{job_id}.out": log.encode(),
        f"{run_dir(job_id)}/summary.json": json.dumps({"job_id": job_id, "outcome": "completed"}).encode(),
        f"{run_dir(job_id)}/work/out/result.json": f'{{"of": {job_id}}}'.encode(),
        f"{run_dir(job_id)}/plan.json": SECRET.encode(),
    }


def context_of(config: Config, store: Store, files: dict[str, bytes]) -> ProbeContext:
    """The site, which has these files."""
    site = config.site(SITE)
    ledger = CommandLedger.for_site(store, site)
    client = SiteClient(SITE, ReplayTransport([], files), ledger)
    return ProbeContext(site=site, client=client, store=store, ledger=ledger)


def waiting(store: Store) -> int:
    with store.snapshot() as connection:
        return len(archive.entries(connection, unfinished=True))


def archive_all(
    config: Config, store: Store, *, seconds: float = 120, begun: Callable[[], None] = lambda: None
) -> None:
    """Collects and uploads until nothing waits; `begun` is called when the bucket has been looked at."""
    with store.snapshot() as connection:
        ids = [row["job_id"] for row in connection.execute("SELECT job_id FROM jobs WHERE final = 1")]
    files = {name: content for job_id in ids for name, content in files_of(job_id).items()}
    collecting, context = Collecting(config), context_of(config, store, files)
    archiver = Archiver(config, store)
    open_counters(store)
    archiver._usable_bucket()
    begun()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        collecting.run(context)
        archiver.round()
        with store.snapshot() as connection:
            if all(entry.state == "kept" for entry in archive.entries(connection)):
                return
            if any(entry.after > time.time() + 1 for entry in archive.entries(connection)):
                raise RuntimeError([entry.error for entry in archive.entries(connection, unfinished=True)])
    raise TimeoutError(f"{waiting(store)} jobs still wait")


def main() -> None:
    """Archives until it is killed or done; says when it begins."""
    config = load_config(Path(sys.argv[1]))
    with Store(config.store_path) as store:
        archive_all(config, store, begun=lambda: print("begun", flush=True))


def summary() -> None:
    """Prints what a run of `make archive-test` did and, as its last line, the counts; ends with 1 if some is lost."""
    cases = json.loads(EVIDENCE.read_text())["cases"]
    for case in cases:
        print("  ".join(f"{name}={value}" for name, value in case.items()))
    jobs, objects, lost = (sum(int(case.get(name, 0)) for case in cases) for name in ("jobs", "objects", "lost"))
    print(f"archive-test: jobs={jobs} objects={objects} lost={lost}")
    sys.exit(bool(lost) or not jobs)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main()
    else:
        summary()
