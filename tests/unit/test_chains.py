"""Chains: jobs that go on where one met its time limit, until they are done, were cancelled, or cost enough."""

from __future__ import annotations

import contextlib
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from exporter.client.replay import Exchange, ReplayTransport
from exporter.config import Config, load_config
from exporter.errors import CommandError, ConnectError, InputError, RefusedError
from exporter.launch.continuing import decide
from exporter.launch.launcher import Launcher
from exporter.launch.spec import Spec, load_spec, spec_of_journal
from exporter.owner.continuations import RETRY_SECONDS, Continuations
from exporter.owner.perform import perform
from exporter.probes import ProbeContext
from exporter.records import Bill
from exporter.store import awaited, bills, chains, jobs, runs, submissions
from exporter.store.chains import Chain
from exporter.store.db import Store
from exporter.store.requests import Request
from exporter.store.runs import Run
from tests.unit.conftest import Clock, MakeSite
from tests.unit.query_plans import plans_of

SITE = "puhti2"
SPEC = """\
site: puhti2
name: train
cluster: {nodes: 2, cpus_per_node: 4, memory_per_node: 16G, time: 100s}
entrypoint: python train.py
warn_before_end: 10s
continue_on_timeout: {times: 3, total_units: 50}
"""


@pytest.fixture
def spec(tmp_path: Path) -> Spec:
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    return load_spec(path)


Site = tuple[ProbeContext, ReplayTransport]


def test_the_next_job_finds_what_the_first_one_brought(
    config: Config, store: Store, clock: Clock, site: Site, tmp_path: Path
) -> None:
    (tmp_path / "train.py").write_text("first")
    (tmp_path / "spec.yaml").write_text(
        SPEC + "bring: [train.py]\nbring_limits: {max_bytes: 1M}\nresults: ['*.json']\n"
    )
    start(config, store, clock, site, load_spec(tmp_path / "spec.yaml"))
    (tmp_path / "train.py").unlink()
    ends(store, clock)
    Continuations(config).run(site[0])
    first, second = (link.submission for link in chain(store).links)
    assert site[1].files[f"{first.run_dir}/work/train.py"] == b"first"
    of_second = {name.removeprefix(f"{second.run_dir}/") for name in site[1].files if name.startswith(second.run_dir)}
    assert of_second == {"job.sbatch", "ray_job.py", "plan.json", "ray_auth_token", "known_hosts"}
    assert json.loads(site[1].files[f"{second.run_dir}/plan.json"])["results"] == ["*.json"]
    with store.snapshot() as connection:
        assert submissions.manifest(connection, second.token) is None


@pytest.fixture
def site(make_site: MakeSite) -> Site:
    return make_site([Exchange("submit", f"{number}\n") for number in range(77, 85)])


def start(config: Config, store: Store, clock: Clock, site: Site, spec: Spec) -> None:
    Launcher(config, store, clock).launch(site[0].client, spec)


def ends(
    store: Store, clock: Clock, job_id: str = "77", *, state: str = "timeout", units: float | None = 10.0,
    outcome: str | None = None, settled: bool = True, ready: bool = True,
) -> None:  # fmt: skip
    """A job ends: in accounting, in its own words, and on its bill."""

    def write(connection: Any) -> None:
        connection.execute(
            "UPDATE jobs SET state = ?, final = 1, start_time = ?, end_time = ?, elapsed_seconds = 100,"
            " time_limit_seconds = 100 WHERE job_id = ?",
            (state, int(clock.now) - 100, int(clock.now), job_id),
        )
        connection.execute("UPDATE tracked SET done = 1 WHERE root_id = ?", (job_id,))
        run = Run(SITE, job_id, outcome=outcome, settled=settled, ready_time=clock.now - 90 if ready else None)
        runs.keep(connection, run, now=clock.now)
        if units is not None:
            bill = Bill("formula", "cpu", "BU", units, "project_2001234")
            bills.keep(connection, SITE, job_id, bill, final=True, now=clock.now)

    store.write(write)


def chain(store: Store, job_id: str = "77") -> Chain:
    with store.snapshot() as connection:
        found = chains.of_job(connection, SITE, job_id)
    assert found is not None
    return found


def ids(store: Store) -> list[str | None]:
    return [link.submission.job_id for link in chain(store).links]


