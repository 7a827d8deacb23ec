"""The store: what is written stays, whatever happens to the process."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from exporter.errors import RefusedError, StoreError
from exporter.store import balances, counters, db, jobs, probe_runs, requests, submissions
from exporter.store.db import Store
from exporter.store.submissions import Submission


def intend(store: Store, token: str, ports: range = range(0)) -> Submission:
    return store.write(
        lambda connection: submissions.intend(
            connection, token=token, site="s", campaign="", name="demo", run_dir="x", now=1.0,
            spec={"project": "p", "partition": "small"}, tunnels={"dashboard": ports} if ports else {}, busy=(),
        )
    )  # fmt: skip


def test_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "state" / "s.sqlite3"
    with Store(path) as store:
        store.write(lambda connection: counters.add(connection, "x_total"))
        modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    assert set(modes.values()) == {0o600}, modes
    assert path.parent.stat().st_mode & 0o777 == 0o700
    path.chmod(0o640)
    with pytest.raises(StoreError, match="chmod 600"):
        Store(path)


def test_what_write_returned_for_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite3"
    program = (
        "import sys; from pathlib import Path\n"
        "from exporter.store.db import Store; from exporter.store import counters\n"
        "store = Store(Path(sys.argv[1]))\n"
        "for number in range(1, 10**6):\n"
        "    store.write(lambda connection: counters.add(connection, 'x_total'))\n"
        "    print(number, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = 0
        while said < 50:
            said = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
        said = int(([str(said), *process.stdout.read().split()])[-1])
    with Store(path) as store, store.snapshot() as connection:
        (counter,) = counters.read(connection)
    assert counter.value in {said, said + 1}


def test_a_change_that_raises_changes_nothing(store: Store) -> None:
    def change(connection: sqlite3.Connection) -> None:
        counters.add(connection, "x_total")
        raise RefusedError("no")

    with pytest.raises(RefusedError):
        store.write(change)
    with store.snapshot() as connection:
        assert counters.read(connection) == []
    store.write(lambda connection: counters.add(connection, "x_total"))


def test_a_reader_sees_one_state_and_keeps_no_writer_waiting(store: Store) -> None:
    with store.snapshot() as connection:
        for _ in range(3):
            store.write(lambda writer: counters.add(writer, "x_total"))
        assert counters.read(connection) == []
    with store.snapshot() as connection:
        assert counters.read(connection)[0].value == 3


def test_a_reader_cannot_write(store: Store) -> None:
    with store.snapshot() as connection, pytest.raises(sqlite3.OperationalError, match="readonly"):
        counters.add(connection, "x_total")


def test_writes_of_many_threads_and_two_stores_add_up(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite3"
    with Store(path) as first, Store(path) as second:

        def work(store: Store) -> None:
            for _ in range(25):
                store.write(lambda connection: counters.add(connection, "x_total"))

        threads = [threading.Thread(target=work, args=(store,)) for store in (first, second) * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with first.snapshot() as connection:
            assert counters.read(connection)[0].value == 100


def test_a_store_of_a_newer_rayslurm_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite3"
    Store(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 999")
    connection.close()
    with pytest.raises(StoreError, match="written by a newer rayslurm"):
        Store(path)


def test_a_store_of_an_older_rayslurm_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "old.sqlite3"
    first = Path(db.__file__).parent / "migrations/0001_initial.sql"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(first.read_text() + "PRAGMA user_version = 1;")
        connection.execute("INSERT INTO counters VALUES ('jobs_finished_total', '{}', 7)")
        connection.execute("INSERT INTO probe_runs VALUES ('lumi', 'jobs', 1, 1, 1, 1, NULL)")
        connection.commit()
    path.chmod(0o600)
    with Store(path) as store, store.snapshot() as connection:
        assert [counter.value for counter in counters.read(connection)] == [7]
        assert [run.reason for run in probe_runs.runs(connection)] == [None]
        assert balances.projects(connection) == []


def test_a_file_that_is_no_store_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite3"
    path.write_bytes(b"this is no database" * 100)
    path.chmod(0o600)
    with pytest.raises(StoreError, match="not a database"):
        Store(path)


def test_a_submission_becomes_a_job_all_at_once(store: Store) -> None:
    intend(store, "t1")
    store.write(lambda connection: submissions.submitting(connection, "t1", "/scratch/x", now=2.0))
    submission = store.write(lambda connection: submissions.submitted(connection, "t1", "42", now=3.0))
    assert (submission.state, submission.job_id, submission.run_dir) == ("submitted", "42", "/scratch/x")
    with store.snapshot() as connection:
        (job,) = jobs.find(connection, "42")
        assert [tracked.root_id for tracked in jobs.open_tracked(connection, "s")] == ["42"]
        values = {(counter.name, counter.labels.get("state")): counter.value for counter in counters.read(connection)}
    assert (job.state, job.job_name, job.project) == ("pending", "demo", "p")
    assert values["jobs_submitted_total", None] == 1
    assert values["jobs_finished_total", "completed"] == 0, "known from the start, so that increase() sees the first"


def test_what_a_dead_process_left_is_told_apart(store: Store) -> None:
    for token in ("intended", "submitting", "submitted"):
        intend(store, token)
    store.write(lambda connection: submissions.submitting(connection, "submitting", "/x", now=2.0))
    store.write(lambda connection: submissions.submitted(connection, "submitted", "42", now=2.0))
    store.write(lambda connection: submissions.close_interrupted(connection, now=3.0))
    with store.snapshot() as connection:
        states = {token: submissions.get(connection, token).state for token in ("intended", "submitting", "submitted")}
    assert states == {"intended": "absent", "submitting": "unknown", "submitted": "submitted"}


def test_a_dashboard_port_belongs_to_one_unfinished_job(store: Store) -> None:
    ports = range(8100, 8102)
    assert [intend(store, token, ports).dashboard_port for token in ("a", "b")] == [8100, 8101]
    with pytest.raises(RefusedError, match="all 2 dashboard ports"):
        intend(store, "c", ports)
    store.write(lambda connection: submissions.unsettle(connection, "a", "absent", "refused", now=2.0))
    assert intend(store, "d", ports).dashboard_port == 8100
    store.write(lambda connection: submissions.unsettle(connection, "b", "unknown", "lost", now=2.0))
    with pytest.raises(RefusedError):
        intend(store, "e", ports)


def test_what_somebody_asked_for_long_ago_is_carried_out_by_nobody(store: Store) -> None:
    number = store.write(lambda connection: requests.add(connection, "launch", "s", {}, now=1.0))
    assert store.write(lambda connection: requests.take(connection, number, now=1.0 + 301)) is None
    with store.snapshot() as connection:
        assert requests.get(connection, number).state == "failed"
    store.write(lambda connection: requests.close_interrupted(connection, now=1.0 + 8 * 86400))
    with store.snapshot() as connection, pytest.raises(KeyError):
        requests.get(connection, number)


def test_many_readers_in_many_threads_leave_no_open_files(store: Store) -> None:
    def read() -> None:
        with store.snapshot() as connection:
            counters.read(connection)

    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    read()
    before = open_files()
    for _ in range(50):
        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
    assert open_files() == before


def test_a_request_is_taken_once_and_not_withdrawn_after(store: Store) -> None:
    number = store.write(lambda connection: requests.add(connection, "cancel", "s", {"job_id": "1"}, now=1.0))
    with store.snapshot() as connection:
        assert [request.id for request in requests.waiting(connection)] == [number]
    assert store.write(lambda c: requests.take(c, number, now=2.0)) is not None
    assert store.write(lambda c: requests.take(c, number, now=2.0)) is None
    assert not store.write(lambda c: requests.withdraw(c, number, now=3.0))
    store.write(lambda c: requests.close_interrupted(c, now=4.0))
    with store.snapshot() as connection:
        request = requests.get(connection, number)
    assert request.state == "failed"
    assert request.outcome is not None
    assert "rayslurm status" in request.outcome["error"]
