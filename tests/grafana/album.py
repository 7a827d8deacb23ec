"""A busy practice installation in pictures: `python -m tests.grafana.album` writes docs/images/dashboard-NAME.png."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.grafana.node import BUILD, MissingError, installed
from tests.grafana.pictures import PHONE, TOP, WIDE, Drawing, compress, draw, programs
from tests.prometheus_server import query, wait_until
from tests.stack.busy import make_busy
from tests.stack.history import DAYS, write_history
from tests.stack.monitoring import watching
from tests.stack.world import living_world

IMAGES = TOP / "docs/images"
SHOWN_JOB = ("lumi", "serve")
"""Site and name of the job that the dashboard `job` shows."""

_SCRAPE_SECONDS = 1
_SEEN_SECONDS = 240
"""How long the busy installation is watched before its picture is taken."""


@dataclass(frozen=True, slots=True)
class Busy:
    """A Prometheus with a busy installation.

    Attributes:
        prometheus: its URL.
        job: the number of the job to be shown.
    """

    prometheus: str
    job: str

    def draw(self, folder: Path) -> Drawing:
        """Draws every dashboard at both widths."""
        site, _ = SHOWN_JOB
        return draw(
            self.prometheus,
            folder,
            scrape_seconds=_SCRAPE_SECONDS,
            since={"billing": int(time.time()) - DAYS * 86400},
            variables={"job": {"site": site, "job": self.job}},
        )


@contextmanager
def busy_installation(folder: Path) -> Iterator[Busy]:
    """Runs practice sites, serve and Prometheus until what is to happen has happened and was watched for a while."""
    with living_world(folder / "world") as world:
        wait_until(lambda: world.page().count("rayslurm_allocation_used{") >= 6, "every balance is told", 60)
        address = world.config.listen

        def history(database: Path) -> None:
            write_history(world.page(), address, database, folder)

        with watching(folder / "watch", address, history) as monitoring:
            began = time.monotonic()
            jobs = make_busy(world)
            job = jobs[SHOWN_JOB[1]]
            wanted = f'ray_node_gpus_utilization{{job_id="{job}"}}'
            wait_until(lambda: bool(query(monitoring.prometheus, wanted)), f"Prometheus has {wanted}", 60)
            time.sleep(max(0.0, began + _SEEN_SECONDS - time.monotonic()))
            yield Busy(monitoring.prometheus, job)


def main() -> int:
    """Takes the pictures; returns 1 where something is wrong with them or where they cannot be taken."""
    try:
        programs("node", "npm", "chromium", "pngquant", "prometheus", "promtool", "prometheus-alertmanager")
        installed("render")
    except MissingError as error:
        sys.stderr.write(f"\n=== {error}: the pictures of the dashboards are LEFT OUT ===\n\n")
        return 0
    raw = BUILD / "pictures"
    with tempfile.TemporaryDirectory(prefix="rayslurm-pictures-") as folder, busy_installation(Path(folder)) as busy:
        drawing = busy.draw(raw)
    IMAGES.mkdir(parents=True, exist_ok=True)
    for picture in sorted(raw.glob(f"*-{WIDE}.png")):
        target = IMAGES / f"dashboard-{picture.stem.removesuffix(f'-{WIDE}')}.png"
        sys.stdout.write(f"{target}: {compress(picture, target) / 1000:.0f} kB\n")
    sys.stdout.write(f"as on a telephone: {raw}/*-{PHONE}.png\n")
    for line in drawing.all_faults():
        sys.stderr.write(f"{line}\n")
    return int(bool(drawing.all_faults()))


if __name__ == "__main__":
    sys.exit(main())
