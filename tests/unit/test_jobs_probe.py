"""The jobs probe against a site that answers from a script: what it asks, how often, what it makes of the answers."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import pytest

from exporter.client.replay import Exchange
from exporter.errors import CommandError, InputError
from exporter.probes.jobs import QUICK_SECONDS, SACCT_PER_HOUR, SLOW_SECONDS, JobsProbe
from exporter.store import counters, jobs, reports
from exporter.store.db import Store
from exporter.store.jobs import JobRow
from tests.slurm_texts import HELPFORMAT, finished, sacct, squeue
from tests.unit.conftest import Clock, MakeSite

SITE = "puhti2"
EMPTY = Exchange("queue", squeue())
FIELDS = Exchange("accounting_fields", HELPFORMAT)


def follow(store: Store, *ids: str) -> None:
    for job_id in ids:
        store.write(partial(jobs.track, site=SITE, root_id=job_id, now=1.0))


def known(store: Store, job_id: str) -> JobRow:
    with store.snapshot() as connection:
        (job,) = jobs.find(connection, job_id, SITE)
    return job


def finished_totals(store: Store) -> dict[str, float]:
    with store.snapshot() as connection:
        return {
            counter.labels["state"]: counter.value
            for counter in counters.read(connection)
            if counter.name == "jobs_finished_total" and counter.value
        }


def test_a_job_from_pending_to_its_end(store: Store, make_site: MakeSite) -> None:
    follow(store, "77")
    running = {"STATE": "RUNNING", "TIME": "0:40", "START_TIME": "1794999910", "NODELIST": "r[01-02]"}
    context, transport = make_site(
        [
            Exchange("queue", squeue({"JOBID": "77", "REASON": "Priority", "START_TIME": "1795000500"})),
            Exchange("queue", squeue({"JOBID": "77", **running})),
            EMPTY,
            FIELDS,
            Exchange("accounting", sacct(*finished("77"))),
        ]
    )
    probe = JobsProbe()

    probe.run(context)
    job = known(store, "77")
    assert (job.state, job.pending_reason, job.expected_start_time, job.start_time) == (
        "pending", "Priority", 1795000500, None,
    )  # fmt: skip

    probe.run(context)
    job = known(store, "77")
    assert (job.state, job.pending_reason, job.start_time, job.elapsed_seconds) == ("running", None, 1794999910, 40)
    assert not any(verb == "accounting" for verb, _ in transport.asked), "a job in the queue needs no accounting"

    probe.run(context)
    job = known(store, "77")
    assert (job.state, job.end_time, job.exit_code, job.final) == ("completed", 1795000010, 0, True)
    assert finished_totals(store) == {"completed": 1}
    with store.snapshot() as connection:
        (report,) = reports.of_job(connection, SITE, "77")
        assert jobs.open_tracked(connection, SITE) == []
    assert report.cpu_efficiency_ratio == pytest.approx(200 / 400)
    assert report.memory_efficiency_ratio == pytest.approx(0.5)
    assert report.walltime_efficiency_ratio == pytest.approx(100 / 1200)


def test_a_finished_job_is_asked_for_once(store: Store, make_site: MakeSite, clock: Clock) -> None:
    follow(store, "77")
    context, transport = make_site(
        [Exchange("queue", squeue(), repeat=True), FIELDS, Exchange("accounting", sacct(*finished("77")))]
    )
    probe = JobsProbe()
    for _ in range(5):
        probe.run(context)
        clock.now += 3600
    assert [verb for verb, _ in transport.asked].count("accounting") == 1
    assert finished_totals(store) == {"completed": 1}


def test_all_that_left_the_queue_is_asked_for_at_once(store: Store, make_site: MakeSite) -> None:
    follow(store, "77", "78", "79")
    rows = [*finished("77"), *finished("78", "FAILED", ExitCode="7:0"), *finished("79", "CANCELLED by 20001")]
    context, transport = make_site([EMPTY, FIELDS, Exchange("accounting", sacct(*rows))])
    JobsProbe().run(context)
    assert [asked for verb, asked in transport.asked if verb == "accounting"] == [(("77", "78", "79"), False)]
    assert [known(store, job_id).state for job_id in ("77", "78", "79")] == ["completed", "failed", "cancelled"]
    assert known(store, "78").exit_code == 7
    assert finished_totals(store) == {"completed": 1, "failed": 1, "cancelled": 1}


def test_accounting_that_lags_is_asked_again_later(store: Store, make_site: MakeSite, clock: Clock) -> None:
    follow(store, "77")
    (job, batch) = finished("77")
    context, transport = make_site(
        [
            Exchange("queue", squeue(), repeat=True),
            FIELDS,
            Exchange("accounting", sacct({**job, "State": "RUNNING", "End": "Unknown"}, {**batch, "State": "RUNNING"})),
            Exchange("accounting", sacct({**job, "End": "Unknown"}, batch)),
            Exchange("accounting", sacct(job, {**batch, "State": "RUNNING", "End": "Unknown"})),
            Exchange("accounting", sacct(job, batch)),
        ]
    )
    probe = JobsProbe()
    told = []
    for wait in (130, 250, 490, 0):
        probe.run(context)
        told.append((known(store, "77").final, finished_totals(store)))
        asked = len(transport.asked)
        probe.run(context)
        assert [verb for verb, _ in transport.asked[asked:]] == ["queue"], "it must wait before it asks again"
        clock.now += wait
    assert told == [(False, {}), (False, {}), (False, {}), (True, {"completed": 1})]


def test_steps_that_never_end_do_not_keep_a_job_open(store: Store, make_site: MakeSite, clock: Clock) -> None:
    follow(store, "77")
    (job, batch) = finished("77")
    clock.now = 1795000010 + 3600
    stuck = sacct(job, {**batch, "State": "RUNNING", "End": "Unknown"})
    context, _ = make_site([EMPTY, FIELDS, Exchange("accounting", stuck)])
    JobsProbe().run(context)
    assert known(store, "77").final


def test_a_job_that_nobody_names_is_unknown_and_not_completed(store: Store, make_site: MakeSite, clock: Clock) -> None:
    follow(store, "77")
    context, _ = make_site([EMPTY, FIELDS, Exchange("accounting", sacct()), EMPTY, EMPTY])
    probe = JobsProbe()
    probe.run(context)
    job = known(store, "77")
    assert (job.state, job.state_since, job.final) == ("unknown", clock.now, False)
    since = clock.now
    clock.now += 60
    probe.run(context)
    assert known(store, "77").state_since == since, "its age goes on"
    assert finished_totals(store) == {}


def test_a_task_that_ends_while_others_run_is_not_forgotten(store: Store, make_site: MakeSite, clock: Clock) -> None:
    follow(store, "80")
    running = [{"JOBID": f"80_{task}", "STATE": "RUNNING", "START_TIME": "1794999910"} for task in (1, 2)]
    waiting = {"JOBID": "80_[3-9%2]"}
    later = [{**row, "State": "RUNNING", "End": "Unknown"} for row in finished("80_2")]
    rest = {"JobID": "80_[3-9]", "State": "PENDING", "Start": "Unknown", "End": "Unknown"}
    context, transport = make_site(
        [
            Exchange("queue", squeue(*running, waiting)),
            Exchange("queue", squeue(running[1], waiting), repeat=True),
            FIELDS,
            Exchange("accounting", sacct(*finished("80_1", "FAILED", ExitCode="1:0"), *later, rest)),
        ]
    )
    probe = JobsProbe()
    for _ in range(4):
        probe.run(context)
        clock.now += 600
    with store.snapshot() as connection:
        shown = {job.job_id: (job.state, job.final) for job in jobs.jobs_of(connection, SITE, "80")}
    assert shown == {"80_1": ("failed", True), "80_2": ("running", False), "80_[3-9%2]": ("pending", False)}
    assert finished_totals(store) == {"failed": 1}
    assert [verb for verb, _ in transport.asked].count("accounting") == 1, "asked once, for the task that ended"


def test_an_array_cancelled_while_it_waits_stays_shown_and_is_counted_once(
    store: Store, make_site: MakeSite, clock: Clock
) -> None:
    follow(store, "80", "81")
    cancelled = {"JobID": "80_[3-9]", "State": "CANCELLED by 20001", "Start": "None", "End": "1795000010"}
    lagging = [{**row, "State": "RUNNING", "End": "Unknown"} for row in finished("81")]
    context, _ = make_site(
        [
            Exchange("queue", squeue(), repeat=True),
            FIELDS,
            Exchange("accounting", sacct({**cancelled, "ElapsedRaw": "0"}, *lagging), repeat=True),
        ]
    )
    probe = JobsProbe()
    for _ in range(4):
        probe.run(context)
        clock.now += 600
    assert known(store, "80_[3-9]").final
    assert finished_totals(store) == {"cancelled": 1}


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(finished("77")[:1], id="no step has come in"),
        pytest.param(
            [finished("77")[0], {**finished("77")[1], "State": "RUNNING", "End": "Unknown"}],
            id="a step is still told as running",
        ),
        pytest.param(
            [
                {**row, "State": state, "TotalCPU": "00:00:00"}
                for row, state in zip(finished("77"), ("NODE_FAIL", "CANCELLED"), strict=True)
            ],
            id="the node failed",
        ),
        pytest.param([{**row, "TotalCPU": "00:00:00"} for row in finished("77")], id="nobody reported"),
    ],
)
def test_what_a_job_used_is_absent_where_it_did_not_come_in(
    store: Store, make_site: MakeSite, clock: Clock, rows: list[dict[str, str]]
) -> None:
    follow(store, "77")
    clock.now += 3600
    context, _ = make_site([EMPTY, FIELDS, Exchange("accounting", sacct(*rows))])
    JobsProbe().run(context)
    with store.snapshot() as connection:
        (report,) = reports.of_job(connection, SITE, "77")
    assert (report.cpu_used_seconds, report.cpu_efficiency_ratio, report.memory_efficiency_ratio) == (None, None, None)
    assert report.cpu_allocated_seconds == 400
    assert report.walltime_efficiency_ratio == pytest.approx(100 / 1200)


def test_an_array_is_one_row_a_task_and_the_waiting_rest(store: Store, make_site: MakeSite) -> None:
    follow(store, "80")
    first = squeue({"JOBID": "80_[1-3]"})
    second = squeue({"JOBID": "80_[3]"}, {"JOBID": "80_1", "STATE": "RUNNING"}, {"JOBID": "80_2", "STATE": "RUNNING"})
    rows = [*finished("80_1"), *finished("80_2", "FAILED", ExitCode="1:0"), *finished("80_3")]
    context, _ = make_site(
        [Exchange("queue", first), Exchange("queue", second), EMPTY, FIELDS, Exchange("accounting", sacct(*rows))]
    )
    probe = JobsProbe()
    shown = []
    for _ in range(3):
        probe.run(context)
        with store.snapshot() as connection:
            shown.append({job.job_id: job.state for job in jobs.jobs_of(connection, SITE, "80")})
    assert shown == [
        {"80_[1-3]": "pending"},
        {"80_[3]": "pending", "80_1": "running", "80_2": "running"},
        {"80_1": "completed", "80_2": "failed", "80_3": "completed"},
    ]
    assert finished_totals(store) == {"completed": 2, "failed": 1}


def test_a_requeued_job_waits_again_and_counts_once(store: Store, make_site: MakeSite) -> None:
    follow(store, "77")
    again = {"JOBID": "77", "RESTART_COUNT": "1"}
    earlier = finished("77", "NODE_FAIL")
    later = [{**row, "Submit": "1795000100"} for row in finished("77")]
    context, transport = make_site(
        [
            Exchange("queue", squeue({"JOBID": "77", "STATE": "RUNNING", "START_TIME": "1794999910", "TIME": "1:00"})),
            Exchange("queue", squeue({**again, "REASON": "BeginTime"})),
            EMPTY,
            FIELDS,
            Exchange("accounting", sacct(*earlier, *later)),
        ]
    )
    probe = JobsProbe()
    probe.run(context)
    probe.run(context)
    job = known(store, "77")
    assert (job.state, job.start_time, job.elapsed_seconds, job.restarts) == ("pending", None, None, 1)
    probe.run(context)
    assert [asked for verb, asked in transport.asked if verb == "accounting"] == [(("77",), True)]
    job = known(store, "77")
    assert (job.state, job.restarts, job.final) == ("completed", 1, True)
    assert finished_totals(store) == {"completed": 1}


def test_a_job_put_back_after_its_end_is_followed_again_but_not_counted_twice(
    store: Store, make_site: MakeSite
) -> None:
    follow(store, "77")
    done = Exchange("accounting", sacct(*finished("77")))
    context, _ = make_site(
        [EMPTY, FIELDS, done, Exchange("queue", squeue({"JOBID": "77", "STATE": "RUNNING"})), EMPTY, done]
    )
    probe = JobsProbe()
    probe.run(context)
    probe.run(context)
    assert (known(store, "77").state, known(store, "77").final) == ("running", False)
    probe.run(context)
    assert known(store, "77").final
    assert finished_totals(store) == {"completed": 1}


def test_jobs_that_nobody_asked_to_follow_are_left_alone(store: Store, make_site: MakeSite) -> None:
    context, transport = make_site([Exchange("queue", squeue({"JOBID": "5"}))])
    JobsProbe().run(context)
    with store.snapshot() as connection:
        assert jobs.find(connection, "5") == []
    assert [verb for verb, _ in transport.asked] == ["queue"]


def test_the_queue_is_looked_at_less_often_while_nothing_changes(store: Store, make_site: MakeSite) -> None:
    follow(store, "77")
    waiting = Exchange("queue", squeue({"JOBID": "77"}))
    context, _ = make_site([waiting] * 6 + [Exchange("queue", squeue({"JOBID": "77", "STATE": "RUNNING"}))] * 2)
    probe = JobsProbe()
    delays = [probe.run(context) for _ in range(6)]
    assert delays[0] == QUICK_SECONDS
    assert delays == sorted(delays)
    assert delays[-1] == SLOW_SECONDS
    assert probe.run(context) == QUICK_SECONDS, "a start makes it look again soon"
    probe.run(context)
    assert probe.hurry(context)
    assert probe.delay_after_failure() == QUICK_SECONDS


def test_the_queue_is_looked_at_at_most_thirty_times_an_hour(store: Store, make_site: MakeSite, clock: Clock) -> None:
    follow(store, "77")
    states = ("RUNNING", "PENDING")
    context, transport = make_site(
        [Exchange("queue", squeue({"JOBID": "77", "STATE": states[number % 2]})) for number in range(60)]
    )
    probe = JobsProbe()
    end = clock.now + 3600
    while clock.now < end:
        delay = probe.run(context)
        # Somebody does something again and again, and each time the queue is to be looked at.
        clock.now += 10 if probe.hurry(context) else delay
    assert len(transport.asked) <= 30


def test_accounting_is_asked_at_most_twelve_times_an_hour(store: Store, make_site: MakeSite, clock: Clock) -> None:
    context, transport = make_site(
        [Exchange("queue", squeue(), repeat=True), FIELDS, Exchange("accounting", sacct(), repeat=True)]
    )
    probe = JobsProbe()
    asked = []
    for number in range(100, 300):
        follow(store, str(number))
        before = len(transport.asked)
        probe.run(context)
        asked += [clock.now] * any(verb == "accounting" for verb, _ in transport.asked[before:])
        clock.now += 50
    assert max(sum(moment <= at < moment + 3600 for at in asked) for moment in asked) <= SACCT_PER_HOUR
    waits = [later - earlier for earlier, later in pairwise(asked)]
    assert max(waits) <= SLOW_SECONDS + 50, "spread over the hour, not used up at its beginning"


def test_what_left_the_queue_is_unknown_until_accounting_may_be_asked(
    store: Store, make_site: MakeSite, clock: Clock
) -> None:
    context, _ = make_site(
        [
            FIELDS,
            Exchange("accounting", sacct(), repeat=True),
            Exchange("queue", squeue({"JOBID": "77", "STATE": "RUNNING"})),
            EMPTY,
            EMPTY,
        ]
    )
    follow(store, "77")
    for _ in range(SACCT_PER_HOUR):
        context.client.accounting(["1"])
    probe = JobsProbe()
    for state in ("running", "unknown", "unknown"):
        probe.run(context)
        assert known(store, "77").state == state
        clock.now += 60


@pytest.mark.parametrize("parts", [("80_1", "80_2"), ("80+0", "80+1")])
def test_what_stood_for_an_unseen_array_goes_when_its_tasks_are_known(
    store: Store, make_site: MakeSite, clock: Clock, parts: tuple[str, str]
) -> None:
    follow(store, "80")
    rows = [row for part in parts for row in finished(part)]
    context, _ = make_site([EMPTY, EMPTY, FIELDS, Exchange("accounting", sacct(), repeat=False),
                            *[Exchange("accounting", sacct())] * (SACCT_PER_HOUR - 1),
                            Exchange("accounting", sacct(*rows))])  # fmt: skip
    for _ in range(SACCT_PER_HOUR):
        context.client.accounting(["1"])
    probe = JobsProbe()
    probe.run(context)
    assert known(store, "80").state == "unknown"
    clock.now += 3601
    probe.run(context)
    with store.snapshot() as connection:
        assert [job.job_id for job in jobs.jobs_of(connection, SITE, "80")] == list(parts)
        assert jobs.open_tracked(connection, SITE) == []


def test_slurm_that_cannot_answer_changes_nothing(store: Store, make_site: MakeSite) -> None:
    follow(store, "77")
    said = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n"
    context, _ = make_site(
        [Exchange("queue", squeue({"JOBID": "77", "STATE": "RUNNING"})), Exchange("queue", "", said, 1)]
    )
    probe = JobsProbe()
    probe.run(context)
    with pytest.raises(CommandError, match="Unable to contact slurm controller"):
        probe.run(context)
    assert known(store, "77").state == "running"


def test_text_that_is_no_queue_changes_nothing(store: Store, make_site: MakeSite) -> None:
    follow(store, "77")
    context, _ = make_site([Exchange("queue", squeue({"JOBID": "77"})), Exchange("queue", "Welcome to Puhti!\n")])
    probe = JobsProbe()
    probe.run(context)
    with pytest.raises(InputError, match="Welcome to Puhti!"):
        probe.run(context)
    assert known(store, "77").state == "pending"


def test_a_garbled_row_is_counted_and_the_others_go_on(store: Store, make_site: MakeSite) -> None:
    follow(store, "77")
    garbled = squeue({"JOBID": "77"}) + "\x00\x1bgarbage\n"
    context, _ = make_site([Exchange("queue", garbled)])
    JobsProbe().run(context)
    assert known(store, "77").state == "pending"
    with store.snapshot() as connection:
        errors = [counter for counter in counters.read(connection) if counter.name == "parse_errors_total"]
        kept = connection.execute("SELECT text FROM raw_outputs").fetchall()
    assert [(counter.labels, counter.value) for counter in errors] == [({"parser": "squeue", "site": SITE}, 1)]
    assert [row["text"] for row in kept] == [garbled]


def test_where_accounting_does_not_tell_of_restarts_every_attempt_is_asked_for(
    store: Store, make_site: MakeSite
) -> None:
    """Slurm 22.05: the queue knows how often a job ran again, accounting doesn't."""
    follow(store, "77")
    first = finished("77", "REQUEUED", Start="1794999700", End="1794999800", Submit="1794999600", User="maija")
    strangers = finished("77", Start="1700000000", End="1700000100", Submit="1699999999", User="someone")
    rows = sacct(*strangers, *first, *finished("77"))
    fields = Exchange("accounting_fields", HELPFORMAT.replace("Restarts", ""))
    context, transport = make_site([EMPTY, fields, Exchange("accounting", rows)])
    JobsProbe().run(context)
    assert [asked for verb, asked in transport.asked if verb == "accounting"] == [(("77",), True)]
    assert known(store, "77").restarts == 1, "what ran under that id for somebody else is no attempt"
    assert finished_totals(store) == {"completed": 1}


def test_what_accounting_made_of_a_step_alone_is_no_last_word(store: Store, make_site: MakeSite, clock: Clock) -> None:
    """Printed by Slurm 22.05 while slurmdbd had heard of the job's step and not yet of the job."""
    follow(store, "77")
    job, step = finished("77", Partition="", JobName="allocation", ReqCPUS="0", ReqMem="16?")
    answers = [Exchange("accounting", sacct(job, step)), Exchange("accounting", sacct(*finished("77")))]
    context, _ = make_site([Exchange("queue", squeue(), repeat=True), FIELDS, *answers])
    probe = JobsProbe()
    probe.run(context)
    assert finished_totals(store).get("completed", 0) == 0
    clock.now += 3600
    probe.run(context)
    assert finished_totals(store) == {"completed": 1}
    assert (known(store, "77").partition, known(store, "77").job_name) == ("small", "demo")
