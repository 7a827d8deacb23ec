"""The jobs of a practice site: what each got, how it goes with it, and what is true of it."""

from __future__ import annotations

import itertools
import random
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from exporter.practice import rates

GIB = 1024**3
LAG_SECONDS = 1.5
"""How long accounting takes to notice that a job ended."""

_FATES = ("COMPLETED", "COMPLETED", "FAILED", "COMPLETED", "OUT_OF_MEMORY", "COMPLETED", "NODE_FAIL")
_EXIT = {"COMPLETED": "0:0", "FAILED": "7:0", "OUT_OF_MEMORY": "0:125", "NODE_FAIL": "1:0", "CANCELLED": "0:15"}
_RESTLESS = (("up", 10), ("refused", 6), ("up", 8), ("target_down", 6))
"""How the tunnel of a job that stays up fares, over and over: state and seconds."""
_REASONS = ("Priority", "Resources", "QOSMaxJobsPerUserLimit")


@dataclass(frozen=True)
class Course:
    """How it is to go with the jobs of a name, where chance is not to say.

    Attributes:
        fate: the state that they end in.
        waits: seconds in the queue.
        seconds: for how long they run.
        idle: whether their Rays have nothing to do.
        ago: how many seconds before now they were submitted, for jobs that were there before anybody looked.
    """

    fate: str = "COMPLETED"
    waits: int = 1
    seconds: int = 10
    idle: bool = False
    ago: int = 0


@dataclass(frozen=True)
class Job:
    """A job as the site knows it.

    Attributes:
        cpus: of the whole job, as the site's Slurm counts them.
        memory: bytes of the whole job.
        submit: when it was submitted; `start` and `end` likewise, epoch seconds, known to the site beforehand.
        fate: the state that it ends in.
        cpu_share: how much of its CPU time, as Slurm counts it, it uses: one thread a core is busy.
        memory_share: how much of its memory it uses at most.
        folder: its folder on this machine.
        idle: whether its Ray has nothing to do.
    """

    job_id: int
    name: str
    project: str
    partition: str
    nodes: int
    cpus: int
    memory: int
    gpus: int
    limit: int
    submit: int
    start: int
    end: int
    fate: str
    reason: str
    cpu_share: float
    memory_share: float
    folder: Path
    idle: bool = False

    def state(self, now: float) -> str:
        """Returns its state, in Slurm's word."""
        if now < self.start:
            return "PENDING"
        return "RUNNING" if now < self.end else self.fate

    def tunnel(self, now: float) -> str:
        """Returns how its tunnel is: `up`, `refused` where there is none, `target_down` where Ray is gone behind it."""
        if self.state(now) != "RUNNING":
            return "refused"
        left = (now - self.start) % sum(seconds for _, seconds in _RESTLESS) if self.stays else 0.0
        for state, seconds in _RESTLESS:
            if left < seconds:
                return state
            left -= seconds
        return "up"

    @property
    def stays(self) -> bool:
        """Whether it runs until its limit."""
        return self.name.startswith("stay")

    def ran(self, now: float) -> bool:
        """Tells whether it was given nodes."""
        return self.start <= min(now, self.end) and self.start < self.end

    def elapsed(self, now: float) -> int:
        """Returns the whole seconds that it has run."""
        return max(0, int(min(now, self.end)) - self.start)

    @property
    def exit_code(self) -> str:
        """What it ended with, as Slurm prints it."""
        return _EXIT[self.fate]

    @property
    def allocated(self) -> rates.Allocated:
        """What it has to pay for."""
        return rates.Allocated(self.nodes, self.cpus, self.memory / GIB, self.gpus)

    def cpu_seconds(self, now: float) -> int:
        """Returns the CPU time that it has used; whole seconds, so that seff has nothing to round."""
        if self.fate == "NODE_FAIL":
            return 0
        return max(1, int(self.cpu_share * self.cpus * self.elapsed(now)))

    @property
    def peak(self) -> int:
        """The bytes that it used at most, in whole KiB."""
        return int(self.memory * self.memory_share) // 1024 * 1024

    @property
    def hosts(self) -> str:
        """Its nodes, as Slurm names them."""
        first, last = self.node_names[0], self.node_names[-1]
        return first if self.nodes == 1 else f"r[{first[1:]}-{last[1:]}]"

    @property
    def node_names(self) -> list[str]:
        """Its nodes one by one."""
        return [f"r{1 + self.job_id % 50 + number:03}" for number in range(self.nodes)]


