"""A busy practice installation in pictures: `python -m tests.grafana.album` writes docs/images/dashboard-NAME.png."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from exporter.practice.world import Course
from tests.grafana.node import BUILD, MissingError, installed
from tests.grafana.pictures import PHONE, TOP, WIDE, Drawing, compress, draw, programs, shipped
from tests.prometheus_server import query, wait_until
from tests.stack.busy import await_ends, make_busy
from tests.stack.history import write_history
from tests.stack.monitoring import watching
from tests.stack.world import living_world

IMAGES = TOP / "docs/images"
SHOWN_JOB = "pretrain"
"""The job that the dashboard `job` shows in docs/images: it ran for a while and has ended."""

_SCRAPE_SECONDS = 1
_RUN_SECONDS = 120
_STEP_SECONDS = 20
"""What bars by the hour or the day are by here: the practice sites' hours pass in minutes."""

_SEEN_SECONDS = 240
"""How long the busy installation is watched before its pictures are taken."""

_OTHER_JOBS = ("serve", "waiting")
"""One that runs and one that waits: what a job that has ended doesn't show."""


@dataclass(frozen=True, slots=True)
class Busy:
    """A Prometheus with a busy installation.

    Attributes:
        prometheus: its URL.
        jobs: numbers of jobs of lumi by their names.
        began: epoch seconds before the first was submitted.
    """

    prometheus: str
    jobs: Mapping[str, str]
    began: int

    def draw(self, folder: Path) -> Drawing:
        """Draws every dashboard at both widths, and that of a job for several jobs."""
        # What was there before are balances only, written for what is worked out per day.
        scenes = {scene.name: replace(scene, since=self.began, longest_step=_STEP_SECONDS) for scene in shipped()}
        job = scenes["job"]

        def of(name: str) -> dict[str, str]:
            return {"site": "lumi", "job": self.jobs[name]}

        scenes["job"] = replace(job, variables=of(SHOWN_JOB))
        others = [replace(job, name=f"job-{name}", variables=of(name)) for name in _OTHER_JOBS]
        return draw(self.prometheus, folder, [*scenes.values(), *others], scrape_seconds=_SCRAPE_SECONDS)


@contextmanager
def busy_installation(folder: Path, seconds: float = 0) -> Iterator[Busy]:
    """Runs practice sites, serve and Prometheus until what is to happen has happened.

    Args:
        folder: where they live.
        seconds: how long they are watched at least.
    """
    with living_world(folder / "world") as world:
        wait_until(lambda: world.page().count("rayslurm_allocation_used{") >= 6, "every balance is told", 60)
        address = world.config.listen

        def history(database: Path) -> None:
            write_history(world.page(), address, database, folder)

        with watching(folder / "watch", address, history) as monitoring:
            # What counters count from then on has a step before it, by which bars know how much they rose.
            _await_series(monitoring.prometheus, f"rayslurm_jobs_tracked offset {2 * _STEP_SECONDS}s")
            began = int(time.time())
            size = {"nodes": 2, "cpus_per_node": 56, "memory_per_node": "400G", "gpus_per_node": 8}
            shown = world.launch("lumi", SHOWN_JOB, Course(seconds=_RUN_SECONDS), "standard-g", **size)
            jobs = {**make_busy(world), SHOWN_JOB: shown}
            await_ends(world, jobs)
            for expr in (
                f'ray_node_gpus_utilization{{job_id="{jobs["serve"]}"}}',
                f'rayslurm_job_cpu_efficiency_ratio{{job_id="{shown}"}}',
            ):
                _await_series(monitoring.prometheus, expr)
            time.sleep(max(0.0, began + seconds - time.time()))
            yield Busy(monitoring.prometheus, jobs, began)


def _await_series(prometheus: str, expr: str) -> None:
    wait_until(lambda: bool(query(prometheus, expr)), f"Prometheus has {expr}", 2 * _RUN_SECONDS)


def main() -> int:
    """Takes the pictures; returns 1 where something is wrong with them or where they cannot be taken."""
    try:
        programs("node", "npm", "chromium", "pngquant", "prometheus", "promtool", "prometheus-alertmanager")
        installed("render")
    except MissingError as error:
        sys.stderr.write(f"\n=== {error}: the pictures of the dashboards are LEFT OUT ===\n\n")
        return 0
    raw = BUILD / "pictures"
    with (
        tempfile.TemporaryDirectory(prefix="rayslurm-pictures-") as folder,
        busy_installation(Path(folder), _SEEN_SECONDS) as busy,
    ):
        drawing = busy.draw(raw)
    IMAGES.mkdir(parents=True, exist_ok=True)
    for scene in shipped():
        target = IMAGES / f"dashboard-{scene.name}.png"
        sys.stdout.write(f"{target}: {compress(raw / f'{scene.name}-{WIDE}.png', target) / 1000:.0f} kB\n")
    sys.stdout.write(f"as on a telephone: {raw}/*-{PHONE}.png\n")
    for line in drawing.all_faults():
        sys.stderr.write(f"{line}\n")
    return int(bool(drawing.all_faults()))


if __name__ == "__main__":
    sys.exit(main())
