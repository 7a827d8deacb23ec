"""What the site itself says of its partitions, held against a spec together with site file and rayslurm.yaml."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from exporter.config import Site, load_config
from exporter.errors import RefusedError
from exporter.launch import limits
from exporter.launch.known import LISTING_SECONDS, known_of, look
from exporter.launch.limits import Known
from exporter.launch.spec import Spec
from exporter.parsers import sinfo
from exporter.records import PartitionRecord
from exporter.store import partitions
from exporter.store.db import Store
from exporter.store.partitions import Listing
from tests.unit.conftest import Clock, make_certificate

NOW = datetime(2026, 7, 1, 12, tzinfo=ZoneInfo("Europe/Helsinki")).timestamp()
GIB = 1024**3
SAID = """\
PARTITION|AVAIL|TIMELIMIT|JOB_SIZE|NODES|CPUS|MEMORY|GRES|MAX_CPUS_PER_NODE|OVERSUBSCRIBE
small|up|1-00:00:00|1-2|20|128|261120|(null)|UNLIMITED|NO
small|up|1-00:00:00|1-2|4|64|1048576|(null)|UNLIMITED|NO
medium|drain|infinite|1-infinite|8|128|261120|(null)|64|EXCLUSIVE
gpu|up|3-00:00:00|1-infinite|2|64|522240|gpu:a100:4(S:0-1)|UNLIMITED|NO
"""


def make_site(tmp_path: Path, extra: str = "", name: str = "mysite", host: str = "login.example.org") -> Site:
    path = tmp_path / "rayslurm.yaml"
    path.write_text(f"sites:\n  {name}:\n    ssh: {{host: {host}, user: maija}}\n    project: project_1\n{extra}")
    return load_config(path).site(name)


def make_spec(partition: str, site: str = "mysite", directives: tuple[str, ...] = (), **cluster: Any) -> Spec:
    wanted = {"nodes": 1, "cpus_per_node": 4, "memory_per_node": "16G", "time": "10m", "partition": partition}
    unauthenticated = cluster.pop("unauthenticated", False)
    return Spec.model_validate(
        {
            "site": site,
            "cluster": wanted | cluster,
            "directives": directives,
            "ray": {"allow_unauthenticated_ray": unauthenticated},
        }
    )


def said(*records: PartitionRecord, ago: float = 3 * 3600) -> Known:
    found = records or sinfo.parse(SAID).records
    return Known(NOW, Listing({record.name: record for record in found}, NOW - ago))


def refusal(spec: Spec, site: Site, known: Known | None = None, **keys: bool) -> str:
    try:
        limits.check(spec, site, known or said(), **keys)
    except RefusedError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("partition", "cluster", "told"),
    [
        ("small", {"nodes": 3}, ("takes at most 2 nodes a job, not 3", ".small.max_nodes in rayslurm.yaml")),
        ("small", {"time": "25h"}, ("at most 24 h, not 25 h", "max_time")),
        ("small", {"cpus_per_node": 129}, ("gives a job at most 128 CPUs on a node, not 129", "max_cpus_per_node")),
        (
            "small",
            {"memory_per_node": "1025G"},
            ("at most 1024G of memory on a node, not 1025G", "max_memory_per_node"),
        ),
        ("medium", {"cpus_per_node": 65}, ("at most 64 CPUs on a node, not 65", "small would do")),
        ("medium", {"memory_per_node": "256G"}, ("at most 255G of memory on a node, not 256G",)),
        ("medium", {"nodes": 9}, ("has 8 nodes, not 9", "max_nodes", "No partition that rayslurm knows")),
        ("medium", {"gpus_per_node": 1}, ("has no GPUs", "gpu may do")),
        ("gpu", {"gres": "gpu:a100:5"}, ("at most 4 GPUs on a node, not 5", "max_gpus_per_node")),
        ("small,medium", {"nodes": 9}, ("partition small takes", "partition medium has")),
        ("smal", {}, ("there is no partition smal", "Did you mean small?", "partitions.smal: {}")),
        ("small,nosuch", {}, ("there is no partition nosuch", "It has: small, medium, gpu.")),
    ],
)
def test_what_the_site_itself_says_is_refused_with_where_it_says_so(
    tmp_path: Path, partition: str, cluster: dict[str, Any], told: tuple[str, ...]
) -> None:
    text = refusal(make_spec(partition, **cluster), make_site(tmp_path))
    for part in (*told, "(the site's own `sinfo`, read 3 h ago)", "--force"):
        assert part in text
    assert refusal(make_spec(partition, **cluster), make_site(tmp_path), Known(NOW)) == "", "unknown refuses nothing"


@pytest.mark.parametrize(
    ("partition", "cluster"),
    [
        ("small", {"nodes": 2, "time": "24h", "cpus_per_node": 128, "memory_per_node": "1024G"}),
        ("medium", {"nodes": 8, "time": "30d", "cpus_per_node": 64}),
        ("small,medium", {"nodes": 8}),
        ("gpu", {"nodes": 2, "gpus_per_node": 4}),
    ],
)
def test_what_fits_is_not_refused(tmp_path: Path, partition: str, cluster: dict[str, Any]) -> None:
    assert refusal(make_spec(partition, **cluster), make_site(tmp_path)) == ""


def test_the_machine_counts_before_the_site_file_and_the_user_before_both(tmp_path: Path) -> None:
    machine = said(PartitionRecord("small", max_nodes=4, max_memory_bytes_per_node=64 * GIB))
    roihu = make_site(tmp_path, name="roihu")
    four, more = make_spec("small", "roihu", nodes=4), make_spec("small", "roihu", nodes=5, time="73h")
    assert "at most 1 node a job" in refusal(four, roihu, Known(NOW))
    assert refusal(four, roihu, machine) == ""
    text = refusal(more, roihu, machine)
    assert "takes at most 4 nodes a job, not 5 (the site's own `sinfo`" in text
    assert "at most 72 h, not 73 h (CSC user guide" in text, "what the machine doesn't state is still the site file's"
    yours = make_site(tmp_path, "    partitions: {small: {max_nodes: 6, max_memory_per_node: 80G}}\n", name="roihu")
    assert refusal(make_spec("small", "roihu", nodes=6, memory_per_node="80G"), yours, machine) == ""
    text = refusal(make_spec("small", "roihu", nodes=7, memory_per_node="81G"), yours, machine)
    assert "takes at most 6 nodes a job, not 7 and gives a job at most 80G of memory on a node, not 81G (ray" in text
    free = make_site(tmp_path, "    partitions: {small: {max_nodes: null}}\n", name="roihu")
    assert refusal(make_spec("small", "roihu", nodes=900), free, machine) == ""


def test_gpus_that_the_machine_has_are_there_whatever_was_written(tmp_path: Path) -> None:
    site = make_site(tmp_path, name="roihu")
    spec = make_spec("medium", "roihu", gpus_per_node=2)
    assert "has no GPUs (CSC user guide" in refusal(spec, site, Known(NOW))
    assert refusal(spec, site, said(PartitionRecord("medium", max_gpus_per_node=4))) == ""


def test_a_partition_that_only_the_user_knows_is_no_misspelling(tmp_path: Path) -> None:
    site = make_site(tmp_path, "    partitions: {fresh: {}, other: {max_nodes: 2}}\n")
    assert refusal(make_spec("fresh", nodes=9), site) == ""
    assert "at most 2 nodes a job, not 9 (rayslurm.yaml)" in refusal(make_spec("other", nodes=9), site)


def test_force_lets_through_what_the_user_may_know_better(tmp_path: Path) -> None:
    site = make_site(tmp_path, "    closed: 2026-01-01\n    partitions: {x86only: {architecture: x86}}\n")
    for spec in (make_spec("smal"), make_spec("small", memory_per_node="2000G")):
        warnings = limits.check(spec, site, said(), force=True)
        assert [text.startswith("forced, though mysite: ") for text in warnings] == [True, True]
        assert "closed on 2026-01-01" in warnings[0]


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({}, "set cluster.exclusive: true as well"),
        ({"exclusive": True, "directives": ("--oversubscribe",)}, "take --oversubscribe out of directives"),
        ({"exclusive": True, "directives": ("--mail-type=END", "--overs")}, "take --overs out of directives"),
    ],
)
@pytest.mark.parametrize("force", [False, True])
def test_ray_without_tokens_is_never_open_to_others(
    tmp_path: Path, keys: dict[str, Any], told: str, force: bool
) -> None:
    text = refusal(make_spec("small", unauthenticated=True, **keys), make_site(tmp_path), force=force)
    assert told in text
    assert "--force does not change this" in text
    assert refusal(make_spec("small", **keys), make_site(tmp_path)) == ""


def test_ray_without_tokens_runs_where_nobody_else_is(tmp_path: Path) -> None:
    assert refusal(make_spec("small", unauthenticated=True, exclusive=True), make_site(tmp_path)) == ""


def test_what_is_no_reason_to_refuse_is_a_warning(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    (drained,) = limits.check(make_spec("medium"), site, said())
    assert "partition medium is drain (the site's own `sinfo`, read 3 h ago): it takes no new jobs" in drained
    assert limits.check(make_spec("small"), site, said()) == []
    lumi = make_site(tmp_path, name="lumi")
    (test,) = limits.check(make_spec("debug", "lumi"), lumi, Known(NOW))
    assert "partition debug is for tests (LUMI guides, partitions" in test
    with pytest.raises(RefusedError, match="debug is not for production"):
        limits.check(make_spec("debug", "lumi"), lumi, Known(NOW), campaign=True)


def test_a_certificate_that_ends_before_the_job_is_a_warning(tmp_path: Path, store: Store) -> None:
    site = make_site(tmp_path, name="roihu")
    spec = make_spec("small", "roihu", time="2h")
    assert limits.check(spec, site, Known(NOW, certificate_end=NOW + 7200)) == []
    (warning,) = limits.check(spec, site, Known(NOW, certificate_end=NOW + 7199))
    for part in ("ends 2026-07-01 10:59 UTC", "not before 2026-07-01 11:00 UTC", "fetch a new one from MyCSC in time"):
        assert part in warning
    key = make_certificate(tmp_path, "20260701080000Z", "20260701091000Z")
    with_key = make_site(tmp_path, "", name="roihu", host=f"a.example.org, key: {key}")
    (warning,) = look(spec, with_key, store, now=NOW)
    assert f"the certificate beside {key} ends 2026-07-01 09:10 UTC" in warning


def test_what_a_site_said_long_ago_is_not_held_against_a_spec(tmp_path: Path, store: Store, clock: Clock) -> None:
    site = make_site(tmp_path)
    assert known_of(site, None, now=clock.now).listing is None
    assert known_of(site, store, now=clock.now).listing is None
    records = sinfo.parse(SAID).records
    store.write(lambda connection: partitions.replace(connection, "mysite", records, now=clock.now))
    listing = known_of(site, store, now=clock.now + LISTING_SECONDS).listing
    assert listing is not None
    assert tuple(listing.partitions.values()) == records
    with pytest.raises(RefusedError, match=r"no partition smal .*read 7 d ago"):
        look(make_spec("smal"), site, store, now=clock.now + LISTING_SECONDS)
    assert look(make_spec("smal"), site, store, now=clock.now + LISTING_SECONDS + 1) == []


def test_only_partitions_that_are_up_would_do(tmp_path: Path) -> None:
    up = PartitionRecord("other", "up", max_time_seconds=86400, nodes=9, max_gpus_per_node=0)
    small = PartitionRecord("small", "up", nodes=2, max_gpus_per_node=0)
    down = PartitionRecord("third", "down", max_time_seconds=86400, nodes=9, max_gpus_per_node=0)
    gpus = PartitionRecord("gpu", "up", max_time_seconds=86400, nodes=9, max_gpus_per_node=4)
    text = refusal(make_spec("small", nodes=3), make_site(tmp_path), said(small, down, gpus, up))
    assert ". other would do." in text