@dataclass
class World:
    """The jobs of one site.

    Args:
        site: whose rates hold, `roihu` or `lumi`.
        threads_per_core: what its Slurm counts as CPUs.
        whole_nodes: CPUs and bytes of a node, where a partition gives whole ones.
        patience: seconds that a job waits and runs, from and to.
        courses: how it goes with jobs of some names, by the part before the point; chance settles all others'.
    """

    site: str
    threads_per_core: int
    whole_nodes: dict[str, tuple[int, int]]
    patience: tuple[float, float, float, float] = (3, 7, 8, 20)
    courses: dict[str, Course] = field(default_factory=dict)
    _jobs: dict[int, Job] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ids: itertools.count[int] = field(default_factory=lambda: itertools.count(4_285_001))
    _chance: random.Random = field(default_factory=lambda: random.Random(7))  # noqa: S311 - a game of chance

    def submit(
        self, name: str, project: str, partition: str, *, nodes: int, cpus: int, memory: int, gpus: int, limit: int,
        folder: Path,
    ) -> Job:  # fmt: skip
        """Takes a job; what is to become of it is settled now.

        Args:
            name: its name.
            project: who pays.
            partition: where it runs.
            nodes: how many.
            cpus: cores on each.
            memory: bytes on each.
            gpus: on each.
            limit: seconds that it may take.
            folder: where its script lies.
        """
        if partition in self.whole_nodes:
            cpus, memory = self.whole_nodes[partition]
        now = int(time.time())
        wait_from, wait_to, run_from, run_to = self.patience
        with self._lock:
            job_id = next(self._ids)
            start = now + int(self._chance.uniform(wait_from, wait_to))
            lasts = limit - 5 if name.startswith("stay") else int(self._chance.uniform(run_from, run_to))
            fate = _FATES[job_id % len(_FATES)]
            course = self.courses.get(name.partition(".")[0])
            if course is not None:
                now -= course.ago
                start, lasts, fate = now + course.waits, course.seconds, course.fate
            full = self._chance.uniform(0.1, 0.9) if fate != "OUT_OF_MEMORY" else 0.998
            busy = self._chance.uniform(0.3, 0.95) / self.threads_per_core
            if course is not None and course.idle:
                busy = 0.05 / self.threads_per_core
            job = Job(
                job_id, name, project, partition, nodes, nodes * cpus * self.threads_per_core, nodes * memory,
                nodes * gpus, limit, now, start, start + lasts, fate,
                self._chance.choice(_REASONS), busy, full, folder, course is not None and course.idle,
            )  # fmt: skip
            self._jobs[job_id] = job
        return job

    def cancel(self, job_id: int) -> None:
        """Ends a job now."""
        now = int(time.time())
        with self._lock:
            job = self._jobs.get(job_id)
            if job is not None and now < job.end:
                self._jobs[job_id] = replace(job, start=min(job.start, now), end=now, fate="CANCELLED")

    def jobs(self) -> list[Job]:
        """Returns all jobs, oldest first."""
        with self._lock:
            return list(self._jobs.values())

    def job(self, job_id: int) -> Job | None:
        """Returns a job; None where there is none of that number."""
        with self._lock:
            return self._jobs.get(job_id)

    def bill(self, job: Job, now: float) -> rates.Bill | None:
        """Returns what a job has cost so far."""
        return rates.bill(self.site, job.partition, job.allocated, job.elapsed(now))

    def spent(self, now: float) -> dict[str, float]:
        """Returns what the jobs that ended cost, by kind of units."""
        found = {"CPU": 0.0, "GPU": 0.0}
        for job in self.jobs():
            paid = self.bill(job, now) if job.end <= now else None
            if paid is not None:
                found[paid[0]] += sum(paid[1].values())
        return found
