"""A scrape takes time in proportion to the jobs that are shown, and a probe to the jobs that are followed now."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

from exporter.client.replay import Exchange
from exporter.config import Config
from exporter.metrics.render import Renderer
from exporter.probes.jobs import JobsProbe
from exporter.store import jobs
from exporter.store.db import Store
from tests.slurm_texts import HELPFORMAT, finished, sacct, squeue
from tests.unit.conftest import Clock, MakeSite, clock, config, config_path, make_site, store

__all__ = ["clock", "config", "config_path", "make_site", "store"]

FEW, MANY = 50, 200


def follow_finished(store: Store, make_site: MakeSite, first: int, count: int) -> None:
    ids = [str(number) for number in range(first, first + count)]
    for job_id in ids:
        store.write(partial(jobs.track, site="puhti2", root_id=job_id, now=1.0))
    rows = [row for job_id in ids for row in finished(job_id)]
    context, _ = make_site(
        [Exchange("queue", squeue()), Exchange("accounting_fields", HELPFORMAT), Exchange("accounting", sacct(*rows))]
    )
    JobsProbe().run(context)


def median_seconds(work: Callable[[], object], times: int = 15) -> float:
    """Of processor time: other tests at work on this machine don't stretch it."""
    taken = []
    for _ in range(times):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return statistics.median(taken)


def test_a_scrape_is_in_proportion_to_the_jobs_shown(
    config: Config, store: Store, make_site: MakeSite, clock: Clock
) -> None:
    renderer = Renderer(store, config, clock=clock)
    follow_finished(store, make_site, 1000, FEW)
    few = median_seconds(lambda: renderer.render(""))
    follow_finished(store, make_site, 2000, MANY - FEW)
    many = median_seconds(lambda: renderer.render(""))
    print(f"{FEW} jobs {few * 1000:.1f} ms, {MANY} jobs {many * 1000:.1f} ms, ratio {many / few:.2f}")
    assert many / few < MANY / FEW * 2


def test_jobs_that_ended_long_ago_cost_a_probe_little(store: Store, make_site: MakeSite, clock: Clock) -> None:
    def look() -> None:
        context, _ = make_site([Exchange("queue", squeue())])
        JobsProbe().run(context)

    follow_finished(store, make_site, 1000, 20)
    few = median_seconds(look)
    for block in range(10):
        follow_finished(store, make_site, 10_000 + block * 200, 200)
        clock.now += 3600  # accounting is asked so often an hour, and no oftener
    with store.snapshot() as connection:
        assert jobs.open_tracked(connection, "puhti2") == [], "all have ended"
    many = median_seconds(look)
    print(f"20 ended jobs {few * 1000:.2f} ms, 2020 ended jobs {many * 1000:.2f} ms, ratio {many / few:.2f}")
    assert many / few < 5, "a hundred times the history must not cost a hundred times the time"
