"""The probe of partitions: what it asks, and what it makes of the answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.client.replay import Exchange
from exporter.config import Config
from exporter.errors import AnswerError, CommandError, InputError, RefusedError
from exporter.launch.launcher import Launcher
from exporter.launch.spec import Spec
from exporter.owner.worker import SiteWorker
from exporter.parsers import sinfo
from exporter.probes.partitions import PartitionsProbe
from exporter.store import counters, partitions, probe_runs
from exporter.store.db import Store
from exporter.store.partitions import Listing
from tests.unit.conftest import Clock, MakeSite

SITE = "puhti2"
TEXT = (Path(__file__).parents[1] / "golden" / "sinfo" / "22.05.txt").read_text(encoding="utf-8")
DAY = 86400


def listing(store: Store) -> Listing | None:
    with store.snapshot() as connection:
        return partitions.listing(connection, SITE)


def test_partitions_are_asked_for_once_a_day(store: Store, make_site: MakeSite, config: Config, clock: Clock) -> None:
    context, transport = make_site([Exchange("partitions", TEXT)])
    probe = PartitionsProbe()
    assert probe.run(context) == DAY
    assert transport.asked == [("partitions", None)]
    assert not probe.hurry(context)
    kept = listing(store)
    assert kept is not None
    assert kept.read == clock.now
    assert tuple(kept.partitions.values()) == sinfo.parse(TEXT).records
    store.write(
        lambda connection: probe_runs.note_run(
            connection, SITE, "partitions", at=clock.now, duration_seconds=1, error=None
        )
    )
    clock.now += 100
    worker = SiteWorker(make_site([])[0], config, lambda site, probe, seconds: None)
    assert worker.first_delays()["partitions"] == DAY - 100, "not again after a restart"


def test_what_is_gone_at_the_site_is_gone_here(store: Store, make_site: MakeSite) -> None:
    later = "".join(line for line in TEXT.splitlines(keepends=True) if not line.startswith("medium"))
    context, _ = make_site([Exchange("partitions", TEXT), Exchange("partitions", later)])
    for _ in range(2):
        PartitionsProbe().run(context)
    kept = listing(store)
    assert kept is not None
    assert "small" in kept.partitions
    assert "medium" not in kept.partitions


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Exchange("partitions", "", "slurm_load_partitions: Unable to contact slurm controller\n", 1), CommandError),
        (Exchange("partitions", ""), AnswerError),
        (Exchange("partitions", TEXT[:-9]), AnswerError),
        (Exchange("partitions", TEXT.splitlines(keepends=True)[0]), InputError),
        (Exchange("partitions", TEXT + "next|up\n"), InputError),
    ],
)
def test_an_answer_that_is_no_whole_list_leaves_what_was_known(
    store: Store, make_site: MakeSite, answer: Exchange, error: type[Exception]
) -> None:
    context, _ = make_site([Exchange("partitions", TEXT), answer])
    probe = PartitionsProbe()
    probe.run(context)
    before = listing(store)
    with pytest.raises(error):
        probe.run(context)
    assert listing(store) == before
    assert probe.delay_after_failure() == 3600


def test_a_cell_that_is_not_understood_is_counted(store: Store, make_site: MakeSite) -> None:
    context, _ = make_site([Exchange("partitions", TEXT.replace("3-00:00:00", "soon"))])
    PartitionsProbe().run(context)
    with store.snapshot() as connection:
        errors = [
            (counter.labels, counter.value)
            for counter in counters.read(connection)
            if counter.name == "parse_errors_total"
        ]
    assert errors == [({"parser": "sinfo", "site": SITE}, 1)]


def test_a_launch_is_held_against_it(config: Config, store: Store, clock: Clock, make_site: MakeSite) -> None:
    context, transport = make_site([Exchange("partitions", TEXT), Exchange("submit", "4711\n")])
    cluster = {"cpus_per_node": 4, "memory_per_node": "7900M", "time": "10m"}
    spec = Spec.model_validate({"site": SITE, "cluster": cluster | {"partition": "smal"}})
    PartitionsProbe().run(context)
    launcher = Launcher(config, store, clock)
    with pytest.raises(RefusedError, match=r"no partition smal \(the site's own `sinfo`, read just now\)"):
        launcher.launch(context.client, spec)
    assert [verb for verb, _ in transport.asked] == ["partitions"]
    assert launcher.launch(context.client, spec, force=True).job_id == "4711"
