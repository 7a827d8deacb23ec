"""What crash tests work with: rayslurm on the lab's VM, killed again and again, and the tally against accounting.

Run as a program, it prints the last tally in one line.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from exporter.launch.steps import CRASH_VARIABLE
from exporter.store import counters, jobs, requests, submissions
from exporter.store.db import Store
from exporter.store.requests import Request
from exporter.store.submissions import Submission
from tests.lab.lab import Lab
from tests.lab.serving import SITE, Rayslurm

EVIDENCE = Path(__file__).parents[2] / "build/crash-test.json"

SPEC = """\
site: lab
name: crash
cluster: {nodes: 1, cpus_per_node: 1, memory_per_node: 64M, time: 5m, partition: small}
ray: {dashboard_tunnel: false}
bring: [brought]
"""
"""The site's `python` is `true`, so such a job is a small one that ends at once."""

_ANY_TIME = "-S now-1days -E now+1days -s PD,R,S,CD,CA,F,TO,NF,PR,BF,DL,OOM"


def in_accounting(lab: Lab) -> list[tuple[str, str, str]]:
    """Returns id, state and name of every job of the user in accounting, by sacct itself."""
    rows = lab.sh(f"sacct -n -X -P {_ANY_TIME} -o jobid,state,jobname", check=True).stdout.splitlines()
    return [(job_id, state.split()[0], name) for job_id, state, name in (row.split("|") for row in rows)]


@dataclass
class Tally:
    """What was done, and what came of it.

    Attributes:
        kills: how often `serve` was killed.
        in_flight: how many of the kills hit a submission.
        in_flight_at_random: the same of those at a random moment.
        rows: each intention with the jobs that accounting has of its name.
    """

    kills: int = 0
    in_flight: int = 0
    in_flight_at_random: int = 0
    intentions: int = 0
    jobs: int = 0
    absent: int = 0
    doubled: int = 0
    lost: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)

    def line(self) -> str:
        """Returns the last line of the crash test."""
        names = ("kills", "in_flight", "intentions", "jobs", "absent", "doubled", "lost")
        return "crash-test: " + " ".join(f"{name}={getattr(self, name)}" for name in names)