def test_a_job_that_met_its_limit_is_followed_by_one_in_the_same_folder(
    config: Config, store: Store, clock: Clock, site: Site, spec: Spec
) -> None:
    start(config, store, clock, site, spec)
    probe = Continuations(config)
    probe.run(site[0])
    assert ids(store) == ["77"], "the first runs"
    ends(store, clock)
    for _ in range(3):
        probe.run(site[0])
    assert ids(store) == ["77", "78"]
    first, second = (link.submission for link in chain(store).links)
    plans = [json.loads(site[1].files[f"{one.run_dir}/plan.json"]) for one in (first, second)]
    assert [plan["continuation"] for plan in plans] == [0, 1]
    assert plans[1]["work_dir"] == f"{first.run_dir}/work"
    assert second.run_dir != first.run_dir
    assert second.token != first.token
    assert spec_of_journal(second.spec) == spec_of_journal(first.spec)
    del plans[0]["token"], plans[1]["token"]
    same = {"work_dir", "continuation", "tunnels"}
    assert {key: value for key, value in plans[0].items() if key not in same} == {
        key: value for key, value in plans[1].items() if key not in same
    }


def test_it_goes_on_until_the_times_are_over(
    config: Config, store: Store, clock: Clock, site: Site, spec: Spec
) -> None:
    start(config, store, clock, site, spec)
    probe = Continuations(config)
    for job_id in ("77", "78", "79", "80"):
        ends(store, clock, job_id, state="failed", outcome="limit")
        probe.run(site[0])
    probe.run(site[0])
    whole = chain(store)
    assert ids(store) == ["77", "78", "79", "80"]
    assert whole.end == "continued 3 times, which is all that continue_on_timeout.times allows"
    assert whole.bill == Bill("formula", "cpu", "BU", 40.0, "project_2001234")
    assert whole.as_json()["job_ids"] == ["77", "78", "79", "80"]
    with store.snapshot() as connection:
        assert chains.open_chains(connection, SITE) == []


def test_it_stops_where_another_job_may_cost_too_much(
    config: Config, store: Store, clock: Clock, site: Site, spec: Spec
) -> None:
    start(config, store, clock, site, spec)
    probe = Continuations(config)
    for job_id in ("77", "78"):
        ends(store, clock, job_id, units=20.0)
        probe.run(site[0])
    assert ids(store) == ["77", "78"]
    end = chain(store).end
    assert end is not None
    assert end.startswith("40.00 of 50 cpu BU are spent, and another job may cost 20.00")


@pytest.mark.parametrize("state", ["completed", "failed", "cancelled", "out_of_memory", "node_fail"])
def test_nothing_follows_a_job_that_ended_otherwise(
    config: Config, store: Store, clock: Clock, site: Site, spec: Spec, state: str
) -> None:
    start(config, store, clock, site, spec)
    ends(store, clock, state=state, outcome="failed")
    Continuations(config).run(site[0])
    assert ids(store) == ["77"]
    assert chain(store).end == f"job 77 ended {state.replace('_', ' ')}, not at its time limit"


def test_nothing_follows_before_it_is_known_how_it_ended(
    config: Config, store: Store, clock: Clock, site: Site, spec: Spec
) -> None:
    start(config, store, clock, site, spec)
    ends(store, clock, state="failed", settled=False)
    Continuations(config).run(site[0])
    assert ids(store) == ["77"]
    assert chain(store).end is None
    assert decide(chain(store), now=clock.now).action == "wait"
    clock.now += 8 * 86400
    assert decide(chain(store), now=clock.now).action == "stop"


def test_with_a_cap_nothing_follows_before_the_bill_is_known(
    config: Config, store: Store, clock: Clock, site: Site, spec: Spec
) -> None:
    start(config, store, clock, site, spec)
    ends(store, clock, units=None)
    store.write(lambda connection: awaited.add(connection, SITE, "77"))
    assert decide(chain(store), now=clock.now).action == "wait"
    store.write(lambda connection: awaited.done(connection, SITE, "77"))
    decision = decide(chain(store), now=clock.now)
    assert decision.action == "stop"
    assert "isn't known" in decision.reason
    Continuations(config).run(site[0])
    assert ids(store) == ["77"]


def test_without_a_cap_the_bill_does_not_matter(
    config: Config, store: Store, clock: Clock, site: Site, spec: Spec
) -> None:
    assert spec.continue_on_timeout is not None
    free = spec.model_copy(
        update={"continue_on_timeout": spec.continue_on_timeout.model_copy(update={"total_units": None})}
    )
    start(config, store, clock, site, free)
    ends(store, clock, units=None)
    Continuations(config).run(site[0])
    assert ids(store) == ["77", "78"]
    assert chain(store).bill is None


def test_bills_in_two_units_are_not_added_up(
    config: Config, store: Store, clock: Clock, site: Site, spec: Spec
) -> None:
    start(config, store, clock, site, spec)
    ends(store, clock)
    Continuations(config).run(site[0])
    ends(store, clock, "78")
    store.write(lambda connection: connection.execute("UPDATE bills SET kind = 'gpu' WHERE job_id = '78'"))
    assert chain(store).bill is None
    assert decide(chain(store), now=clock.now).action == "stop"


