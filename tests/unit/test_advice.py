"""What is advised of ended jobs: what would have done, what it would have cost, and when nothing is said."""

from __future__ import annotations

import math
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.billing.advice import SHORTEST_SECONDS, Advised, Charged, NodeUse, Used, advise
from exporter.billing.charge import Amounts, charge
from exporter.sites import profiles

GIB = 1024.0**3
HOUR = 3600.0

WELL_USED = Used(
    "completed",
    elapsed_seconds=HOUR,
    time_limit_seconds=1.5 * HOUR,
    nodes=2,
    cores=80,
    cpus_for_ray=80,
    gpus=0,
    memory_allocated_bytes=160 * GIB,
    memory_peak_bytes=140 * GIB,
    node_uses=(NodeUse("a1", 40, 70 * GIB), NodeUse("a2", 38, 66 * GIB)),
    entrypoint=True,
    restarts=0,
)


def price(site: str, partition: str, **amounts: float) -> Charged:
    rate = profiles()[site].rate(partition)
    assert rate is not None
    given_amounts = {name: Decimal(str(value)) for name, value in amounts.items()}
    return Charged(rate, Amounts(**{"nvme": Decimal(0), "gpus": {}, **given_amounts}))  # type: ignore[arg-type]


def told(used: Used, at: Charged | None = None) -> dict[str, str]:
    return {one.about: one.text for one in advise(used, at).advice}


def test_of_a_job_that_used_what_it_had_nothing_is_said() -> None:
    assert advise(WELL_USED) == Advised()


def test_memory_far_over_use_says_what_would_have_done_and_what_it_would_have_cost() -> None:
    used = replace(
        WELL_USED,
        nodes=1,
        cores=40,
        cpus_for_ray=40,
        memory_peak_bytes=16 * GIB,
        node_uses=(NodeUse("a1", 40, 15 * GIB),),
    )
    advised = advise(used, price("roihu", "small", nodes=1, cores=40, memory=160))
    (memory,) = advised.advice
    assert "160.0 GiB a node were allocated" in memory.text
    assert "at most 16.0 GiB were used on one; 20G would have done" in memory.text
    assert memory.key == "cluster.memory_per_node: 20G"
    # max(0.75 * 40, 0.375 * 160) = 60 an hour, and with 20 GiB the cores count: 30.
    assert (advised.units, memory.units_then, advised.units_then) == (60, 30, 30)
    assert (advised.kind, advised.unit) == ("cpu", "BU")


def test_where_whole_nodes_are_paid_less_memory_is_no_cheaper_and_none_is_promised() -> None:
    used = replace(WELL_USED, memory_peak_bytes=16 * GIB, node_uses=())
    advised = advise(used, price("roihu", "medium", nodes=2, cores=768, memory=1500))
    assert [(one.about, one.units_then) for one in advised.advice] == [("memory", None)]
    assert (advised.units, advised.units_then) == (576, None)


def test_where_each_nodes_memory_is_not_told_one_node_may_have_used_it_all() -> None:
    used = replace(WELL_USED, memory_peak_bytes=50 * GIB, node_uses=())
    assert told(used) == {}, "80 GiB a node are not far over 50"
    by_node = (NodeUse("a1", 40, 25 * GIB), NodeUse("a2", 40, 24 * GIB))
    assert "32G would have done" in told(replace(used, node_uses=by_node))["memory"]


def test_a_job_that_ran_out_of_memory_is_not_told_to_ask_for_less() -> None:
    assert told(replace(WELL_USED, memory_peak_bytes=GIB, node_uses=(), state="out_of_memory")) == {}


def test_a_limit_far_over_need() -> None:
    used = replace(WELL_USED, time_limit_seconds=24 * HOUR)
    assert "24:00:00 were asked for and 01:00:00 taken; 01:30:00 would have done" in told(used)["time"]
    for state in ("failed", "cancelled", "timeout", "node_fail"):
        assert told(replace(used, state=state)) == {}, "how long it would have taken isn't known"
    assert told(replace(used, entrypoint=False)) == {}, "a cluster that stays up for its time"


def test_idle_nodes_are_named_and_what_fewer_would_have_cost() -> None:
    used = replace(WELL_USED, nodes=4, cores=512, cpus_for_ray=512, memory_peak_bytes=None, memory_allocated_bytes=None)
    used = replace(used, node_uses=tuple(NodeUse(f"c{n}", cpus) for n, cpus in enumerate((120.0, 1.5, 90.0, 2.0))))
    advised = advise(used, price("lumi", "standard", nodes=4, cores=512, memory=900))
    (nodes,) = advised.advice
    assert "2 of 4 never had more than 5% of their CPUs in use (c1, c3); 2 would have done" in nodes.text
    assert (advised.units, nodes.units_then) == (512, 256)
    assert told(replace(used, gpus=8)) == {}, "a node with GPUs may be busy with few CPUs"
    unknown = (NodeUse("c0", 120), NodeUse("c1", None), NodeUse("c2", 90), NodeUse("c3", 80))
    assert told(replace(used, node_uses=unknown)) == {}
    assert told(replace(used, node_uses=used.node_uses[:3])) == {}, "of one node nothing is known"


def test_fewer_cpus_told_to_ray_than_are_paid() -> None:
    assert "256 cores were allocated, and Ray was told of 80" in told(replace(WELL_USED, cores=256))["cpus"]
    assert told(replace(WELL_USED, cores=84)) == {}, "a few are left to the system on purpose"
    assert told(replace(WELL_USED, cores=256, cpus_for_ray=None)) == {}, "a job without a Ray of ours"