@dataclass
class Crashing:
    """A configuration whose `serve` is killed; the store is looked into from outside."""

    lab: Lab
    rayslurm: Rayslurm
    store: Store
    tally: Tally = field(default_factory=Tally)
    spec: str = SPEC
    _left: set[int] = field(default_factory=set)
    """Requests that a `serve` which was killed had taken, and which stand so until the next has settled them."""

    # --- asking -----------------------------------------------------------------------------------------------------
    def ask(self, *, clock: float = 0) -> int:
        """Asks for a launch as the command line does, without waiting for the answer.

        Args:
            clock: by how many seconds the clock of this machine is off.
        """
        payload = {"spec": self.spec, "name": "crash.yaml", "folder": str(self.rayslurm.folder)}
        now = time.time() + clock
        return self.store.write(lambda connection: requests.add(connection, "launch", SITE, payload, now=now))

    def asked(self) -> int:
        """Returns how many launches were asked for."""
        with self.store.snapshot() as connection:
            query = "SELECT count(*) FROM requests WHERE kind = 'launch'"
            return int(connection.execute(query).fetchone()[0])

    def request(self, number: int) -> Request:
        with self.store.snapshot() as connection:
            return requests.get(connection, number)

    def journal(self) -> list[Submission]:
        """Returns every intention, oldest first."""
        with self.store.snapshot() as connection:
            tokens = [row["token"] for row in connection.execute("SELECT token FROM submissions ORDER BY rowid")]
            return [submissions.get(connection, token) for token in tokens]

    def newest(self) -> Submission:
        return self.journal()[-1]

    def requests_in(self, state: str) -> set[int]:
        with self.store.snapshot() as connection:
            return {row["id"] for row in connection.execute("SELECT id FROM requests WHERE state = ?", (state,))}

    def under_way(self) -> bool:
        """Tells whether the `serve` that was started last is at work on a launch."""
        return bool(self.requests_in("taken") - self._left)

    # --- killing ----------------------------------------------------------------------------------------------------
    @contextmanager
    def started(self, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
        """Starts `serve`; it is killed at the end, if it wasn't before."""
        self._left = self.requests_in("taken")
        process = replace(self.rayslurm, extra={**self.rayslurm.extra, **environment}).start()
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def kill(self, process: subprocess.Popen[bytes], *, at_random: bool = False) -> None:
        """Kills `serve`, and looks whether that hit a submission."""
        process.send_signal(signal.SIGSTOP)  # so that what is counted is what stood when it died
        os.waitpid(process.pid, os.WUNTRACED)
        hit = self.under_way()
        process.kill()
        assert process.wait() == -signal.SIGKILL
        self._count(hit=hit, at_random=at_random)

    def crash_at(self, step: str) -> None:
        """Starts `serve`, which takes the waiting launch and dies at the step."""
        with self.started(**{CRASH_VARIABLE: step}) as process:
            try:
                assert process.wait(60) == -signal.SIGKILL, self.rayslurm.log()[-3000:]
            except subprocess.TimeoutExpired:
                came_of_it = [self.request(number).outcome for number in self.requests_in("failed")]
                raise AssertionError(f"{step} was not reached: {came_of_it}\n{self.rayslurm.log()[-3000:]}") from None
        self._count(hit=True)

    def _count(self, *, hit: bool, at_random: bool = False) -> None:
        self.tally.kills += 1
        self.tally.in_flight += hit
        self.tally.in_flight_at_random += hit and at_random

    # --- waiting ----------------------------------------------------------------------------------------------------
    def wait(self, predicate: Callable[[], Any], seconds: float, what: str) -> None:
        try:
            self.lab.wait(predicate, seconds, what, every=0.05)
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{self.rayslurm.log()[-3000:]}") from None

    def state_of(self, token: str) -> str:
        with self.store.snapshot() as connection:
            return submissions.get(connection, token).state

    def await_state(self, token: str, state: str, seconds: float = 90) -> None:
        self.wait(lambda: self.state_of(token) == state, seconds, f"{token} {state}")

    def await_settled(self, seconds: float = 90) -> None:
        """Waits until of each intention it is known what became of it, and of each job how it ended."""

        def settled() -> bool:
            with self.store.snapshot() as connection:
                return not (
                    submissions.unsettled(connection)
                    or jobs.open_tracked(connection, SITE)
                    or requests.waiting(connection)
                )

        self.wait(settled, seconds, "every intention settled and every job ended")

    # --- comparing --------------------------------------------------------------------------------------------------
    def all_named(self) -> bool:
        """Tells whether accounting has the jobs of the journal under their names."""
        names = {(job_id, name) for job_id, _, name in in_accounting(self.lab)}
        return {(row.job_id, row.slurm_name) for row in self.journal() if row.job_id} <= names

    def compare(self, before: set[str]) -> Tally:
        """Fills the tally: the journal against what accounting has of jobs that were not there before."""
        truth = [row for row in in_accounting(self.lab) if row[0] not in before]
        tally = self.tally
        with self.store.snapshot() as connection:
            followed = {row["root_id"] for row in connection.execute("SELECT root_id FROM tracked")}
        for row in self.journal():
            ids = [job_id for job_id, _, name in truth if name == row.slurm_name]
            tally.rows.append({"token": row.token, "state": row.state, "job_id": row.job_id, "sacct": ids})
            tally.intentions += 1
            tally.jobs += row.job_id is not None
            tally.absent += row.state == "absent"
            tally.doubled += len(ids) > 1
            if row.state == "absent":
                tally.lost += bool(ids)
            else:
                tally.lost += ids != [row.job_id] or row.job_id not in followed
        known = {row["token"] for row in tally.rows}
        tally.lost += sum(".rs" in name and name.partition(".rs")[2] not in known for _, _, name in truth)
        EVIDENCE.parent.mkdir(exist_ok=True)
        EVIDENCE.write_text(json.dumps(asdict(tally), indent=1) + "\n", encoding="utf-8")
        return tally

    def counted(self, name: str) -> Counter[str]:
        """Returns a lifetime counter of the store by state, or in all under ""."""
        found: Counter[str] = Counter()
        with self.store.snapshot() as connection:
            for counter in counters.read(connection):
                if counter.name == name and counter.value:
                    found[counter.labels.get("state", "")] += int(counter.value)
        return found


def main() -> None:
    """Prints the last tally in one line."""
    found = json.loads(EVIDENCE.read_text(encoding="utf-8"))
    sys.stdout.write(Tally(**found).line() + "\n")


if __name__ == "__main__":
    main()
