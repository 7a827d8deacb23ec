"""What an ended job could have asked for less of, and what that would have cost. Pure: records in, sentences out.

After what the field's efficiency tools say (`seff`, jobstats, reportseff), and as careful: where use isn't known, or
the job was too short to tell, nothing is said. What is advised leaves room above what was used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Literal

from exporter.billing.charge import Amounts, Charge, charge
from exporter.sites.rates import Rate

SHORTEST_SECONDS = 600.0
"""Of a shorter job nothing is said: its start is most of it, and Slurm looks at memory every half minute only."""

MEMORY_FAR_OVER = 2.0
"""Memory asked over its peak from which on it is far over: below, a slightly larger input may need it."""

MEMORY_ROOM = 1.25
"""What is advised over the peak: samples miss short peaks, and too little memory kills the job."""

TIME_FAR_OVER = 3.0
"""Limit over time taken from which on it is far over: runs of one program often differ by a factor of two."""

TIME_ROOM = 1.5
"""What is advised over the time taken: too short a limit costs the whole job, too long a one only a later start."""

TIME_STEP_SECONDS = 900.0
"""To the next of which an advised limit is rounded up."""

IDLE_NODE_SHARE = 0.05
"""A node is idle whose CPUs never were more in use than this: Ray itself takes a few per cent."""

PAID_FAR_OVER = 1.1
"""CPUs paid over those told to Ray from which on it is said: a core or two are often left to the system on purpose."""

UNUSED_GPU_RATIO = 0.01
"""A GPU was never used whose load was never above this: drivers that look at it show as a little."""

_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class NodeUse:
    """What one node used at most; None is unknown.

    Attributes:
        cpus: CPUs in use at once.
        memory_bytes: memory in use at once.
    """

    name: str
    cpus: float | None = None
    memory_bytes: float | None = None


@dataclass(frozen=True, slots=True)
class Used:
    """What an ended job had, and what it used of that; None is unknown.

    Attributes:
        state: how it ended, in lower case.
        cores: those that were allocated, not hardware threads.
        cpus_for_ray: those that Ray was told of, on all nodes; None for a job without a Ray of ours.
        gpus: those that were allocated.
        memory_allocated_bytes: over all nodes.
        memory_peak_bytes: likewise.
        node_uses: what each node used at most; empty where that isn't known of every node.
        gpu_loads: the highest load of each GPU; empty where that isn't known of every GPU.
        entrypoint: whether it ends when its work is done; None where that isn't known.
        restarts: how often Slurm started it again.
    """

    state: str
    elapsed_seconds: float | None = None
    time_limit_seconds: float | None = None
    nodes: int | None = None
    cores: float | None = None
    cpus_for_ray: int | None = None
    gpus: int | None = None
    memory_allocated_bytes: float | None = None
    memory_peak_bytes: float | None = None
    node_uses: tuple[NodeUse, ...] = ()
    gpu_loads: tuple[float, ...] = ()
    entrypoint: bool | None = None
    restarts: int | None = None


@dataclass(frozen=True, slots=True)
class Charged:
    """What the job was charged by, where that is known.

    Attributes:
        rate: of its partition.
        amounts: what it had.
    """

    rate: Rate
    amounts: Amounts


AdviceKind = Literal["memory", "time", "nodes", "cpus", "gpus"]


@dataclass(frozen=True, slots=True)
class Advice:
    """What could have been asked for less of.

    Attributes:
        about: what.
        text: a sentence that says what was asked and used, and what would have done.
        key: where a spec says it.
        units_then: what the job would have cost so, by the site's rate; None where that isn't known, or the price does
            not depend on it.
    """

    about: AdviceKind
    text: str
    key: str
    units_then: float | None = None


@dataclass(frozen=True, slots=True)
class Advised:
    """All that there is to say of a job.

    Attributes:
        advice: each in a line; empty where nothing is to be said.
        silent: why nothing can be said; nothing where it can.
        units: what the job cost by the rate, its last attempt alone; None where that isn't known.
        units_then: what it would have cost with all of the advice together; None where that isn't known.
        kind: the budget that pays; nothing where there is no rate.
        unit: what is paid in.
    """

    advice: tuple[Advice, ...] = ()
    silent: str = ""
    units: float | None = None
    units_then: float | None = None
    kind: str = ""
    unit: str = ""


_Change = Callable[[Amounts], Amounts]


def advise(used: Used, price: Charged | None = None) -> Advised:
    """Says what a job could have asked for less of.

    Args:
        used: what it had and used.
        price: by which what would have done is priced; None where the rate isn't known.
    """
    elapsed = used.elapsed_seconds
    if elapsed is None:
        return Advised(silent="how long it ran isn't known")
    if elapsed < SHORTEST_SECONDS:
        return Advised(silent=f"it ran less than {SHORTEST_SECONDS / 60:.0f} minutes, too short to tell what it needs")
    if used.restarts:
        return Advised(silent="Slurm started it again, and of earlier attempts it isn't known what they used")
    looks = (_memory(used), _time(used), _nodes(used), _cpus(used), _gpus(used))
    found = [look for look in looks if look is not None]
    now = _cost(price, _same, elapsed)
    advice: list[Advice] = []
    for one, change in found:
        then = _cost(price, change, elapsed)
        cheaper = then is not None and now is not None and then < now
        advice.append(replace(one, units_then=then if cheaper else None))
    together = _cost(price, _all_of(change for _, change in found), elapsed)
    return Advised(
        tuple(advice),
        units=now,
        units_then=together if together is not None and now is not None and together < now else None,
        kind=price.rate.kind if price else "",
        unit=price.rate.unit if price else "",
    )


def _memory(used: Used) -> tuple[Advice, _Change] | None:
    allocated, nodes, peak = used.memory_allocated_bytes, used.nodes, _largest_node(used)
    if not allocated or not nodes or not peak:
        return None
    per_node = allocated / nodes
    enough = math.ceil(peak * MEMORY_ROOM / _GIB)
    if per_node < MEMORY_FAR_OVER * peak or enough * _GIB >= per_node or used.state == "out_of_memory":
        return None
    text = (
        f"memory: {_amount(per_node)} a node were allocated, and at most {_amount(peak)} were used on one; "
        f"{enough}G would have done"
    )
    then = Decimal(enough * nodes)
    return Advice("memory", text, f"cluster.memory_per_node: {enough}G"), lambda amounts: replace(amounts, memory=then)


def _largest_node(used: Used) -> float | None:
    """Returns the memory of the node that used most: where that isn't told, one node may have used all of it."""
    by_node = [use.memory_bytes for use in used.node_uses if use.memory_bytes is not None]
    if by_node and len(by_node) == used.nodes:
        average = (used.memory_peak_bytes or 0.0) / len(by_node)
        return max(*by_node, average)
    return used.memory_peak_bytes