def test_a_lost_reply_is_not_launched_again(
    config: Config, store: Store, clock: Clock, make_site: MakeSite, spec: Spec
) -> None:
    site = make_site(
        [Exchange("submit", "77\n"), Exchange("submit", raises="DeadlineError"), Exchange("submit", "79\n")]
    )
    start(config, store, clock, site, spec)
    ends(store, clock)
    probe = Continuations(config)
    for _ in range(3):
        probe.run(site[0])
        clock.now += 60
    assert ids(store) == ["77", None]
    assert chain(store).last.submission.state == "unknown"
    token = chain(store).last.submission.token
    store.write(lambda connection: submissions.unsettle(connection, token, "absent", "nothing found", now=clock.now))
    probe.run(site[0])
    assert ids(store) == ["77", "79"], "it was absent for sure, so there is one now"
    assert sum(verb == "submit" for verb, _ in site[1].asked) == 3


def test_a_refusal_of_the_site_ends_it(
    config: Config, store: Store, clock: Clock, make_site: MakeSite, spec: Spec
) -> None:
    said = "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified"
    site = make_site([Exchange("submit", "77\n"), Exchange("submit", stderr=said, exit_status=1)])
    start(config, store, clock, site, spec)
    ends(store, clock)
    Continuations(config).run(site[0])
    end = chain(store).end
    assert end is not None
    assert "the next job was refused" in end
    assert "Invalid account" in end


def test_a_site_that_cannot_be_reached_is_tried_later_and_more_rarely(
    config: Config, store: Store, clock: Clock, make_site: MakeSite, spec: Spec
) -> None:
    site = make_site([Exchange("submit", "77\n"), Exchange("submit", raises="ConnectError", repeat=True)])
    start(config, store, clock, site, spec)
    ends(store, clock)
    probe = Continuations(config, clock=clock)
    tried = []
    began = clock.now
    while clock.now < began + 4 * 3600:
        try:
            probe.run(site[0])
        except ConnectError:
            tried.append(clock.now - began)
        clock.now += 30
    waits = [later - earlier for earlier, later in itertools.pairwise(tried)]
    assert waits[:6] == list(RETRY_SECONDS[:6])
    assert set(waits[6:]) == {RETRY_SECONDS[-1]}
    assert chain(store).end is None
    with store.snapshot() as connection:
        assert submissions.became_nothing(connection, since=0) == [], "tried again, so nothing to tell of each"


@pytest.mark.parametrize(
    ("said", "for_good"),
    [
        ("Invalid account or account/partition combination specified", True),
        ("Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)", False),
    ],
)
def test_what_may_pass_does_not_end_it(
    config: Config, store: Store, clock: Clock, make_site: MakeSite, spec: Spec, *, said: str, for_good: bool
) -> None:
    refusal = f"sbatch: error: Batch job submission failed: {said}"
    site = make_site(
        [Exchange("submit", "77\n"), Exchange("submit", stderr=refusal, exit_status=1), Exchange("submit", "78\n")]
    )
    start(config, store, clock, site, spec)
    ends(store, clock)
    probe = Continuations(config, clock=clock)
    with contextlib.suppress(CommandError):
        probe.run(site[0])
    assert (chain(store).end is not None) is for_good
    clock.now += RETRY_SECONDS[0] + 1
    probe.run(site[0])
    assert ids(store) == (["77"] if for_good else ["77", "78"])


def test_one_chain_that_fails_does_not_keep_the_others(
    config: Config, store: Store, clock: Clock, make_site: MakeSite, spec: Spec
) -> None:
    site = make_site(
        [
            *(Exchange("submit", f"{number}\n") for number in (77, 78)),
            Exchange("submit", raises="ConnectError"),
            Exchange("submit", raises="ConnectError"),
            Exchange("submit", "79\n"),
        ]
    )
    for _ in range(2):
        start(config, store, clock, site, spec)
        clock.now += 1
    ends(store, clock, "77")
    ends(store, clock, "78")
    with pytest.raises(ConnectError):
        Continuations(config, clock=clock).run(site[0])
    assert ids(store) == ["77"]
    assert [link.submission.job_id for link in chain(store, "78").links] == ["78", "79"]


