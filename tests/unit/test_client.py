"""The client of a site: budget, back-off and deadlines hold whatever is asked."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from exporter.client.backoff import AUTH_FIRST_SECONDS, FIRST_SECONDS, LONGEST_SECONDS, Backoff
from exporter.client.commands import (
    SACCT_FIELDS,
    Shell,
    accounting_by_name_command,
    accounting_command,
    known_fields,
    partitions_command,
    queue_command,
    submit_command,
)
from exporter.client.replay import Exchange, RecordingTransport, ReplayTransport
from exporter.client.transport import Answer
from exporter.errors import AuthError, BudgetExhaustedError, CommandError, ConnectError, DeadlineError
from exporter.store import counters
from exporter.store.db import Store
from tests.unit.conftest import Clock, MakeSite

QUEUE = Exchange("queue", "JOBID\n", repeat=True)


def totals(store: Store, name: str) -> dict[str, float]:
    with store.snapshot() as connection:
        return {
            "/".join(value for key, value in sorted(counter.labels.items()) if key != "site"): counter.value
            for counter in counters.read(connection)
            if counter.name == name
        }


def test_the_budget_is_never_exceeded(store: Store, make_site: MakeSite, clock: Clock) -> None:
    context, transport = make_site([QUEUE, Exchange("cancel", repeat=True)])
    for _ in range(100):
        context.client.queue()
        clock.now += 1
    with pytest.raises(BudgetExhaustedError, match="100 commands were sent in the last hour"):
        context.client.queue()
    with context.client.for_person():
        for _ in range(20):
            context.client.queue()
        with pytest.raises(BudgetExhaustedError, match="120 commands"):
            context.client.queue()
        context.client.cancel("1")  # a cancel is never kept waiting
    assert len(transport.asked) == 121
    assert totals(store, "remote_commands_throttled_total") == {"": 2}
    clock.now += 3600 - 100 + 0.5  # the first of the hour drop out, one by one
    with context.client.for_person():
        with pytest.raises(BudgetExhaustedError):
            context.client.queue()
        clock.now += 1
        context.client.queue()


def test_the_budget_is_one_whoever_acts(store: Store, make_site: MakeSite) -> None:
    first, _ = make_site([QUEUE])
    second, _ = make_site([QUEUE])
    for _ in range(50):
        first.client.queue()
        second.client.queue()
    for context in (first, second):
        with pytest.raises(BudgetExhaustedError):
            context.client.queue()
        with store.snapshot() as connection:
            assert context.ledger.remaining(connection) == 20


def test_each_command_is_counted_by_what_became_of_it(store: Store, make_site: MakeSite) -> None:
    context, _ = make_site(
        [
            Exchange("queue", "JOBID\n"),
            Exchange("queue", stderr="slurm_load_jobs error\n", exit_status=1),
            Exchange("queue", raises="DeadlineError"),
            Exchange("queue", raises="SessionLostError"),
        ]
    )
    context.client.queue()
    for _ in range(3):
        with pytest.raises(Exception, match=r"slurm_load_jobs error|DeadlineError|SessionLostError"):
            context.client.queue()
    assert totals(store, "remote_commands_total") == {
        "squeue/ok": 1, "squeue/failed": 1, "squeue/timeout": 1, "squeue/lost": 1,
    }  # fmt: skip


def test_a_site_that_cannot_be_reached_is_left_in_peace(store: Store, make_site: MakeSite, clock: Clock) -> None:
    context, transport = make_site([Exchange("connect", raises="ConnectError", stderr="refused", repeat=True), QUEUE])
    tries = 0
    for _ in range(3600):
        before = len(transport.asked)
        with pytest.raises(ConnectError):
            context.client.queue()
        tries += len(transport.asked) - before
        clock.now += 1
    assert 4 <= tries <= 3600 / LONGEST_SECONDS + 6
    assert totals(store, "ssh_connections_total") == {"refused": tries}
    assert totals(store, "remote_commands_total") == {}, "nothing was sent, so nothing is booked"


def test_people_need_not_wait_but_for_a_refused_login(make_site: MakeSite) -> None:
    context, transport = make_site(
        [
            Exchange("connect", raises="ConnectError", stderr="refused"),
            Exchange("connect", raises="AuthError", stderr="did not accept the key"),
            QUEUE,
        ]
    )
    with pytest.raises(ConnectError, match="refused"):
        context.client.queue()
    with context.client.for_person(), pytest.raises(AuthError):
        context.client.queue()
    asked = len(transport.asked)
    with context.client.for_person(), pytest.raises(ConnectError, match=r"not tried again for .* did not accept"):
        context.client.queue()
    assert len(transport.asked) == asked


def test_a_refused_login_is_repeated_by_no_other_process_either(make_site: MakeSite, clock: Clock) -> None:
    refusing = Exchange("connect", raises="AuthError", stderr="did not accept the key", repeat=True)
    first, transport = make_site([refusing])
    with pytest.raises(AuthError):
        first.client.queue()
    assert len(transport.asked) == 1
    second, transport = make_site([refusing])
    with second.client.for_person(), pytest.raises(ConnectError, match=r"not tried again for .* s, because: did not"):
        second.client.queue()
    assert transport.asked == []
    clock.now += AUTH_FIRST_SECONDS * 1.3
    third, transport = make_site([QUEUE])
    assert third.client.queue().exit_status == 0


def test_a_refusal_counts_for_its_credentials_and_where_they_are_not_known(make_site: MakeSite) -> None:
    ledger = make_site([])[0].ledger
    ledger.refused(900, "these", "did not accept the key")
    assert ledger.refusal("others") is None
    assert ledger.refusal("these") == ledger.refusal(None) == (900, "did not accept the key")
    ledger.refused(900, None, "did not accept the key")
    assert ledger.refusal("others") == ledger.refusal(None) == (900, "did not accept the key")


def test_a_refused_login_waits_long_and_ever_longer() -> None:
    clock = Clock(0.0)
    backoff = Backoff(clock, jitter=lambda: 1.0)
    waits = []
    for error in (ConnectError("a"), ConnectError("b"), AuthError("c"), AuthError("d")):
        backoff.failed(error)
        waits.append(backoff.remaining())
    assert waits == [FIRST_SECONDS, 2 * FIRST_SECONDS, AUTH_FIRST_SECONDS, 2 * AUTH_FIRST_SECONDS]
    for _ in range(50):
        backoff.failed(AuthError("e"))
    assert backoff.remaining() == 4 * 3600
    backoff.reset()
    assert backoff.remaining() == 0


def test_jitter_keeps_sites_apart() -> None:
    waits = set()
    for _ in range(20):
        backoff = Backoff(Clock(0.0))
        backoff.failed(ConnectError("x"))
        waits.add(backoff.remaining())
    assert len(waits) > 10
    assert all(0.75 * FIRST_SECONDS <= wait <= 1.25 * FIRST_SECONDS for wait in waits)


def test_accounting_is_asked_only_for_fields_that_this_slurm_knows() -> None:
    new = known_fields(" ".join(SACCT_FIELDS))
    assert new == SACCT_FIELDS
    old = known_fields("Account AllocCPUS JobID JobName Reserved ResvCPURAW State")
    assert old == ("JobID", "Account", "State", "AllocCPUS", "Reserved", "ResvCPURAW", "JobName")


def run_with_fake(tmp_path: Path, program: str, command: str) -> list[str]:
    """Runs a command with a program that prints its arguments and what it finds in its environment."""
    fake = tmp_path / program
    fake.write_text('#!/bin/sh\nfor word in "$@"; do echo "$word"; done\nenv | grep -E "^(S[A-Z]+_|LC_ALL)" | sort\n')
    fake.chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "SBATCH_ACCOUNT": "other", "SBATCH_JOB_NAME": "x",
        "SQUEUE_STATES": "PD", "SACCT_FORMAT": "user", "SINFO_PARTITION": "small",
    }  # fmt: skip
    return subprocess.run(
        ["/bin/bash", "-c", command], env=environment, capture_output=True, text=True, check=True
    ).stdout.split("\n")[:-1]


def test_what_is_sent_is_quoted_batched_and_free_of_the_users_settings(tmp_path: Path) -> None:
    clean = ["LC_ALL=C", "SLURM_TIME_FORMAT=%s"]
    sacct = run_with_fake(tmp_path, "sacct", accounting_command(["1", "2_[3]"], ["JobID", "JobName"], duplicates=True))
    assert sacct == ["-P", "--delimiter=\x1f", "--duplicates", "-j", "1,2_[3]", "-o", "JobID,JobName", *clean]
    squeue = run_with_fake(tmp_path, "squeue", queue_command(["a", "b; rm -rf / 'x"]))
    assert squeue[:3] == ["--me", "--states=all", "--name=a,b; rm -rf / 'x"]
    assert squeue[-2:] == clean

    sinfo = run_with_fake(tmp_path, "sinfo", partitions_command())
    assert sinfo == ["--all", "--exact", "-o", "%R|%a|%l|%s|%D|%c|%m|%G|%B|%h", *clean]

    by_name = run_with_fake(tmp_path, "sacct", accounting_by_name_command(["a", "it's"], 25))
    assert by_name[by_name.index("-S") :][:4] == ["-S", "now-25hours", "-E", "now+24hours"], "no wider than sites allow"
    assert "--name=a,it's" in by_name
    assert by_name[-2:] == clean

    class Local(Shell):
        def run(self, command: str, deadline: float) -> Answer:
            return Answer(command, "\n".join(run_with_fake(tmp_path, "sbatch", command)), "", 0, deadline)

    (tmp_path / "it's here").mkdir()
    assert Local().submit(str(tmp_path / "it's here"), "job.sbatch", 1).stdout.split() == ["--parsable", "job.sbatch"]


def test_what_hangs_before_sbatch_keeps_it_from_submitting_later(tmp_path: Path) -> None:
    """A `cd` to a file system that hangs, of which nobody waits for the end any more."""
    slow = tmp_path / "slow"
    slow.write_text("sleep 3\n")
    (tmp_path / "sbatch").write_text(f"#!/bin/sh\ntouch {tmp_path}/submitted\n")
    (tmp_path / "sbatch").chmod(0o755)
    command = submit_command(str(tmp_path), "job.sbatch", 1).replace('cd "$0"', f". {slow}")
    assert "slow" in command
    started = time.monotonic()
    done = subprocess.run(
        ["/bin/sh", "-c", command], env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}, check=False
    )
    assert done.returncode == 124
    assert time.monotonic() - started < 3
    assert not (tmp_path / "submitted").exists()


def test_a_session_that_died_meanwhile_is_made_anew_and_nothing_is_sent_twice(
    store: Store, make_site: MakeSite
) -> None:
    context, transport = make_site([Exchange("submit", raises="ConnectError"), Exchange("submit", "7\n")])
    assert context.client.submit("/x", "job").stdout == "7\n"
    assert [verb for verb, _ in transport.asked] == ["submit", "submit"]
    assert totals(store, "remote_commands_total") == {"sbatch/ok": 1}


def test_an_upgrade_of_slurm_is_noticed(make_site: MakeSite) -> None:
    context, transport = make_site(
        [
            Exchange("accounting_fields", "JobID Reserved\n"),
            Exchange("accounting", "", "sacct: error: Invalid field requested: Reserved\n", 1),
            Exchange("accounting_fields", "JobID Planned\n"),
            Exchange("accounting", "JobID\n"),
        ]
    )
    with pytest.raises(CommandError, match="Invalid field"):
        context.client.accounting(["1"])
    assert context.client.accounting(["1"]).stdout == "JobID\n"
    assert [verb for verb, _ in transport.asked].count("accounting_fields") == 2


def test_a_clock_that_was_far_ahead_does_not_block_for_ever(make_site: MakeSite, clock: Clock) -> None:
    context, _ = make_site([QUEUE])
    clock.now += 30 * 86400
    for _ in range(100):
        context.client.queue()
    clock.now -= 30 * 86400
    context.client.queue()


def test_errors_of_slurm_are_told_in_its_words(make_site: MakeSite) -> None:
    said = "sacct: error: x\nsacct: error: Problem talking to the database: Connection refused\n"
    context, _ = make_site([Exchange("accounting_fields", "JobID\n"), Exchange("accounting", "", said, 1)])
    with pytest.raises(CommandError, match="ended with 1: sacct: error: Problem talking to the database"):
        context.client.accounting(["1"])


def test_a_recorded_session_answers_as_the_site_did(tmp_path: Path) -> None:
    site = ReplayTransport([Exchange("queue", "JOBID\n1\n"), Exchange("submit", raises="DeadlineError", stderr="late")])
    recorder = RecordingTransport(site)
    assert recorder.queue([], 1.0).stdout == "JOBID\n1\n"
    with pytest.raises(DeadlineError):
        recorder.submit("/x", "job", 1.0)
    recorder.save(tmp_path / "session.json")
    replayed = ReplayTransport.load(tmp_path / "session.json")
    assert replayed.queue([], 1.0).stdout == "JOBID\n1\n"
    with pytest.raises(DeadlineError, match="late"):
        replayed.submit("/x", "job", 1.0)