def _time(used: Used) -> tuple[Advice, _Change] | None:
    limit, elapsed = used.time_limit_seconds, used.elapsed_seconds
    # Of a job that failed or was cancelled it isn't known how long it would have taken, nor of a cluster that stays up.
    if not limit or not elapsed or used.state != "completed" or used.entrypoint is False:
        return None
    enough = math.ceil(elapsed * TIME_ROOM / TIME_STEP_SECONDS) * TIME_STEP_SECONDS
    if limit < TIME_FAR_OVER * elapsed or enough >= limit:
        return None
    text = (
        f"time: {_clock(limit)} were asked for and {_clock(elapsed)} taken; {_clock(enough)} would have done. It costs "
        "nothing once it runs, but a shorter job starts earlier, and until it ends budgets are held for all its time"
    )
    return Advice("time", text, f'cluster.time: "{_clock(enough)}"'), _same


def _nodes(used: Used) -> tuple[Advice, _Change] | None:
    nodes, cores = used.nodes, used.cores
    if not nodes or nodes < 2 or not cores or used.gpus or len(used.node_uses) != nodes:  # noqa: PLR2004 - one stays
        return None
    most = cores / nodes * IDLE_NODE_SHARE
    idle = [use.name for use in used.node_uses if use.cpus is not None and use.cpus < most]
    left = max(1, nodes - len(idle))
    if not idle or left == nodes:
        return None
    text = (
        f"nodes: {len(idle)} of {nodes} never had more than {IDLE_NODE_SHARE:.0%} of their CPUs in use "
        f"({', '.join(idle)}); {left} would have done, unless their memory was needed"
    )
    return Advice("nodes", text, f"cluster.nodes: {left}"), lambda amounts: _fewer_nodes(amounts, left)


def _cpus(used: Used) -> tuple[Advice, _Change] | None:
    cores, told, nodes = used.cores, used.cpus_for_ray, used.nodes
    if not cores or not told or not nodes or cores < PAID_FAR_OVER * told or cores - told < 1:
        return None
    each = int(cores // nodes)
    text = (
        f"cpus: {cores:g} cores were allocated, and Ray was told of {told}: it starts no more than that at once. Tell "
        "it of all, or where nodes are shared ask for no more than you use"
    )
    return Advice("cpus", text, f"cluster.cpus_per_node: {each}"), _same


def _gpus(used: Used) -> tuple[Advice, _Change] | None:
    if not used.gpus or len(used.gpu_loads) != used.gpus:
        return None
    nodes = used.nodes or 1
    unused = sum(load <= UNUSED_GPU_RATIO for load in used.gpu_loads)
    each = math.ceil((used.gpus - unused) / nodes)
    left = each * nodes
    if left >= used.gpus:
        return None
    what = str(left) if left else "a partition without GPUs"
    text = f"gpus: {unused} of {used.gpus} were never used by the site's own measure; {what} would have done"
    # Without any GPU it is another partition, whose price this one's rate doesn't tell.
    change = (lambda amounts: _fewer_gpus(amounts, left)) if left else _same
    return Advice("gpus", text, f"cluster.gpus_per_node: {each}"), change


def _same(amounts: Amounts) -> Amounts:
    return amounts


def _all_of(changes: Iterable[_Change]) -> _Change:
    wanted = list(changes)

    def change(amounts: Amounts) -> Amounts:
        for one in wanted:
            amounts = one(amounts)
        return amounts

    return change


def _fewer_nodes(amounts: Amounts, left: int) -> Amounts:
    """Returns amounts of fewer nodes of the same kind."""
    if not amounts.nodes:
        return amounts
    share = Decimal(left) / amounts.nodes
    return replace(
        amounts,
        nodes=left,
        cores=None if amounts.cores is None else amounts.cores * share,
        memory=None if amounts.memory is None else amounts.memory * share,
        nvme=None if amounts.nvme is None else amounts.nvme * share,
    )


def _fewer_gpus(amounts: Amounts, left: int) -> Amounts:
    """Returns amounts with fewer GPUs of the one type that there is; unknown where there are several types."""
    kinds = [kind for kind, count in (amounts.gpus or {}).items() if count]
    return replace(amounts, gpus={kinds[0]: left} if len(kinds) == 1 else None)


def _cost(price: Charged | None, change: _Change, seconds: float) -> float | None:
    cost: Charge | None = None if price is None else charge(price.rate, change(price.amounts), seconds)
    return None if cost is None else float(cost.units)


def _amount(size: float) -> str:
    return f"{size / _GIB:.1f} GiB"


def _clock(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours:02}:{rest // 60:02}:{rest % 60:02}"
