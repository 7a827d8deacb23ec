"""The runs probe: what is read of a job's folder, when, and what becomes of what isn't understood."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import suppress
from typing import Any

import pytest

from exporter.client.replay import Exchange, ReplayTransport
from exporter.errors import SiteError
from exporter.probes import ProbeContext
from exporter.probes.runs import (
    LOOK_SECONDS,
    NEWS_PER_HOUR,
    READS_PER_HOUR,
    RETRY_SECONDS,
    STARTING_SECONDS,
    UNSEEN_SECONDS,
    RunsProbe,
)
from exporter.store import counters, jobs, runs, submissions, tunnel_failures, tunnel_sockets, tunnels
from exporter.store.db import Store
from exporter.store.runs import Run
from exporter.store.supervised import TunnelRestarts
from exporter.store.tunnel_failures import Failed
from exporter.store.tunnels import Health
from tests.unit.conftest import Clock, MakeSite

SITE, TOKEN, RUN = "puhti2", "abcdefghjkmn", "/scratch/run"
READY = {"ready_time": 1795000020.5, "ray_version": "2.60.0", "session_name": "session_x"}


def status(**more: Any) -> dict[str, Any]:
    return {"version": 1, "job_id": "77", "token": TOKEN, "phase": "waiting_head", "time": 1795000010.0, **more}


SUMMARY = status(
    phase="failed", outcome="failed", exit_code=7, reason="the entrypoint ended with exit status 7", nodes=[], **READY
)


def launched(
    store: Store,
    *,
    state: str = "running",
    final: bool = False,
    job_id: str = "77",
    token: str = TOKEN,
    run_dir: str = RUN,
) -> None:
    def write(connection: Any) -> None:
        submissions.intend(
            connection, token=token, site=SITE, campaign="", name="train", run_dir=run_dir, now=1.0,
            spec={"project": "p", "partition": "small"}, tunnels={"dashboard": [8023 + int(job_id)]},
        )  # fmt: skip
        submissions.submitted(connection, token, job_id, now=2.0)
        become(connection, state, final=final, job_id=job_id)

    store.write(write)


def become(connection: Any, state: str, *, final: bool, job_id: str = "77") -> None:
    end = 1795000000 if final else None
    connection.execute(
        "UPDATE jobs SET state = ?, final = ?, start_time = 1794999910, end_time = ? WHERE job_id = ?",
        (state, int(final), end, job_id),
    )


@pytest.fixture
def site(store: Store, make_site: MakeSite) -> tuple[ProbeContext, ReplayTransport]:
    return make_site([], {})


def known(store: Store, job_id: str = "77") -> Run | None:
    with store.snapshot() as connection:
        return runs.of_job(connection, SITE, job_id)


def write(transport: ReplayTransport, **files: dict[str, Any] | str) -> None:
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        transport.files[f"{RUN}/{name}.json"] = text.encode()


def reads(transport: ReplayTransport) -> list[str]:
    return [str(what).removeprefix(RUN + "/") for verb, what in transport.asked if verb == "read"]


def test_a_job_that_comes_up_is_looked_at_now_and_then_until_ray_is_ready(
    store: Store, clock: Clock, site: tuple[ProbeContext, ReplayTransport]
) -> None:
    context, transport = site
    launched(store)
    probe = RunsProbe()
    assert probe.run(context) == LOOK_SECONDS
    run = known(store)
    assert run is not None
    assert run.phase is None, "its folder had nothing yet"
    write(transport, status=status())
    clock.now += STARTING_SECONDS - 1
    probe.run(context)
    assert reads(transport) == []
    clock.now += 2
    probe.run(context)
    run = known(store)
    assert run is not None
    assert (run.phase, run.ready_time, run.heartbeat) == ("waiting_head", None, 1795000010.0)
    write(transport, status=status(phase="driver", **READY))
    clock.now += STARTING_SECONDS + 1
    probe.run(context)
    run = known(store)
    assert run is not None
    assert (run.phase, run.ready_time, run.ray_version) == ("driver", 1795000020.5, "2.60.0")
    clock.now += STARTING_SECONDS + 1
    probe.run(context)
    assert reads(transport) == ["status.json"] * 3, "its nodes have looked around by now"
    clock.now += UNSEEN_SECONDS - 1
    probe.run(context)
    assert reads(transport) == ["status.json"] * 3
    clock.now += 2
    probe.run(context)
    assert reads(transport) == ["status.json"] * 4, "no tunnel tells of it, so its heartbeat does"


def test_a_tunnel_that_answers_tells_that_ray_is_ready_and_spares_the_site_the_rest(
    store: Store, clock: Clock, site: tuple[ProbeContext, ReplayTransport]
) -> None:
    context, transport = site
    launched(store)
    probe = RunsProbe()
    probe.run(context)
    write(transport, status=status(phase="driver", **READY))
    clock.now += 5
    probe.run(context)
    assert reads(transport) == []
    health = Health(SITE, "77", tunnels.DASHBOARD, "up", clock.now, 0.1, clock.now + 1e6)
    store.write(lambda connection: tunnels.keep(connection, [health]))
    probe.run(context)
    assert reads(transport) == ["status.json"]
    clock.now += STARTING_SECONDS + 1
    probe.run(context)
    assert reads(transport) == ["status.json"] * 2, "once more for what its nodes have noticed meanwhile"
    for _ in range(5 * 12):
        clock.now += 300
        probe.run(context)
    assert len(reads(transport)) == 2 + 5, "every hour"


NO_RESTARTS = [{"name": "dashboard", "restarts": 0, "reason": ""}, {"name": "client", "restarts": 0, "reason": ""}]


def restarts(store: Store) -> dict[str, int]:
    with store.snapshot() as connection:
        return {name: one.restarts for name, one in runs.restarts(connection, SITE, "77").items()}


def settle(store: Store, clock: Clock, context: ProbeContext, transport: ReplayTransport, probe: RunsProbe) -> None:
    """Comes to where a living tunnel tells all, and nothing is read but once an hour."""
    launched(store)
    write(transport, status=status(phase="ready", tunnels=NO_RESTARTS, **READY))
    found(store, clock, "up")
    for _ in range(3):
        probe.run(context)
        clock.now += STARTING_SECONDS + 1
    transport.asked.clear()
    assert restarts(store) == {"dashboard": 0, "client": 0}


def found(store: Store, clock: Clock, state: str) -> None:
    health = Health(SITE, "77", tunnels.DASHBOARD, state, clock.now, 0.1, clock.now + 1e6)
    failure = Failed(SITE, "77", tunnels.DASHBOARD, state, clock.now, "", goes_on=False)

    def change(connection: sqlite3.Connection) -> None:
        tunnels.keep(connection, [health])
        tunnel_failures.keep(connection, [failure] if state != "up" else [])

    store.write(change)


def test_a_tunnel_that_is_up_again_has_its_restarts_read_once(
    store: Store, clock: Clock, site: tuple[ProbeContext, ReplayTransport]
) -> None:
    context, transport = site
    probe = RunsProbe()
    settle(store, clock, context, transport, probe)
    told = [{"name": "dashboard", "restarts": 3, "reason": "ssh ended with exit status 255: Broken pipe"}]
    write(transport, status=status(phase="ready", tunnels=told, **READY))
    found(store, clock, "refused")
    probe.run(context)
    assert reads(transport) == [], "while it is down its restarts go on"
    clock.now += 60
    found(store, clock, "up")
    for _ in range(20):
        probe.run(context)
        clock.now += 60
    assert reads(transport) == ["status.json"]
    assert restarts(store) == {"dashboard": 3}
    run = known(store)
    assert run is not None
    assert run.tunnels == [TunnelRestarts("dashboard", 3, "ssh ended with exit status 255: Broken pipe")]


def test_a_repair_between_two_probes_is_seen_by_the_socket_on_this_machine(
    store: Store, clock: Clock, site: tuple[ProbeContext, ReplayTransport]
) -> None:
    context, transport = site
    probe = RunsProbe()
    settle(store, clock, context, transport, probe)

    def listens(sockets: str) -> None:
        seen = {("77", "client"): sockets}
        store.write(lambda connection: tunnel_sockets.note(connection, SITE, seen, now=clock.now))
        for _ in range(10):
            clock.now += 15
            probe.run(context)

    listens("4711")
    listens("4711")
    assert reads(transport) == [], "the first is no other"
    told = [{"name": "client", "restarts": 1, "reason": "ssh ended with exit status 255: "}]
    write(transport, status=status(phase="ready", tunnels=told, **READY))
    listens("4712")
    assert reads(transport) == ["status.json"]
    assert restarts(store) == {"client": 1}
    listens("4712")
    assert reads(transport) == ["status.json"]


def test_a_tunnel_that_comes_and_goes_costs_no_more_than_the_hour_has(
    store: Store, clock: Clock, site: tuple[ProbeContext, ReplayTransport]
) -> None:
    context, transport = site
    probe = RunsProbe()
    settle(store, clock, context, transport, probe)
    for turn in range(120):
        found(store, clock, "up" if turn % 2 else "refused")
        probe.run(context)
        clock.now += 30
    assert 2 < context.ledger.sent("read") <= NEWS_PER_HOUR
    store.write(lambda connection: become(connection, "failed", final=True))
    write(transport, summary=SUMMARY)
    probe.run(context)
    run = known(store)
    assert run is not None
    assert run.settled, "there is always some left for a job's end"


def test_a_repair_that_lies_ahead_was_seen_while_the_clock_was_wrong(
    store: Store, clock: Clock, site: tuple[ProbeContext, ReplayTransport]
) -> None:
    context, transport = site
    probe = RunsProbe()
    settle(store, clock, context, transport, probe)
    for sockets in ("4711", "4712"):
        seen = {("77", "dashboard"): sockets}
        store.write(lambda connection, seen=seen: tunnel_sockets.note(connection, SITE, seen, now=clock.now + 86400))  # type: ignore[misc]  # a lambda with a default
    for _ in range(10):
        clock.now += 60
        probe.run(context)
    assert reads(transport) == []


def test_the_summary_is_read_once(store: Store, clock: Clock, site: tuple[ProbeContext, ReplayTransport]) -> None:
    context, transport = site
    launched(store, state="failed", final=True)
    write(transport, status=status(phase="failed", **READY), summary=SUMMARY)
    probe = RunsProbe()
    for _ in range(3):
        probe.run(context)
        clock.now += 600
    assert sorted(reads(transport)) == ["status.json", "summary.json"]
    run = known(store)
    assert run is not None
    assert (run.outcome, run.exit_code, run.reason) == ("failed", 7, "the entrypoint ended with exit status 7")
    assert run.summary == SUMMARY
    assert run.settled
    assert context.ledger.sent("read") == 1, "two files, one command"


def test_without_a_summary_it_is_looked_for_twice(
    store: Store, clock: Clock, site: tuple[ProbeContext, ReplayTransport]
) -> None:
    context, transport = site
    launched(store, state="node_fail", final=True)
    write(transport, status=status(phase="driver", **READY))
    probe = RunsProbe()
    probe.run(context)
    run = known(store)
    assert run is not None
    assert not run.settled
    clock.now += RETRY_SECONDS + 1
    probe.run(context)
    run = known(store)
    assert run is not None
    assert run.settled
    assert (run.phase, run.outcome, run.reason) == ("driver", None, None)


def test_what_was_known_stays_where_the_folder_is_gone(
    store: Store, clock: Clock, site: tuple[ProbeContext, ReplayTransport]
) -> None:
    context, transport = site
    launched(store)
    write(transport, status=status(phase="driver", **READY))
    probe = RunsProbe()
    probe.run(context)
    transport.files.clear()
    store.write(lambda connection: become(connection, "completed", final=True))
    for _ in range(2):
        clock.now += RETRY_SECONDS + 1
        probe.run(context)
    run = known(store)
    assert run is not None
    assert run.settled
    assert run.ready_time == 1795000020.5


def test_a_summary_that_cannot_be_read_is_waited_for_and_not_taken_for_missing(
    store: Store, clock: Clock, site: tuple[ProbeContext, ReplayTransport]
) -> None:
    context, transport = site
    launched(store, state="failed", final=True)
    write(transport, status=status(phase="driver", **READY), summary={**SUMMARY, "outcome": "limit"})
    transport.unreadable = {f"{RUN}/{name}.json": "Stale file handle" for name in ("status", "summary")}
    probe = RunsProbe()
    began = clock.now
    while clock.now < began + 3600:
        with suppress(SiteError):
            probe.run(context)
        assert known(store) is None, "nothing was read"
        clock.now += LOOK_SECONDS
    assert 5 <= context.ledger.sent("read") <= NEWS_PER_HOUR
    transport.unreadable.clear()
    clock.now += UNSEEN_SECONDS
    probe.run(context)
    run = known(store)
    assert run is not None
    assert (run.outcome, run.settled) == ("limit", True)


def test_a_folder_that_cannot_be_read_costs_its_job_alone(
    store: Store, clock: Clock, site: tuple[ProbeContext, ReplayTransport]
) -> None:
    context, transport = site
    launched(store)
    launched(store, token="zyxwvutsrqpm", job_id="78", run_dir="/scratch/other")
    write(transport, status=status(phase="driver", **READY))
    transport.unreadable = {"/scratch/other/status.json": "Stale file handle"}
    probe = RunsProbe()
    assert probe.run(context) == LOOK_SECONDS
    run = known(store)
    assert run is not None
    assert run.phase == "driver"
    assert known(store, "78") is None, "it counts as never read"
    transport.unreadable[f"{RUN}/status.json"] = "Input/output error"
    clock.now += STARTING_SECONDS + 1
    with pytest.raises(SiteError, match=f"no job's folder can be read: {RUN}/status.json: Input/output error"):
        probe.run(context)
    with store.snapshot() as connection:
        read = {job.job_id: job.read for job in runs.unread(connection, SITE, now=clock.now, since=0)}
    assert read == {"77": clock.now - STARTING_SECONDS - 1, "78": None}


@pytest.mark.parametrize(
    "text",
    [
        *("{", "[]", '{"job_id": "77", "time": "noon"}', '{"exit_code": true}', "\xff", "[" * 100_000),
        *(
            '{"tunnels": [{"name": "x", "restarts": -1, "reason": ""}]}',
            '{"tunnels": [{"name": "x"}]}',
            '{"tunnels": {}}',
        ),
        *('{"node_names": "c1"}', '{"node_names": [1]}', '{"open_listeners": [{}]}', '{"open_listeners": [7]}'),
        *('{"exit_code": 1' + "0" * 30 + "}", '{"time": Infinity}', '{"ready_time": 1e20}', '{"ready_time": -1}'),
    ],
)
def test_what_is_not_understood_is_kept_and_counted(
    store: Store, site: tuple[ProbeContext, ReplayTransport], text: str
) -> None:
    context, transport = site
    launched(store)
    write(transport, status=text)
    RunsProbe().run(context)
    with store.snapshot() as connection:
        faults = [one.value for one in counters.read(connection) if one.labels.get("parser") == "status"]
        raw = [row["text"] for row in connection.execute("SELECT text FROM raw_outputs")]
    assert faults == [1]
    assert raw == [text.encode().decode()]


@pytest.mark.parametrize("other", [{"job_id": "76"}, {"token": "another"}])
def test_what_another_job_left_in_the_folder_says_nothing(
    store: Store, site: tuple[ProbeContext, ReplayTransport], other: dict[str, str]
) -> None:
    context, transport = site
    launched(store, state="failed", final=True)
    write(transport, summary=SUMMARY | other, status=status() | other)
    RunsProbe().run(context)
    run = known(store)
    assert run is not None
    assert (run.outcome, run.phase, run.settled) == (None, None, False)


def test_jobs_that_were_not_launched_here_or_never_ran_are_left_alone(
    store: Store, site: tuple[ProbeContext, ReplayTransport]
) -> None:
    context, transport = site
    launched(store, state="cancelled", final=True)
    store.write(lambda connection: connection.execute("UPDATE jobs SET start_time = NULL"))
    store.write(lambda connection: jobs.track(connection, SITE, "78", now=1.0))
    RunsProbe().run(context)
    assert transport.asked == []


def test_a_site_that_does_not_answer_leaves_all_as_it_was(store: Store, make_site: MakeSite) -> None:
    context, _ = make_site([Exchange("connect", raises="ConnectError", repeat=True)])
    launched(store)
    probe = RunsProbe()
    with pytest.raises(Exception, match="ConnectError"):
        probe.run(context)
    assert known(store) is None
    assert probe.delay_after_failure() == STARTING_SECONDS


@pytest.mark.parametrize(
    ("state", "run", "told"),
    [
        ("running", Run(SITE, "77", phase="driver"), ""),
        ("failed", Run(SITE, "77", reason="it broke", settled=True), "it broke"),
        ("node_fail", Run(SITE, "77", phase="driver", settled=True), "Slurm lost a node of it; .* of phase driver"),
        ("node_fail", Run(SITE, "77", phase="driver"), ""),
        ("timeout", None, "it reached its time limit"),
        ("cancelled", None, "it was cancelled"),
        ("completed", None, ""),
    ],
)
def test_how_it_ended(store: Store, state: str, run: Run | None, told: str) -> None:
    launched(store, state=state, final=state != "running")
    with store.snapshot() as connection:
        (job,) = jobs.find(connection, "77", SITE)
    assert re.fullmatch(told, runs.ending(job, run))


def test_what_would_steer_a_terminal_or_lacks_an_encoding_is_taken_out(
    store: Store, site: tuple[ProbeContext, ReplayTransport]
) -> None:
    context, transport = site
    launched(store, state="failed", final=True)
    reason = "\x1b[36mray\x1b[39m: \x1b]0;title\x07gone\r\nlog \udce9 \x9b1m"
    write(transport, summary={**SUMMARY, "reason": reason, "results": [{"path": "caf\udce9"}]})
    RunsProbe().run(context)
    run = known(store)
    assert run is not None
    assert run.reason == "ray: gone\nlog \\udce9 1m"
    assert run.summary is not None
    assert run.summary["results"] == [{"path": "caf\\udce9"}]


def test_an_hour_has_only_so_many_reads(store: Store, clock: Clock, site: tuple[ProbeContext, ReplayTransport]) -> None:
    context, transport = site
    launched(store)
    health = Health(SITE, "77", tunnels.DASHBOARD, "up", clock.now, 0.1, clock.now + 1e6)
    store.write(lambda connection: tunnels.keep(connection, [health]))
    probe = RunsProbe()
    began = clock.now
    while clock.now < began + 3600:
        probe.run(context)
        clock.now += LOOK_SECONDS
    assert context.ledger.sent("read") <= READS_PER_HOUR
    assert transport.asked == []
