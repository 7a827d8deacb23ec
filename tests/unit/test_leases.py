"""Leases of ports and keys of jobs, as the store has them: nobody gets what another has, nothing is left over."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

import pytest

from exporter.errors import RefusedError, StoreError
from exporter.store import following, job_keys, jobs, leases, submissions
from exporter.store.db import Store
from exporter.store.job_keys import JobKey

SITE = "puhti2"
PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGtra2tra2tra2tra2tra2tra2tra2tra2tra2tra2tr"
DASHBOARDS = range(8100, 8103)


def intend(
    store: Store, token: str, tunnels: Mapping[str, Sequence[int]] | None = None, *, busy: Sequence[int] | None = ()
) -> submissions.Submission:
    return store.write(
        lambda connection: submissions.intend(
            connection, token=token, site=SITE, campaign="", name="train", run_dir="x", spec={}, now=5.0, busy=busy,
            tunnels={"dashboard": DASHBOARDS} if tunnels is None else tunnels,
        )
    )  # fmt: skip


def submit(store: Store, token: str, job_id: str) -> None:
    store.write(lambda connection: submissions.submitted(connection, token, job_id, now=6.0))


def end(store: Store, job_id: str) -> None:
    store.write(
        lambda connection: connection.execute("UPDATE tracked SET done = 1 WHERE root_id = ?", (job_id,)).rowcount
    )


def absent(store: Store, token: str) -> None:
    store.write(lambda connection: submissions.unsettle(connection, token, "absent", "no", now=7.0))


def held(store: Store) -> dict[int, tuple[str, str]]:
    with store.snapshot() as connection:
        return {lease.port: (lease.token, lease.tunnel) for lease in leases.all_leases(connection)}


def test_two_jobs_never_have_one_port(store: Store) -> None:
    assert [intend(store, token).dashboard_port for token in ("one", "two", "three")] == [8100, 8101, 8102]
    assert held(store) == {8100: ("one", "dashboard"), 8101: ("two", "dashboard"), 8102: ("three", "dashboard")}
    with pytest.raises(StoreError, match=r"UNIQUE constraint failed: leases\.port"):
        store.write(
            lambda connection: connection.execute("INSERT INTO leases VALUES (8100, 'client', 'two', 1.0)").rowcount
        )


def test_each_tunnel_of_a_job_has_a_port_of_its_own_ranges(store: Store) -> None:
    metrics = range(8201, 8204)
    intend(store, "one", {"dashboard": DASHBOARDS, "metrics-0": metrics, "metrics-1": metrics})
    intend(store, "two", {"metrics-0": metrics})
    assert held(store) == {
        8100: ("one", "dashboard"), 8201: ("one", "metrics-0"), 8202: ("one", "metrics-1"), 8203: ("two", "metrics-0"),
    }  # fmt: skip
    with store.snapshot() as connection:
        (lease,) = leases.of_submission(connection, "two")
    assert (lease.site, lease.job_id, lease.job_name, lease.open, lease.created) == (SITE, None, "train", True, 5.0)


def test_a_port_on_which_another_program_listens_is_passed_over(store: Store) -> None:
    assert intend(store, "one", busy=[8100, 8102]).dashboard_port == 8101
    with pytest.raises(RefusedError, match=r"all 3 dashboard ports are held .*widen vm\.dashboard_ports"):
        intend(store, "two", busy=[8100, 8102])


def test_where_one_tunnel_finds_no_port_nothing_is_taken_and_nothing_intended(store: Store) -> None:
    with pytest.raises(RefusedError, match=r"all 1 metrics ports .*vm\.metrics_ports"):
        intend(store, "one", {"dashboard": DASHBOARDS, "metrics-0": [8201], "metrics-1": [8201]})
    assert held(store) == {}
    with store.snapshot() as connection, pytest.raises(KeyError):
        submissions.get(connection, "one")


@pytest.mark.parametrize("how", ["ended", "absent"])
def test_a_port_is_free_when_its_job_is_over_and_nobody_listens(store: Store, how: str) -> None:
    intend(store, "one")
    intend(store, "two")
    submit(store, "two", "78")
    if how == "ended":
        submit(store, "one", "77")
        end(store, "77")
    else:
        absent(store, "one")
    assert {lease.port for lease in store.write(lambda connection: leases.release(connection, [8100]))} == set()
    assert intend(store, "three", busy=[8100]).dashboard_port == 8102, "an ssh can outlive its job"
    (gone,) = store.write(lambda connection: leases.release(connection, []))
    assert (gone.port, gone.token, gone.open) == (8100, "one", False)
    assert held(store) == {8101: ("two", "dashboard"), 8102: ("three", "dashboard")}


def test_a_launch_frees_what_is_over_first(store: Store) -> None:
    for token in ("one", "two", "three"):
        intend(store, token)
    absent(store, "two")
    with pytest.raises(RefusedError):
        intend(store, "four", busy=[8101])
    with pytest.raises(RefusedError):
        intend(store, "four", busy=None)  # it isn't known who listens
    assert intend(store, "four").dashboard_port == 8101


@pytest.mark.parametrize("state", ["unknown", "submitting", "intended"])
def test_a_submission_of_which_a_job_may_have_come_keeps_its_port(store: Store, state: str) -> None:
    intend(store, "one")
    store.write(lambda connection: submissions.unsettle(connection, "one", state, "?", now=7.0))
    assert store.write(lambda connection: leases.release(connection, [])) == []


# --- keys -------------------------------------------------------------------------------------------------------------


def needed(store: Store) -> list[JobKey]:
    with store.snapshot() as connection:
        return job_keys.needed(connection)


def test_a_key_is_needed_while_its_job_may_come(store: Store) -> None:
    for number, token in enumerate(("one", "two", "three")):
        intend(store, token, {"dashboard": DASHBOARDS, "client": range(8151, 8160)})
        store.write(lambda connection, token=token: job_keys.keep(connection, token, PUBLIC, expires=9.0))  # type: ignore[misc]
        if token != "three":
            submit(store, token, str(77 + number))
    assert [(key.token, key.ports) for key in needed(store)] == [
        ("one", (8100, 8151)), ("two", (8101, 8152)), ("three", (8102, 8153)),
    ]  # fmt: skip
    end(store, "77")
    absent(store, "three")
    assert [key.token for key in needed(store)] == ["two"]
    store.write(job_keys.forget_others)
    with store.snapshot() as connection:
        assert [row["token"] for row in connection.execute("SELECT token FROM job_keys")] == ["two"]


def test_when_a_key_is_taken_until_is_kept(store: Store) -> None:
    intend(store, "one")
    for expires in (9.0, 10.0):
        store.write(lambda connection, expires=expires: job_keys.keep(connection, "one", PUBLIC, expires=expires))  # type: ignore[misc]
    assert needed(store) == [JobKey("one", PUBLIC, 10.0, (8100,), None, None)]


def test_the_start_of_a_job_is_known_only_while_it_runs(store: Store) -> None:
    intend(store, "one")
    submit(store, "one", "77")
    store.write(lambda connection: job_keys.keep(connection, "one", PUBLIC, expires=9.0))

    def start_of(state: str) -> int | None:
        def change(connection: sqlite3.Connection) -> None:
            connection.execute("UPDATE jobs SET state = ?, start_time = 50, time_limit_seconds = 60", (state,))

        store.write(change)
        (key,) = needed(store)
        assert (key.start_time is None) == (key.time_limit_seconds is None)
        return key.start_time

    assert [start_of(state) for state in ("running", "pending")] == [50, None]


def test_a_job_that_is_lost_from_sight_keeps_port_and_key(store: Store) -> None:
    intend(store, "one")
    submit(store, "one", "77")
    store.write(lambda connection: job_keys.keep(connection, "one", PUBLIC, expires=9.0))
    store.write(lambda connection: following.apply_accounting(connection, SITE, "77", [], frozenset(), now=8.0))
    with store.snapshot() as connection:
        assert [job.state for job in jobs.find(connection, "77")] == ["unknown"]
    assert [key.token for key in needed(store)] == ["one"]
    assert store.write(lambda connection: leases.release(connection, [])) == []


def test_each_store_names_its_lines_in_its_own_way(store: Store, tmp_path_factory: pytest.TempPathFactory) -> None:
    with Store(tmp_path_factory.mktemp("other") / "other.sqlite3") as other:
        names = []
        for one in (store, other):
            with one.snapshot() as connection:
                names.append(job_keys.instance(connection))
    assert names[0] != names[1]
    assert all(name.isalnum() and name == name.lower() for name in names)
