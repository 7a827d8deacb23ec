"""What /metrics says of the practice sites, against what they know to be true."""

from __future__ import annotations

import math
import time
import urllib.request
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from exporter.practice.site import PROJECT, PracticeSite
from exporter.practice.slurm import cpu_percent
from exporter.practice.supervisor import STARTS_SECONDS
from exporter.practice.world import LAG_SECONDS, Job

KINDS = ("states", "ready", "bills", "efficiency", "balances", "areas", "budget", "tunnels")
"""What is compared."""

BALANCE_SECONDS = 40.0
"""How old a balance may be: they are read about every half hour of the practice sites' clock."""

TUNNEL_SECONDS = 3.0
"""How old the state of a tunnel may be: they are probed every second."""

TUNNEL_KEPT_SECONDS = 8.5
"""How old it may be at all, however busy this machine: then it is taken away."""

_TUNNEL_STATES = {"up", "refused", "target_down"}
_CLOSE = 1e-9
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))

Series = dict[str, dict[frozenset[tuple[str, str]], float]]


@dataclass
class TunnelWatch:
    """What all comparisons saw of tunnels, since each sees a moment only.

    Attributes:
        right: how often a job's tunnel was seen in a state that was true.
        wrong: what was not true for longer than can be excused, in words; it stays a difference.
    """

    right: Counter[tuple[str, str]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether one job's tunnel was seen in all states that there are at a practice site."""
        jobs = {job for job, _ in self.right}
        return not self.wrong and any(all(self.right[job, state] for state in _TUNNEL_STATES) for job in jobs)

    def look(self, series: Series, site: PracticeSite, job: Job, now: float) -> list[str]:
        """Compares how a job's tunnel is said to be with how it was a moment before.

        Args:
            series: the page.
            site: the job's.
            job: a job.
            now: epoch seconds, from before the page was made.

        Returns:
            What differs, in words.
        """
        what = f"{site.name}/{job.job_id} ({job.name.partition('.')[0]}) tunnel"
        identity = {"site": site.name, "job_id": str(job.job_id)}
        labels = {**identity, "tunnel": "dashboard"}
        states = series.get("rayslurm_tunnel_state", {})
        shown = [dict(own)["state"] for own in states if labels.items() <= dict(own).items()]
        if _value(series, "job_state", **identity, state="running") is None:
            return [f"{what}: /metrics has {shown}, and not that it runs"] if shown else []
        up = _value(series, "tunnel_up", **labels)
        one = shown[0] if len(shown) == 1 and up == (shown[0] == "up") else None
        lately, at_all = (
            site.tunnel_states(job.job_id, now - seconds, time.time())
            for seconds in (TUNNEL_SECONDS, TUNNEL_KEPT_SECONDS)
        )
        last = _value(series, "tunnel_last_success_timestamp_seconds", **labels)
        if last is not None and "up" not in site.tunnel_states(job.job_id, last - 1, last):
            self.wrong.append(f"{what}: it was not up at {last}, which is called its last success")
        if one in lately:
            self.right[what, one] += 1
            return []
        told = f"{what}: /metrics has {shown} (up: {up}), true is {' or '.join(sorted(lately))}"
        just_begun = not shown and up is None and now - job.start <= TUNNEL_KEPT_SECONDS
        if one not in at_all and not just_begun:
            self.wrong.append(told)
        return [told]


@dataclass
class Checked:
    """What was compared, and what came of it.

    Attributes:
        counts: how many values of each kind were compared and right.
        differences: what is not as it is in truth, in words.
        unfinished: jobs that will end and have not.
        tunnels_seen: whether a tunnel was seen in all its states.
    """

    counts: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=lambda: ["nothing was compared yet"])
    unfinished: int = 0
    tunnels_seen: bool = False

    @property
    def complete(self) -> bool:
        """Whether all that will happen has, something of every kind was compared, and nothing differs."""
        happened = self.tunnels_seen and not self.unfinished
        return happened and not self.differences and all(self.counts[kind] for kind in KINDS)

    def summary(self) -> str:
        """Returns the last line: `demo-check: states=12 bills=9 ... differences=0`."""
        counts = " ".join(f"{kind}={self.counts[kind]}" for kind in KINDS)
        return f"demo-check: {counts} differences={len(self.differences)}"

    def expect(self, kind: str, what: str, shown: float | None, true: float) -> None:
        """Compares one value."""
        if shown is not None and math.isclose(shown, true, rel_tol=_CLOSE, abs_tol=_CLOSE):
            self.counts[kind] += 1
        else:
            self.differences.append(f"{what}: /metrics has {shown}, true is {true}")