@pytest.mark.parametrize(
    ("state", "outcome", "follows"),
    [
        ("timeout", None, True),
        ("timeout", "limit", True),
        ("timeout", "terminated", True),
        ("timeout", "succeeded", False),
        ("timeout", "failed", False),
        ("failed", "limit", True),
        ("completed", "limit", True),
        ("cancelled", "limit", False),
        ("preempted", "limit", False),
    ],
)
def test_only_a_limit_is_continued(
    config: Config,
    store: Store,
    clock: Clock,
    site: Site,
    spec: Spec,
    *,
    state: str,
    outcome: str | None,
    follows: bool,
) -> None:
    start(config, store, clock, site, spec)
    ends(store, clock, state=state, outcome=outcome)
    assert decide(chain(store), now=clock.now).action == ("launch" if follows else "stop")


def test_a_job_whose_ray_was_never_ready_is_not_repeated(
    config: Config, store: Store, clock: Clock, site: Site, spec: Spec
) -> None:
    start(config, store, clock, site, spec)
    ends(store, clock, ready=False)
    decision = decide(chain(store), now=clock.now)
    assert decision.action == "stop"
    assert "never ready" in decision.reason


def test_the_cap_counts_with_what_the_spec_asks_for(
    config: Config, store: Store, clock: Clock, site: Site, spec: Spec
) -> None:
    long = spec.model_copy(update={"cluster": spec.cluster.model_copy(update={"time": 1000.0})})
    start(config, store, clock, site, long)
    ends(store, clock)  # its limit was lowered to 100 s: 10 units, and a whole one costs 100
    assert "may cost 100.00" in decide(chain(store), now=clock.now).reason


def test_nothing_follows_while_any_job_of_the_chain_may_run(
    config: Config, store: Store, clock: Clock, make_site: MakeSite, spec: Spec
) -> None:
    site = make_site(
        [Exchange("submit", "77\n"), Exchange("submit", raises="DeadlineError"), Exchange("submit", "79\n")]
    )
    start(config, store, clock, site, spec)
    ends(store, clock)
    probe = Continuations(config, clock=clock)
    probe.run(site[0])
    lost = chain(store).last.submission
    store.write(lambda connection: submissions.unsettle(connection, lost.token, "absent", "not found", now=clock.now))
    clock.now += 3600
    probe.run(site[0])
    assert ids(store) == ["77", "79"]
    store.write(lambda connection: submissions.adopt(connection, SITE, [("78", lost.slurm_name)], now=clock.now))
    ends(store, clock, "79")
    clock.now += 3600
    probe.run(site[0])
    assert sorted(str(one) for one in ids(store)) == ["77", "78", "79"], "78 still runs"


def test_cancelling_while_a_reply_is_lost_says_so(
    config: Config, store: Store, clock: Clock, make_site: MakeSite, spec: Spec
) -> None:
    site = make_site([Exchange("submit", "77\n"), Exchange("submit", raises="DeadlineError")])
    start(config, store, clock, site, spec)
    ends(store, clock)
    Continuations(config).run(site[0])
    with pytest.raises(InputError, match="but one may be there already"):
        cancel(site[0], config, "77")
    lost = chain(store).last.submission
    store.write(lambda connection: submissions.adopt(connection, SITE, [("78", lost.slurm_name)], now=clock.now))
    error = chain(store).last.submission.error
    assert error is not None
    assert "no further job of its chain was to follow (it was cancelled)" in error


def cancel(context: ProbeContext, config: Config, job_id: str) -> dict[str, Any]:
    request = Request(1, "cancel", SITE, {"job_id": job_id}, "taken", None, 0.0)
    return perform(request, context, config)


def test_cancelling_ends_the_chain_too(
    config: Config, store: Store, clock: Clock, make_site: MakeSite, spec: Spec
) -> None:
    site = make_site([Exchange("submit", "77\n"), Exchange("cancel"), Exchange("submit", "78\n")])
    start(config, store, clock, site, spec)
    cancel(site[0], config, "77")
    ends(store, clock)  # its limit came first
    Continuations(config).run(site[0])
    assert ids(store) == ["77"]
    assert chain(store).end == "it was cancelled"


def test_between_two_jobs_it_can_be_ended_as_well(
    config: Config, store: Store, clock: Clock, site: Site, spec: Spec
) -> None:
    start(config, store, clock, site, spec)
    ends(store, clock)
    with pytest.raises(InputError, match="has ended already; no further one follows it now"):
        cancel(site[0], config, "77")
    Continuations(config).run(site[0])
    assert ids(store) == ["77"]


def test_whoever_cancels_an_earlier_job_is_told_of_the_newest(
    config: Config, store: Store, clock: Clock, site: Site, spec: Spec
) -> None:
    start(config, store, clock, site, spec)
    ends(store, clock)
    Continuations(config).run(site[0])
    with pytest.raises(InputError, match=r"was followed by 78, and no further one follows that now; .*puhti2/78"):
        cancel(site[0], config, "77")
    assert chain(store).end == "it was cancelled"


