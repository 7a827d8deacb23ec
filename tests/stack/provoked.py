"""Alerts that are provoked in the busy world: what is done, what must be told then, and how it is put right."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from exporter.practice.world import Course
from tests.prometheus_server import wait_until
from tests.stack.busy import COSTLIER
from tests.stack.evidence import KEEPS, note
from tests.stack.monitoring import Inbox, Told
from tests.stack.world import CERTIFIED, World

DAY_SECONDS = 24 * 3600


@dataclass
class Provoked:
    """One alert.

    Attributes:
        alert: its name.
        done: what provokes it, in words.
        provoke: does that; returns the labels by which the alert is known, and a pattern that its summary must match.
        mend: puts it right; nothing where it passes by itself.
        lasts: whether its end is minutes away, for which only the long form waits.
    """

    alert: str
    done: str
    provoke: Callable[[], tuple[dict[str, str], str]]
    mend: Callable[[], object] = lambda: None
    lasts: bool = False
    labels: dict[str, str] = field(default_factory=dict, init=False)
    pattern: str = field(default="", init=False)
    at: float = field(default=0.0, init=False)
    fired: Told | None = field(default=None, init=False)
    resolved: Told | None = field(default=None, init=False)

    def begin(self) -> None:
        """Provokes it."""
        self.at = time.time()
        self.labels, self.pattern = self.provoke()

    def await_firing(self, inbox: Inbox) -> None:
        """Waits until it is told, and puts right what provoked it.

        Raises:
            TimeoutError: nobody was told.
        """
        self.fired = inbox.await_one(self.alert, "firing", since=self.at, seconds=90, **self.labels)
        self.mend()

    def await_end(self, inbox: Inbox) -> None:
        """Waits until it is told that it is over.

        Raises:
            TimeoutError: nobody was told.
        """
        assert self.fired is not None
        self.resolved = inbox.await_one(self.alert, "resolved", since=self.fired.at, seconds=180, **self.labels)

    @property
    def right(self) -> bool:
        """Whether it came with the right words, and ended where that was waited for."""
        return (
            self.fired is not None
            and (self.resolved is not None or (self.lasts and not KEEPS))
            and re.fullmatch(self.pattern, self.fired.annotations["summary"]) is not None
        )

    def write_down(self) -> None:
        """Writes down what was seen."""
        fired = self.fired
        note(
            "alert",
            {
                "alert": self.alert,
                "done": self.done,
                "right": self.right,
                "text": fired.annotations["summary"] if fired else f"not told: {self.labels}",
                "description": fired.annotations["description"] if fired else None,
                "labels": fired.labels if fired else self.labels,
                "receiver": fired.receiver if fired else None,
                "provoked_at": self.at,
                "fired_at": fired.at if fired else None,
                "seconds": round(fired.at - self.at, 2) if fired else None,
                "resolved_at": self.resolved.at if self.resolved else None,
            },
        )


def together(world: World, jobs: dict[str, str]) -> list[Provoked]:
    """Returns those that are no trouble for each other."""
    return [
        Provoked("RaySlurmJobFailed", "a job failed", partial(_fail_job, world), lasts=True),
        Provoked(
            "RaySlurmTunnelDown",
            "a running job's tunnels were killed",
            partial(_kill_tunnel, world, jobs["train"]),
            lambda: world.sites["roihu"].mend_tunnel(int(jobs["train"])),
        ),
        Provoked("RaySlurmCampaignRefusedBudget", "a campaign ran over its budget", partial(_overspend, world)),
    ]


def alone(world: World) -> list[Provoked]:
    """Returns those that take something away which others need; one after the other."""
    return [
        Provoked(
            "RaySlurmCertificateEnding",
            "the certificate was one of two hours",
            partial(_let_certificate_end, world),
            lambda: world.certify(DAY_SECONDS),
        ),
        Provoked(
            "RaySlurmSiteUnreachable",
            "the site's sshd was stopped",
            partial(_stop_site, world),
            lambda: world.let_in("lumi"),
        ),
        Provoked("RaySlurmExporterAbsent", "serve was killed with SIGKILL", partial(_kill_serve, world), world.serve),
    ]


def _fail_job(world: World) -> tuple[dict[str, str], str]:
    job_id = world.launch("lumi", "bad", Course(fate="FAILED", seconds=3), "small")
    return {"site": "lumi", "job_id": job_id, "state": "failed"}, f"Job lumi/{job_id} bad ended as FAILED"


def _kill_tunnel(world: World, job_id: str) -> tuple[dict[str, str], str]:
    up = f'rayslurm_tunnel_up{{job_id="{job_id}",site="roihu",tunnel="dashboard"}} 1.0'
    ready = f'rayslurm_job_ray_ready_timestamp_seconds{{job_id="{job_id}",site="roihu"}}'
    wait_until(lambda: up in (page := world.page()) and ready in page, "the job's tunnel is up", 60)
    world.sites["roihu"].break_tunnel(int(job_id))
    return {"site": "roihu", "job_id": job_id}, f"Tunnels of the running job roihu/{job_id} are down"


def _overspend(world: World) -> tuple[dict[str, str], str]:
    world.run_campaign(COSTLIER)
    return (
        {"site": "lumi", "campaign": COSTLIER},
        f"A job of campaign {COSTLIER} was refused for its budget",
    )


def _let_certificate_end(world: World) -> tuple[dict[str, str], str]:
    world.certify(2 * 3600)
    return (
        {"site": CERTIFIED, "severity": "warning"},
        rf"The certificate for {CERTIFIED} ends in 1h 5\dm \d+s",
    )


def _stop_site(world: World) -> tuple[dict[str, str], str]:
    world.sites["lumi"].ssh.stop()
    return {"site": "lumi"}, "Nothing is heard from lumi"


def _kill_serve(world: World) -> tuple[dict[str, str], str]:
    world.kill_serve()
    return {"severity": "critical"}, "rayslurm does not answer"