def compare(url: str, sites: Mapping[str, PracticeSite], watch: TunnelWatch) -> Checked:
    """Reads the page once and compares everything that it should say.

    Args:
        url: where the page is.
        sites: what it is about.
        watch: what was seen of tunnels before; what is seen now is added.
    """
    result = Checked(differences=[])
    now = time.time()
    with _OPENER.open(f"{url}/metrics", timeout=5) as answer:
        series: Series = {}
        for family in text_string_to_metric_families(answer.read().decode()):
            for sample in family.samples:
                series.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    for name, site in sites.items():
        for job in site.world.jobs():
            _compare_job(result, series, site, job, now)
            result.differences += watch.look(series, site, job, now)
        provider = "lumi" if name == "lumi" else "csc"
        for kind, told in site.recently_used(BALANCE_SECONDS).items():
            labels = {"provider": provider, "project": PROJECT, "kind": kind}
            shown = _value(series, "allocation_used", **labels)
            if not told:
                result.differences.append(f"{provider} {kind} used: the practice site has told nothing yet")
                continue
            nearest = min(told, key=lambda used: abs(used - (shown or 0)))
            result.expect("balances", f"{provider} {kind} used", shown, nearest)
        scratch = {"site": name, "area": f"/scratch/{PROJECT}"}
        result.expect("areas", f"{name} scratch", _value(series, "storage_used_files", **scratch), 389_000)
        remaining = _value(series, "site_command_budget_remaining", site=name)
        result.expect("budget", f"{name} budget kept", float(remaining is not None and remaining > 0), 1)
    result.counts["tunnels"] = watch.right.total()
    result.tunnels_seen = watch.complete
    result.differences += [told for told in watch.wrong if told not in result.differences]
    return result


def _compare_job(result: Checked, series: Series, site: PracticeSite, job: Job, now: float) -> None:
    what = f"{site.name}/{job.job_id} ({job.name.partition('.')[0]}, {job.partition})"
    labels = {"site": site.name, "job_id": str(job.job_id)}
    state = job.state(now - LAG_SECONDS).lower()
    result.expect("states", f"{what} state {state}", _value(series, "job_state", **labels, state=state), 1)
    if job.end > now - LAG_SECONDS:
        result.unfinished += not job.stays
        return
    result.expect("states", f"{what} end", _value(series, "job_end_timestamp_seconds", **labels), job.end)
    if job.elapsed(now) > STARTS_SECONDS:
        ready = job.start + STARTS_SECONDS
        result.expect("ready", f"{what} Ray ready", _value(series, "job_ray_ready_timestamp_seconds", **labels), ready)
    paid = site.world.bill(job, now)
    if paid is not None:
        kind, parts = paid
        units = sum(parts.values())
        true = units if site.name == "lumi" else float(f"{units:.2f}")
        shown = _value(series, "job_billing_units", **labels, kind=kind.lower())
        result.expect("bills", f"{what} bill", shown, true)
    if job.fate == "NODE_FAIL":
        shown = _value(series, "job_cpu_efficiency_ratio", **labels)
        result.expect("efficiency", f"{what} has no efficiency", float(shown is None), 1)
        return
    used, walltime = job.cpu_seconds(now), job.cpus * job.elapsed(now)
    if site.name == "lumi":
        cpu, memory = used / (walltime / 2), job.peak / job.memory
    else:
        cpu, memory = float(cpu_percent(used, walltime)) / 100, float(f"{100 * job.peak / job.memory:.2f}") / 100
    result.expect("efficiency", f"{what} CPU", _value(series, "job_cpu_efficiency_ratio", **labels), cpu)
    result.expect("efficiency", f"{what} memory", _value(series, "job_memory_efficiency_ratio", **labels), memory)


def _value(series: Series, name: str, /, **labels: str) -> float | None:
    wanted = labels.items()
    found = [value for own, value in series.get(f"rayslurm_{name}", {}).items() if wanted <= dict(own).items()]
    return found[0] if len(found) == 1 else None