def test_jobs_without_it_are_no_chain(config: Config, store: Store, clock: Clock, site: Site, spec: Spec) -> None:
    start(config, store, clock, site, spec.model_copy(update={"continue_on_timeout": None}))
    ends(store, clock)
    Continuations(config).run(site[0])
    with store.snapshot() as connection:
        assert chains.of_job(connection, SITE, "77") is None
        assert [job.job_id for job in jobs.find(connection, "78")] == []


def test_a_spec_comes_back_from_the_journal_as_it_went(
    config: Config, store: Store, clock: Clock, site: Site, tmp_path: Path
) -> None:
    (tmp_path / "rich.yaml").write_text(
        SPEC.replace("time: 100s", "time: 100s, object_store_per_node: 1G, exclusive: true")
        + "ray: {ready_timeout: 2m, env: {A: b}}\ndirectives: ['--constraint=x']\n"
    )
    spec = load_spec(tmp_path / "rich.yaml")
    start(config, store, clock, site, spec)
    kept = chain(store).links[0].submission.spec
    again = spec_of_journal(kept)
    named = spec.cluster.model_copy(update={"project": "project_2001234", "partition": "small"})
    assert again == spec.model_copy(update={"cluster": named})


def test_who_forced_the_first_forced_the_others(
    config: Config, store: Store, clock: Clock, make_site: MakeSite, spec: Spec, config_path: Path
) -> None:
    config_path.write_text(config_path.read_text().replace("    project:", "    closed: 2026-01-01\n    project:"))
    closed = load_config(config_path)
    site = make_site([Exchange("submit", "77\n"), Exchange("submit", "78\n")])
    with pytest.raises(RefusedError, match="closed on 2026-01-01"):
        Launcher(closed, store, clock).launch(site[0].client, spec)
    Launcher(closed, store, clock).launch(site[0].client, spec, force=True)
    ends(store, clock)
    Continuations(closed).run(site[0])
    assert ids(store) == ["77", "78"]


def test_a_number_that_the_site_gives_again_is_another_job(
    config: Config, store: Store, clock: Clock, make_site: MakeSite, spec: Spec
) -> None:
    site = make_site([Exchange("submit", "77\n"), Exchange("submit", "77\n")])
    start(config, store, clock, site, spec.model_copy(update={"continue_on_timeout": None}))
    ends(store, clock, units=40.0)
    start(config, store, clock, site, spec)
    with store.snapshot() as connection:
        (job,) = jobs.find(connection, "77")
        assert (job.state, job.final, job.end_time) == ("pending", False, None)
        assert bills.of_job(connection, SITE, "77") is None, "what the other one cost is not this one's"
        assert runs.of_job(connection, SITE, "77") is None
    ends(store, clock)
    assert chain(store).bill == Bill("formula", "cpu", "BU", 10.0, "project_2001234")


def test_a_job_is_found_without_the_chains_of_all_others(
    config: Config, store: Store, clock: Clock, make_site: MakeSite, spec: Spec
) -> None:
    """A campaign asks for each of its jobs at every look, and a site's chains become more with the years."""
    site = make_site([Exchange("submit", f"{number}\n") for number in range(77, 95)])

    def add(job_id: int) -> None:
        start(config, store, clock, site, spec)
        ends(store, clock, str(job_id))
        Continuations(config).run(site[0])  # the next one
        ends(store, clock, str(job_id + 1), state="completed")
        Continuations(config).run(site[0])  # none any more
        clock.now += 60

    def asked() -> list[str]:
        statements: list[str] = []
        with store.snapshot() as connection:
            shown = jobs.find(connection, "78", SITE)
            connection.set_trace_callback(statements.append)
            found = chains.of_job(connection, SITE, "78")
            assert chains.of_jobs(connection, shown) == {(SITE, "78"): found}
            connection.set_trace_callback(None)
        assert found is not None
        assert [link.submission.job_id for link in found.links] == ["77", "78"]
        return statements

    add(77)
    alone = asked()
    for job_id in range(79, 95, 2):
        add(job_id)
    assert len(asked()) == len(alone)
    with store.snapshot() as connection:
        (shown,) = jobs.find(connection, "78", SITE)
    plans = plans_of(
        store,
        lambda connection: chains.of_job(connection, SITE, "78"),
        lambda connection: chains.of_jobs(connection, [shown]),
    )
    assert not [plan for plan in plans if plan.startswith(("SCAN s", "SCAN f"))], plans
