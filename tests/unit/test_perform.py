"""What a person asks for: tracking, cancelling, reading what a job has printed."""

from __future__ import annotations

import re

import pytest

from exporter.client.replay import Exchange
from exporter.config import Config
from exporter.errors import InputError, RayslurmError
from exporter.launch.launcher import Launcher
from exporter.launch.spec import Spec
from exporter.owner.perform import LOG_BYTES, perform
from exporter.probes.jobs import JobsProbe
from exporter.store import jobs
from exporter.store.db import Store
from exporter.store.requests import Request
from tests.slurm_texts import HELPFORMAT, sacct, squeue
from tests.unit.conftest import Clock, MakeSite
from tests.unit.test_launch import journal, spec

__all__ = ["spec"]


def test_a_cancel_does_not_wait_for_the_budget(config: Config, store: Store, make_site: MakeSite) -> None:
    context, transport = make_site([Exchange("run", repeat=True), Exchange("cancel", repeat=True)])
    with context.client.for_person():
        for _ in range(120):
            context.client.run("test", "true")
    asked = Request(1, "cancel", "puhti2", {"job_id": "4711"}, "taken", None, 0.0)
    assert perform(asked, context, config) == {"site": "puhti2", "job_id": "4711", "followed": False}
    assert transport.asked[-1] == ("cancel", "4711")


def test_what_a_job_has_printed_is_read_from_its_end(
    config: Config, store: Store, clock: Clock, make_site: MakeSite, spec: Spec
) -> None:
    context, transport = make_site([Exchange("submit", "4711\n")])
    submission = Launcher(config, store, clock).launch(context.client, spec)
    asked = Request(1, "logs", "puhti2", {"job_id": "4711"}, "taken", None, 0.0)
    with pytest.raises(RayslurmError, match="job 4711 has printed nothing yet, or its folder is gone") as caught:
        perform(asked, context, config)
    assert caught.value.exit_code == 1
    path = f"{submission.run_dir}/slurm-4711.out"
    transport.files[path] = b"".join(b"line %06d\n" % number for number in range(50_000)) + b"caf\xc3\xa9 \xff\n"
    told = perform(asked, context, config)
    assert (told["path"], told["size"]) == (path, len(transport.files[path]))
    assert told["text"].endswith("line 049999\ncaf\u00e9 \ufffd\n")
    assert re.match(r"line \d{6}\n", told["text"]), "whole lines"
    assert len(told["text"]) <= LOG_BYTES


def test_a_lost_submission_is_taken_up_again_by_track(
    config: Config, store: Store, clock: Clock, make_site: MakeSite, spec: Spec
) -> None:
    context, _ = make_site([Exchange("submit", raises="DeadlineError")])
    lost = Launcher(config, store, clock).launch(context.client, spec)
    name = f"train.rs{lost.token}"
    context, _ = make_site([Exchange("queue", squeue({"JOBID": "4711", "NAME": name}))])
    asked = Request(1, "track", "puhti2", {"job_id": "4711"}, "taken", None, 0.0)
    assert perform(asked, context, config) == {"site": "puhti2", "job_id": "4711", "new": True}
    assert [(row.state, row.job_id, row.error) for row in journal(store)] == [("adopted", "4711", None)]
    with store.snapshot() as connection:
        assert [job.job_name for job in jobs.find(connection, "4711")] == ["train"]


def test_only_a_job_that_is_there_is_cancelled(config: Config, store: Store, make_site: MakeSite) -> None:
    queue = Exchange("queue", squeue({"JOBID": "80_[1-3]"}), repeat=True)
    context, transport = make_site([queue, Exchange("cancel", repeat=True)])

    def ask(job_id: str) -> object:
        return perform(Request(1, "cancel", "puhti2", {"job_id": job_id}, "taken", None, 0.0), context, config)

    assert ask("80_2") == {"site": "puhti2", "job_id": "80_2", "followed": False}
    with pytest.raises(InputError, match="puhti2 has no job 99999 of yours in its queue"):
        ask("99999")
    store.write(lambda connection: jobs.track(connection, "puhti2", "80", now=1.0))
    JobsProbe().run(context)
    assert ask("80") == {"site": "puhti2", "job_id": "80", "followed": True}
    assert [what for verb, what in transport.asked if verb == "cancel"] == ["80_2", "80"]
    assert ask("80_2") == {"site": "puhti2", "job_id": "80_2", "followed": True}, "a part of what is shown as one"
    store.write(lambda connection: connection.execute("UPDATE jobs SET final = 1"))
    with pytest.raises(InputError, match="job 80 on puhti2 has ended already"):
        ask("80")


def test_a_job_that_the_site_does_not_know_is_not_followed(config: Config, store: Store, make_site: MakeSite) -> None:
    answers = [Exchange("queue", squeue()), Exchange("accounting_fields", HELPFORMAT), Exchange("accounting", sacct())]
    context, _ = make_site(answers)
    asked = Request(1, "track", "puhti2", {"job_id": "4712"}, "taken", None, 0.0)
    with pytest.raises(InputError, match="puhti2 knows no job 4712"):
        perform(asked, context, config)
    with store.snapshot() as connection:
        assert jobs.open_tracked(connection, "puhti2") == []
