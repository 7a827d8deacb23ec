"""Submissions of which no job is known: what the site's answers, whichever they are, make of them."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.client.commands import DELIMITER
from exporter.client.replay import Exchange, ReplayTransport
from exporter.errors import CommandError, ConnectError, InputError
from exporter.probes import ProbeContext
from exporter.probes.jobs import JobsProbe
from exporter.probes.submissions import GRACE_SECONDS, LAST_SECONDS, SubmissionsProbe
from exporter.store import counters, jobs, submissions
from exporter.store.db import Store
from exporter.store.submissions import Submission
from tests.slurm_texts import squeue
from tests.unit.conftest import Clock, MakeSite

SITE = "puhti2"
TOKEN = "abcdefghjkmn"
NAME = f"train.rs{TOKEN}"


def named(*jobs: tuple[str, str]) -> str:
    """Returns what accounting answers when it is asked for names."""
    rows = [("JobID", "State", "JobName"), *((job_id, "COMPLETED", name) for job_id, name in jobs)]
    return "".join(DELIMITER.join(row) + "\n" for row in rows)


NOTHING = [Exchange("queue", squeue(), repeat=True), Exchange("accounting_by_name", named(), repeat=True)]


def intend(store: Store, token: str = TOKEN, *, state: str = "unknown", created: float = 1_795_000_000.0) -> None:
    store.write(
        lambda connection: submissions.intend(
            connection, token=token, site=SITE, campaign="", name="train", spec={"project": "project_2001234"},
            run_dir="x", tunnels={}, now=created,
        )
    )  # fmt: skip
    store.write(
        lambda connection: connection.execute("UPDATE submissions SET state = ? WHERE token = ?", (state, token))
    )


def read(store: Store, token: str = TOKEN) -> Submission:
    with store.snapshot() as connection:
        return submissions.get(connection, token)


@pytest.fixture
def ticking() -> Clock:
    """The monotonic clock."""
    return Clock(50.0)


@pytest.fixture
def probe(ticking: Clock) -> SubmissionsProbe:
    return SubmissionsProbe(clock=ticking)


def asked(transport: ReplayTransport) -> list[str]:
    return [verb for verb, _ in transport.asked]


def test_where_nothing_is_in_doubt_nobody_is_asked(probe: SubmissionsProbe, make_site: MakeSite) -> None:
    context, transport = make_site([])
    probe.run(context)
    assert transport.asked == []
    assert not probe.hurry(context)


def test_a_job_in_the_queue_is_taken_up(probe: SubmissionsProbe, store: Store, make_site: MakeSite) -> None:
    intend(store)
    context, transport = make_site([Exchange("queue", squeue({"JOBID": "4711", "NAME": NAME}))])
    assert probe.hurry(context)
    probe.run(context)
    assert transport.asked == [("queue", (NAME,))], "accounting is spared"
    assert (read(store).state, read(store).job_id, read(store).error) == ("adopted", "4711", None)
    with store.snapshot() as connection:
        assert [followed.root_id for followed in jobs.open_tracked(connection, SITE)] == ["4711"]
        counted = {counter.name: counter.value for counter in counters.read(connection)}
    assert counted["jobs_submitted_total"] == 1


def test_a_job_that_ended_meanwhile_is_taken_up_from_accounting(
    probe: SubmissionsProbe, store: Store, make_site: MakeSite, clock: Clock
) -> None:
    intend(store, created=clock.now - 7 * 3600 - 1)
    accounting = Exchange("accounting_by_name", named(("4711", NAME)))
    context, transport = make_site([Exchange("queue", squeue()), accounting])
    probe.run(context)
    assert (read(store).state, read(store).job_id) == ("adopted", "4711")
    assert transport.asked[-1] == ("accounting_by_name", ((NAME,), 8 + 24)), "a day more than its age"


def test_absent_takes_two_looks_with_time_between_and_one_when_the_script_is_put_away(
    probe: SubmissionsProbe, store: Store, make_site: MakeSite, ticking: Clock
) -> None:
    intend(store)
    context, transport = make_site(NOTHING, {"x/job.sbatch": b"#!/bin/bash"})
    look = ["queue", "accounting_by_name"]
    for wait, did in (
        (0.0, look),
        (GRACE_SECONDS - 1, []),
        (1.0, [*look, "rename"]),
        (LAST_SECONDS - 1, []),
    ):
        ticking.now += wait
        transport.asked.clear()
        probe.run(context)
        assert asked(transport) == did
        assert read(store).state == "unknown"
        if did:
            assert set(transport.files) == {"x/job.sbatch" + (".absent" if "rename" in did else "")}
    ticking.now += 1.0
    probe.run(context)
    row = read(store)
    assert row.state == "absent"
    assert row.error == (
        f"no job came of it: neither the queue nor accounting of puhti2 named one of its name {NAME}, time and again"
    )


def test_a_job_that_shows_up_after_its_script_was_put_away_is_taken_up(
    probe: SubmissionsProbe, store: Store, make_site: MakeSite, ticking: Clock
) -> None:
    intend(store)
    context, _ = make_site(NOTHING, {"x/job.sbatch": b"#!/bin/bash"})
    probe.run(context)
    ticking.now += GRACE_SECONDS
    probe.run(context)
    ticking.now += GRACE_SECONDS
    probe.run(make_site([Exchange("queue", squeue({"JOBID": "4711", "NAME": NAME}))])[0])
    assert (read(store).state, read(store).job_id) == ("adopted", "4711")


def test_a_restart_makes_both_looks_anew(store: Store, make_site: MakeSite, ticking: Clock) -> None:
    intend(store)
    context, _ = make_site(NOTHING)
    for _ in range(5):
        SubmissionsProbe(clock=ticking).run(context)
        ticking.now += GRACE_SECONDS * 10
    assert read(store).state == "unknown"


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ([Exchange("queue", "", "Unable to contact slurm controller", 1)], CommandError),
        ([Exchange("queue", squeue()), Exchange("accounting_by_name", "", "no database", 1)], CommandError),
        ([Exchange("queue", squeue()), Exchange("accounting_by_name", "<html>\n")], InputError),
        ([Exchange("queue", raises="ConnectError", repeat=True)], ConnectError),
    ],
)  # fmt: skip
def test_an_answer_that_is_none_is_no_look(
    probe: SubmissionsProbe,
    store: Store,
    make_site: MakeSite,
    ticking: Clock,
    answers: list[Exchange],
    error: type[Exception],
) -> None:
    intend(store)
    good, _ = make_site(NOTHING)
    probe.run(good)
    ticking.now += GRACE_SECONDS
    context, _ = make_site(answers)
    with pytest.raises(error):
        probe.run(context)
    assert read(store).state == "unknown"


def test_failures_are_spaced_out(probe: SubmissionsProbe, store: Store, make_site: MakeSite) -> None:
    intend(store)
    waits = []
    for _ in range(7):
        context, _ = make_site([Exchange("queue", "", "Unable to contact slurm controller", 1)])
        with pytest.raises(CommandError):
            probe.run(context)
        waits.append(probe.delay_after_failure())
    assert waits == [60, 120, 240, 480, 900, 1800, 3600]


def test_a_row_that_is_not_understood_may_be_the_job(
    probe: SubmissionsProbe, store: Store, make_site: MakeSite, ticking: Clock
) -> None:
    intend(store)
    garbled = squeue() + DELIMITER.join(["4711", "train.rs"]) + "\n"
    context, _ = make_site(
        [Exchange("queue", garbled, repeat=True), Exchange("accounting_by_name", named(), repeat=True)]
    )
    for _ in range(3):
        with pytest.raises(InputError, match="may hide a job"):
            probe.run(context)
        ticking.now += GRACE_SECONDS
    assert read(store).state == "unknown"


def test_accounting_is_asked_no_oftener_than_it_may(
    probe: SubmissionsProbe, store: Store, make_site: MakeSite, ticking: Clock
) -> None:
    context, transport = make_site(NOTHING)
    for number in range(20):
        intend(store, f"{TOKEN[:-2]}{'abcdefghjk'[number % 10]}{'mn'[number // 10]}")
        probe.run(context)
        ticking.now += 1
    assert asked(transport).count("accounting_by_name") == 12
    assert asked(transport).count("queue") == 12


def test_what_was_left_in_the_middle_is_settled_without_a_restart(
    probe: SubmissionsProbe, store: Store, make_site: MakeSite
) -> None:
    intend(store, "intendedaaaa", state="intended")
    intend(store, "submittingaa", state="submitting")
    context, transport = make_site(NOTHING)
    probe.run(context)
    assert [read(store, token).state for token in ("intendedaaaa", "submittingaa")] == ["absent", "unknown"]
    assert transport.asked[0] == ("queue", ("train.rssubmittingaa",))
    assert "squeue --me --name=train.rssubmittingaa" in (read(store, "submittingaa").error or "")


def test_a_job_that_shows_up_after_all_is_followed(store: Store, make_site: MakeSite) -> None:
    intend(store, state="absent")
    context, _ = make_site([Exchange("queue", squeue({"JOBID": "4711", "NAME": NAME}, {"JOBID": "80"}))])
    JobsProbe().run(context)
    assert (read(store).state, read(store).job_id) == ("adopted", "4711")
    with store.snapshot() as connection:
        assert [job.job_name for job in jobs.find(connection, "4711")] == ["train"]
        assert jobs.find(connection, "80") == [], "a job of nobody's here is left alone"


def test_two_jobs_of_one_token_are_both_followed_and_told(
    probe: SubmissionsProbe, store: Store, make_site: MakeSite
) -> None:
    intend(store)
    context, _ = make_site([Exchange("queue", squeue(*({"JOBID": number, "NAME": NAME} for number in ("100", "99"))))])
    probe.run(context)
    row = read(store)
    assert (row.job_id, row.error) == (
        "99", "several jobs carry its token: 99, 100; cancel those that you don't want",
    )  # fmt: skip
    with store.snapshot() as connection:
        assert {followed.root_id for followed in jobs.open_tracked(connection, SITE)} == {"99", "100"}


def test_a_second_job_of_a_token_is_followed_and_told_whenever_it_shows_up(
    probe: SubmissionsProbe, store: Store, make_site: MakeSite
) -> None:
    intend(store)
    store.write(lambda connection: submissions.submitted(connection, TOKEN, "100", now=1.0))
    context, _ = make_site([Exchange("queue", squeue(*({"JOBID": number, "NAME": NAME} for number in ("100", "101"))))])
    JobsProbe().run(context)
    with store.snapshot() as connection:
        assert {followed.root_id for followed in jobs.open_tracked(connection, SITE)} == {"100", "101"}
        (told,) = submissions.troubled(connection)
    assert told.error == "several jobs carry its token: 100, 101; cancel those that you don't want"


def test_a_job_that_shows_up_although_its_key_was_launched_again(store: Store, make_site: MakeSite) -> None:
    other = "nmkjhgfedcba"
    for token in (TOKEN, other):
        intend(store, token, state="absent")
    store.write(lambda connection: connection.execute("UPDATE submissions SET key = 'night'"))
    store.write(lambda connection: submissions.submitted(connection, other, "12", now=1.0))
    both = ({"JOBID": "11", "NAME": NAME}, {"JOBID": "12", "NAME": f"train.rs{other}"})
    context, _ = make_site([Exchange("queue", squeue(*both), repeat=True)])
    for _ in range(2):
        JobsProbe().run(context)
    with store.snapshot() as connection:
        assert {followed.root_id for followed in jobs.open_tracked(connection, SITE)} == {"11", "12"}
        key = submissions.of_key(connection, "night")
    assert (read(store).job_id, read(store).key) == ("11", None)
    assert "its key night was launched again as 12; cancel the one" in (read(store).error or "")
    assert key is not None
    assert key.token == other


def test_where_it_was_sent_with_the_clock_ahead_the_widest_window_is_taken(
    probe: SubmissionsProbe, store: Store, make_site: MakeSite, clock: Clock
) -> None:
    intend(store, created=clock.now + 3 * 86400)
    context, transport = make_site(NOTHING)
    probe.run(context)
    assert transport.asked[-1] == ("accounting_by_name", ((NAME,), 30 * 24))


def test_what_a_look_printed_is_kept(probe: SubmissionsProbe, store: Store, make_site: MakeSite) -> None:
    intend(store)
    context, _ = make_site(NOTHING)
    probe.run(context)
    with store.snapshot() as connection:
        kept = {row["source"] for row in connection.execute("SELECT source FROM raw_outputs")}
    assert kept == {"squeue", "sacct"}


def test_a_submission_of_another_site_is_not_taken_up_here(store: Store, make_site: MakeSite) -> None:
    intend(store)
    with store.snapshot() as connection:
        before = submissions.get(connection, TOKEN)
    store.write(partial(submissions.adopt, site="lumi", found=[("4711", NAME)], now=1.0))
    assert read(store) == before


def test_where_it_was_sent_too_long_ago_for_the_site_it_stays_unknown(
    probe: SubmissionsProbe, store: Store, make_site: MakeSite, clock: Clock, ticking: Clock
) -> None:
    """LUMI wants no window of more than 30 days."""
    intend(store, created=clock.now - 29.5 * 86400)
    context, transport = make_site(NOTHING, profile="lumi")
    for _ in range(3):
        probe.run(context)
        ticking.now += GRACE_SECONDS
    assert read(store).state == "unknown"
    assert transport.asked == [], "the jobs probe sees the queue anyway"


LOOKS = st.lists(
    st.tuples(st.sampled_from(["nothing", "ctld down", "dbd down", "queue", "accounting"]), st.integers(0, 900)),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(looks=LOOKS)
def test_whatever_the_site_answers_absent_is_never_said_too_soon(
    looks: list[tuple[str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Absent only after three whole looks with the waits between; taken up as soon as an answer names the job."""
    answers = {
        "nothing": NOTHING,
        "ctld down": [Exchange("queue", "", "Unable to contact slurm controller", 1)],
        "dbd down": [Exchange("queue", squeue()), Exchange("accounting_by_name", "", "database", 1)],
        "queue": [Exchange("queue", squeue({"JOBID": "4711", "NAME": NAME}))],
        "accounting": [Exchange("queue", squeue()), Exchange("accounting_by_name", named(("4711", NAME)))],
    }
    ticking = Clock(0.0)
    probe = SubmissionsProbe(clock=ticking)
    due_at = 0.0
    looked = 0
    expected = "unknown"
    with Store(tmp_path_factory.mktemp("store") / "s.sqlite3") as store:
        intend(store)
        for kind, pause in looks:
            ticking.now += pause
            if expected == "unknown" and ticking.now >= due_at:
                if kind in {"queue", "accounting"}:
                    expected = "adopted"
                elif kind == "nothing":
                    looked += 1
                    expected = "absent" if looked == 3 else "unknown"
                    due_at = ticking.now + (GRACE_SECONDS if looked == 1 else 60.0)
            context = site_answering(store, answers[kind])
            try:
                probe.run(context)
            except CommandError:
                assert kind.endswith("down")
            assert read(store).state == expected, looks


def site_answering(store: Store, exchanges: list[Exchange]) -> ProbeContext:
    from exporter.client.client import SiteClient
    from exporter.config import Site, SiteSettings
    from exporter.store.commands import CommandLedger

    site = Site(SITE, SiteSettings.model_validate({"ssh": {"host": "login.example.org", "user": "maija"}}))
    # So many commands that the budget is in nobody's way.
    ledger = CommandLedger(store, SITE, commands_per_hour=10_000, reserved_for_people=0, hour_seconds=1e-9)
    return ProbeContext(
        site=site, client=SiteClient(SITE, ReplayTransport(exchanges), ledger), store=store, ledger=ledger,
        clock=Clock(1_795_000_000.0),
    )  # fmt: skip