def test_a_gpu_that_was_never_used() -> None:
    used = replace(WELL_USED, nodes=1, gpus=4, gpu_loads=(0.9, 0.0, 0.004, 0.8), node_uses=())
    at = price("roihu", "gpumedium", nodes=1, cores=80, memory=160)
    at = replace(at, amounts=replace(at.amounts, gpus={"gh200": 4}))
    advised = advise(replace(used, memory_allocated_bytes=None), at)
    (gpus,) = advised.advice
    assert "2 of 4 were never used" in gpus.text
    assert gpus.key == "cluster.gpus_per_node: 2"
    assert (advised.units, gpus.units_then) == (800, 400)
    none = advise(replace(used, memory_allocated_bytes=None, gpu_loads=(0.0,) * 4), at)
    assert "a partition without GPUs would have done" in none.advice[0].text
    assert none.advice[0].units_then is None, "what another partition costs isn't this rate's to say"
    assert told(replace(used, gpu_loads=(0.0, 0.9), memory_allocated_bytes=None)) == {}, "of two GPUs nothing is known"


@pytest.mark.parametrize(
    ("used", "why"),
    [
        (replace(WELL_USED, elapsed_seconds=SHORTEST_SECONDS - 1, memory_peak_bytes=GIB), "too short to tell"),
        (replace(WELL_USED, elapsed_seconds=None, memory_peak_bytes=GIB), "isn't known"),
        (replace(WELL_USED, restarts=1, memory_peak_bytes=GIB), "started it again"),
    ],
)
def test_where_nothing_can_be_said_it_says_why(used: Used, why: str) -> None:
    advised = advise(used)
    assert advised.advice == ()
    assert why in advised.silent


def maybe(values: st.SearchStrategy[float]) -> st.SearchStrategy[float | None]:
    return st.none() | values


SIZES = st.floats(0, 1e13)
NODES = st.integers(1, 16)


@st.composite
def jobs(draw: st.DrawFn) -> tuple[Used, Charged]:
    site, partition = draw(
        st.sampled_from(
            [("roihu", "small"), ("roihu", "medium"), ("roihu", "gpumedium"), ("lumi", "small"), ("lumi", "small-g")]
        )
    )
    nodes, cores, gpus = draw(NODES), draw(st.integers(1, 500)), draw(st.integers(0, 16))
    memory = draw(st.floats(GIB, 1e13))
    used = Used(
        draw(st.sampled_from(["completed", "failed", "cancelled", "timeout", "out_of_memory"])),
        elapsed_seconds=draw(maybe(st.floats(0, 1e6))),
        time_limit_seconds=draw(maybe(st.floats(60, 1e6))),
        nodes=draw(st.none() | st.just(nodes)),
        cores=draw(maybe(st.just(cores))),
        cpus_for_ray=draw(st.none() | st.integers(1, 600)),
        gpus=draw(st.none() | st.just(gpus)),
        memory_allocated_bytes=draw(maybe(st.just(memory))),
        memory_peak_bytes=draw(maybe(SIZES)),
        node_uses=tuple(
            NodeUse(f"n{number}", draw(maybe(st.floats(0, 300))), draw(maybe(SIZES)))
            for number in range(draw(st.sampled_from([0, nodes])))
        ),
        gpu_loads=tuple(draw(st.floats(0, 1)) for _ in range(draw(st.sampled_from([0, gpus])))),
        entrypoint=draw(st.none() | st.booleans()),
        restarts=draw(st.sampled_from([None, 0, 0, 1])),
    )
    amounts = Amounts(nodes, Decimal(cores), Decimal(memory / GIB), Decimal(0), {"": gpus} if gpus else {})
    rate = profiles()[site].rate(partition)
    assert rate is not None
    return used, Charged(rate, amounts)


@given(jobs())
def test_what_is_advised_is_never_less_than_what_was_used_nor_dearer(job: tuple[Used, Charged]) -> None:
    used, at = job
    advised = advise(used, at)
    if advised.silent:
        assert not advised.advice
        return
    assert used.elapsed_seconds is not None
    cost = charge(at.rate, at.amounts, used.elapsed_seconds)
    for one in advised.advice:
        number = one.key.partition(": ")[2].strip('"')
        if one.about == "memory":
            assert used.memory_peak_bytes is not None or used.node_uses
            per_node = max([use.memory_bytes or 0 for use in used.node_uses], default=used.memory_peak_bytes or 0)
            assert int(number.removesuffix("G")) * GIB >= per_node
        elif one.about == "time":
            assert sum(int(part) * unit for part, unit in zip(number.split(":"), (3600, 60, 1), strict=True)) > (
                used.elapsed_seconds
            )
        elif one.about == "gpus":
            busy = sum(load > 0.01 for load in used.gpu_loads)
            assert busy <= int(number) * (used.nodes or 1) < (used.gpus or 0)
        elif one.about == "nodes":
            assert 1 <= int(number) < (used.nodes or 0)
        assert one.units_then is None or (cost is not None and 0 <= one.units_then < float(cost.units))
    if advised.units_then is not None:
        assert advised.units is not None
        assert advised.units_then < advised.units
        for one in advised.advice:
            assert (
                one.units_then is None
                or advised.units_then <= one.units_then
                or math.isclose(advised.units_then, one.units_then)
            )
