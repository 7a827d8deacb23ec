"""Site files: every figure has its page, rates give the bills that are known, limits refuse what they should."""

from __future__ import annotations

import base64
import ipaddress
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from exporter.config import Site, load_config
from exporter.errors import ConfigError, RefusedError
from exporter.launch import limits
from exporter.launch.launcher import Launcher
from exporter.launch.limits import Known
from exporter.launch.spec import Spec
from exporter.sites import SiteProfile, profiles
from exporter.sites.rates import Largest, Rate, Term, rule
from exporter.sites.source import Source
from exporter.store.db import Store
from tests.unit.conftest import Clock, MakeSite

REAL = ["lumi", "mahti", "puhti", "roihu"]
OPEN_DAY = date(2026, 7, 1)


def make_site(tmp_path: Path, name: str, extra: str = "", host: str = "") -> Site:
    path = tmp_path / "rayslurm.yaml"
    host = "host: login.example.org, " if name not in REAL else f"host: {host}, " if host else ""
    path.write_text(f"sites:\n  {name}:\n    ssh: {{{host}user: maija}}\n    project: project_1\n{extra}")
    return load_config(path).site(name)


def fault_of(tmp_path: Path, name: str, extra: str) -> str:
    with pytest.raises(ConfigError) as caught:
        make_site(tmp_path, name, extra)
    return str(caught.value)


def make_spec(site: str, partition: str, **cluster: Any) -> Spec:
    wanted = {"nodes": 1, "cpus_per_node": 4, "memory_per_node": "16G", "time": "10m"} | cluster
    return Spec.model_validate({"site": site, "cluster": wanted | {"partition": partition}})


def noon(day: date, site: Site) -> float:
    return datetime.combine(day, time(12), site.timezone).timestamp()


def refusal(site: Site, partition: str, *, today: date = OPEN_DAY, campaign: bool = False, **cluster: Any) -> str:
    """Returns what a launch is refused with; nothing where it isn't."""
    try:
        limits.check(make_spec(site.name, partition, **cluster), site, Known(noon(today, site)), campaign=campaign)
    except RefusedError as error:
        return str(error)
    return ""


# -- the files


def test_there_is_a_file_for_each_site() -> None:
    assert sorted(profiles()) == ["lumi", "mahti", "puhti", "roihu", "slurm"]
    for name, profile in profiles().items():
        assert profile.name == name
        ZoneInfo(profile.timezone)


def groups(value: Any) -> Iterator[Any]:
    """Yields every dataclass inside one, but for sources and what has no page of its own."""
    if isinstance(value, tuple):
        for item in value:
            yield from groups(item)
    elif is_dataclass(value) and not isinstance(value, Source | Term | Largest):
        yield value
        for field in fields(value):
            yield from groups(getattr(value, field.name))


@pytest.mark.parametrize("name", REAL)
def test_every_figure_has_a_page(name: str) -> None:
    profile = profiles()[name]
    found = [group.source for group in groups(profile) if not isinstance(group, SiteProfile)]
    found.append(profile.environment_source)
    assert len(found) >= 19
    for source in found:
        assert source is not None
        assert source.page
        assert source.date or "public sources" in source.page
    assert profile.timezone == "Europe/Helsinki"
    assert profile.environment
    assert profile.balance
    assert profile.policy
    assert profile.firewall
    for network in profile.firewall.networks:
        ipaddress.ip_network(network)


@pytest.mark.parametrize("name", REAL)
def test_fingerprints_are_those_of_sha256(name: str) -> None:
    keys = profiles()[name].host_keys
    assert [key.type for key in keys] == ["ed25519", "ecdsa", "rsa"]
    for key in keys:
        assert len(key.sha256) == 43
        assert len(base64.b64decode(key.sha256 + "=", validate=True)) == 32
    assert len({key.sha256 for name in REAL for key in profiles()[name].host_keys}) == 12


@pytest.mark.parametrize("name", REAL)
def test_names_are_unique_and_rates_name_partitions(name: str) -> None:
    profile = profiles()[name]
    partitions = [partition.name for partition in profile.partitions]
    priced = [partition for rate in profile.rates for partition in rate.partitions]
    assert len(set(partitions)) == len(partitions)
    assert len(set(priced)) == len(priced)
    assert len({rate.name for rate in profile.rates}) == len(profile.rates)
    assert set(priced) <= set(partitions)
    # Whether Mahti bills these two by the node or by the core was read nowhere.
    assert set(partitions) - set(priced) == ({"test", "interactive"} if name == "mahti" else set())
    for rate in profile.rates:
        for partition in rate.partitions:
            limit = profile.partition(partition)
            assert limit is not None
            assert (limit.max_gpus_per_job == 0) == (rate.kind == "cpu"), f"{partition}: paid as what it has"


def test_what_the_sites_differ_in() -> None:
    roihu, lumi, slurm = profiles()["roihu"], profiles()["lumi"], profiles()["slurm"]
    assert {login.architecture: login.host for login in roihu.login_hosts} == {
        "x86": "roihu-cpu.csc.fi", "arm": "roihu-gpu.csc.fi",
    }  # fmt: skip
    assert {partition.architecture for partition in roihu.partitions} == {"x86", "arm"}
    assert roihu.certificate
    assert roihu.certificate.lifetime_seconds == 86400
    assert {profiles()[name].software_dir for name in REAL} == {"/projappl/{project}"}
    assert (roihu.temp_dir, lumi.temp_dir, slurm.temp_dir) == ("$TMPDIR", "/tmp", "/tmp")
    assert (lumi.container_command, lumi.container_gpu_options) == ("singularity exec", ())
    assert (slurm.container_command, slurm.container_gpu_options) == ("apptainer exec", None)
    assert (lumi.accounting.seff, lumi.accounting.threads_per_core) == ("none", 2)
    assert lumi.balance
    assert (lumi.balance.provider, lumi.balance.json_path) == (
        "lumi", "/var/lib/project_info/users/{project}/{project}.json",
    )  # fmt: skip
    assert lumi.policy
    assert (lumi.policy.accounting_window, lumi.policy.balance_refresh) == (30 * 86400, 3600)
    for name, day in (("mahti", date(2026, 8, 31)), ("puhti", date(2026, 7, 31))):
        closing = profiles()[name].closing
        assert closing
        assert (closing.compute, closing.storage, closing.successor) == (day, date(2026, 10, 15), "roihu")
    assert (slurm.login_host, slurm.partitions, slurm.rates, slurm.closing) == (None, (), (), None)


# -- rates, by an evaluator of the test's own


def units(rate: Rate, seconds: int, amounts: dict[str, float], gpu_type: str | None = None) -> float:
    named = {part.gpu_type for part in rate.parts if isinstance(part, Term)} - {None}

    def value(term: Term) -> float:
        if term.of == "gpus" and term.gpu_type != (gpu_type if gpu_type in named else None):
            return 0.0
        each = amounts.get(term.of, 0) / term.per
        return float(term.times) * (math.ceil(each) if term.rounded_up else each)

    total = sum(
        float(part.times) * max(map(value, part.of)) if isinstance(part, Largest) else value(part)
        for part in rate.parts
    )
    return round(total * seconds / 3600, 2)


@pytest.mark.parametrize(
    ("site", "partition", "seconds", "amounts", "kind", "unit", "expected"),
    [
        ("roihu", "medium", 579, {"nodes": 1, "cores": 384}, "cpu", "BU", 46.32),
        ("mahti", "large", 409, {"nodes": 2, "cores": 256}, "cpu", "BU", 22.72),
        ("puhti", "gpu", 65260, {"gpus": 1}, "gpu", "BU", 1087.67),
        ("roihu", "small", 3600, {"cores": 8, "memory": 16}, "cpu", "BU", 6),
        ("roihu", "longrun", 3600, {"cores": 8, "memory": 64, "nvme": 100}, "cpu", "BU", 26),
        ("roihu", "hugemem", 3600, {"cores": 1, "memory": 1000}, "cpu", "BU", 250),
        ("roihu", "hugemem_longrun", 3600, {"cores": 40, "memory": 1000}, "cpu", "BU", 480),
        ("roihu", "gpumedium", 1800, {"gpus": 4, "cores": 288, "memory": 800}, "gpu", "BU", 400),
        ("roihu", "large", 3600, {"nodes": 10, "nvme": 50}, "cpu", "BU", 2881),
        ("mahti", "small", 3600, {"cores": 8, "memory": 900, "nvme": 100}, "cpu", "BU", 9),
        ("mahti", "gpusmall", 3600, {"gpus": 1, "nvme": 100}, "gpu", "BU", 101),
        ("puhti", "small", 3600, {"cores": 4, "memory": 16, "nvme": 100}, "cpu", "BU", 6.2),
        ("puhti", "gputest", 3600, {"gpus": 1, "cores": 10, "memory": 90, "nvme": 100}, "gpu", "BU", 79.6),
        ("lumi", "standard", 3600, {"nodes": 3, "cores": 384}, "cpu", "core-hours", 384),
        ("lumi", "small", 3600, {"cores": 4, "memory": 7}, "cpu", "core-hours", 4),
        ("lumi", "debug", 3600, {"cores": 4, "memory": 9}, "cpu", "core-hours", 5),
        ("lumi", "standard-g", 3600, {"nodes": 2, "gpus": 16}, "gpu", "gpu-hours", 8),
        ("lumi", "small-g", 3600, {"gpus": 1, "cores": 8, "memory": 65}, "gpu", "gpu-hours", 1),
        ("lumi", "dev-g", 3600, {"gpus": 1, "cores": 17, "memory": 60}, "gpu", "gpu-hours", 1.5),
    ],
)
def test_rates_give_the_bills_that_are_known(
    site: str, partition: str, seconds: int, amounts: dict[str, float], kind: str, unit: str, expected: float
) -> None:
    rate = profiles()[site].rate(partition)
    assert rate is not None
    assert (rate.kind, rate.unit) == (kind, unit)
    assert units(rate, seconds, amounts) == expected


def test_a_slice_of_a_gpu_has_its_own_price() -> None:
    rate = profiles()["mahti"].rate("gpusmall")
    assert rate is not None
    assert units(rate, 3600, {"gpus": 1}, gpu_type="a100_1g.5gb") == 15
    assert units(rate, 3600, {"gpus": 1}, gpu_type="a100") == 100


def test_a_rate_is_told_as_people_write_it() -> None:
    rules = {f"{name}/{rate.name}": rule(rate) for name in REAL for rate in profiles()[name].rates}
    assert rules["roihu/shared"] == "max(0.75 * cores, 0.375 * GiB) + 0.02 * NVMe GiB"
    assert rules["lumi/gpu-shared"] == "0.5 * max(ceil(cores/8), ceil(GiB/64), GPUs)"
    assert rules["mahti/gpu"] == "100 * GPUs + 15 * a100_1g.5gb + 0.01 * NVMe GiB"


# -- what is refused


@pytest.mark.parametrize(
    ("site", "partition", "cluster", "said"),
    [
        ("roihu", "small", {"nodes": 2}, ("takes at most 1 node a job, not 2", "test or medium would do", "max_nodes")),
        ("roihu", "small", {"nodes": 2, "time": "1h"}, (". medium would do.", "2026-08-21")),
        ("roihu", "large", {"nodes": 2, "time": "1h"}, ("at least 6 nodes, not 2", "medium would do")),
        ("roihu", "medium", {"time": "37h"}, ("at most 36 h, not 37 h", ". small would do", "max_time")),
        ("roihu", "test", {"time": "00:15:01"}, ("at most 15 min, not 00:15:01", "small or medium would do")),
        ("roihu", "small", {"gpus_per_node": 1}, ("has no GPUs", "gpumedium (from roihu-gpu.csc.fi) would do")),
        ("roihu", "small", {"gres": "gpu:gh200:1"}, ("has no GPUs",)),
        ("roihu", "gpumedium", {"nodes": 2, "gpus_per_node": 4}, ("at most 4 GPUs a job, not 8", "gpularge may do")),
        ("roihu", "gpumedium", {"nodes": 2, "gres": "nvme:100,gpu:gh200:4"}, ("at most 4 GPUs a job, not 8",)),
        ("roihu", "small", {"nodes": 100}, ("longrun or hugemem or hugemem_longrun may do",)),
        ("roihu", "gpularge", {"nodes": 11, "gpus_per_node": 1}, ("No partition that rayslurm knows",)),
        ("roihu", "small,test", {"nodes": 3}, ("partition small takes", "partition test takes")),
        ("lumi", "small", {"nodes": 5}, ("takes at most 4 nodes a job, not 5", "standard may do", "LUMI guides")),
        ("lumi", "dev-g", {"time": "4h", "gpus_per_node": 8}, ("at most 3 h, not 4 h",)),
        ("mahti", "medium", {"nodes": 21}, ("takes at most 20 nodes a job",)),
    ],
)  # fmt: skip
def test_what_a_partition_does_not_take_is_refused_with_what_would_do(
    tmp_path: Path, site: str, partition: str, cluster: dict[str, Any], said: tuple[str, ...]
) -> None:
    text = refusal(make_site(tmp_path, site, host=host_for(partition)), partition, **cluster)
    for part in said:
        assert part in text


@pytest.mark.parametrize(
    ("site", "partition", "cluster"),
    [
        ("roihu", "small", {"time": "72h"}),
        ("roihu", "medium", {"nodes": 6, "time": "36h"}),
        ("roihu", "large", {"nodes": 6}),
        ("roihu", "small,medium", {"nodes": 2}),
        ("roihu", "gpumedium", {"nodes": 4, "gpus_per_node": 1}),
        ("roihu", "gpumedium", {"gres": "gpu:4"}),
        ("roihu", "medium", {"gres": "nvme:100"}),
        ("roihu", "brandnew", {"nodes": 900, "time": "30d"}),
        ("lumi", "standard", {"nodes": 900}),
        ("puhti", "small", {"nodes": 9, "time": "30d"}),
        ("myown", "small", {"nodes": 900, "time": "30d", "gpus_per_node": 16}),
    ],
)
def test_what_is_allowed_or_unknown_is_not_refused(
    tmp_path: Path, site: str, partition: str, cluster: dict[str, Any]
) -> None:
    assert refusal(make_site(tmp_path, site, host=host_for(partition)), partition, **cluster) == ""


def host_for(partition: str) -> str:
    """Returns the login host that a partition of Roihu wants, where it isn't the first."""
    return "roihu-gpu.csc.fi" if partition.startswith("gpu") else ""


def test_a_partition_of_another_architecture_names_its_login_host(tmp_path: Path) -> None:
    text = refusal(make_site(tmp_path, "roihu"), "gpumedium", gpus_per_node=1)
    for part in ("has arm nodes", "roihu-cpu.csc.fi is the login host for x86", "CSC user guide", "--force"):
        assert part in text
    assert "write sites.roihu.ssh.host: roihu-gpu.csc.fi in rayslurm.yaml" in text
    text = refusal(make_site(tmp_path, "roihu", host="roihu-gpu.csc.fi"), "small,medium")
    assert text.count("Submit from roihu-cpu.csc.fi") == 2
    assert refusal(make_site(tmp_path, "roihu", host="jump.example.org"), "gpumedium", gpus_per_node=1) == ""
    hosts = "    login_hosts: {any: one.example.org}\n"
    assert refusal(make_site(tmp_path, "roihu", hosts), "gpumedium", gpus_per_node=1) == ""


def test_a_campaign_keeps_out_of_what_is_not_for_production(tmp_path: Path) -> None:
    site = make_site(tmp_path, "lumi")
    assert refusal(site, "debug") == ""
    assert "debug is not for production" in refusal(site, "debug", campaign=True)
    assert "small would do" in refusal(site, "debug", campaign=True)
    assert refusal(site, "small", campaign=True) == ""


def test_a_closed_site_is_refused_from_its_day_on(tmp_path: Path) -> None:
    site = make_site(tmp_path, "mahti")
    assert refusal(site, "medium", today=date(2026, 8, 30)) == ""
    text = refusal(site, "medium", today=date(2026, 8, 31))
    for part in ("closed on 2026-08-31", "CSC user guide", "roihu", "--force"):
        assert part in text


def test_all_reasons_are_told_at_once(tmp_path: Path) -> None:
    text = refusal(make_site(tmp_path, "mahti"), "medium", today=date(2027, 1, 1), nodes=21, time="37h")
    for part in ("closed on 2026-08-31", "at most 20 nodes a job, not 21 and takes jobs of at most 36 h", "--force"):
        assert part in text


# -- what the user writes over it

OVERRIDES = """\
    login_hosts: {arm: arm.example.org, any: any.example.org}
    host_keys: {ed25519: "SHA256:YNdesHbXhxN0hKD4mWvYGQONebjRqY+CGXDqPiZyByQ"}
    certificate: false
    timezone: Europe/Paris
    environment: []
    work_dir: runs
    software_dir: /work/{project}
    container_command: podman-hpc run
    container_gpu_options: []
    partitions:
      small: {max_nodes: 2, max_time: null, architecture: null}
      fresh: {max_time: 90m, max_gpus_per_job: 0}
    rates:
      node: {partitions: [medium], kind: cpu, unit: BU, parts: [{of: nodes, times: 0.3}]}
      mine:
        partitions: [small]
        kind: gpu
        unit: gpu-hours
        parts: [{largest: [{of: cores}, {of: memory, per: 2, rounded_up: true}], times: 2}, {of: gpus, gpu_type: a100}]
    balance: {provider: lumi, command: [lumi-allocations, -p, "{project}"]}
    seff: none
    threads_per_core: 2
    policy: {accounting_window: 7d}
    closed: 2026-12-24
    firewall: [192.0.2.0/27]
"""


def test_the_user_has_the_last_word(tmp_path: Path) -> None:
    site = make_site(tmp_path, "roihu", OVERRIDES)
    profile, known = site.profile, profiles()["roihu"]
    assert site.login_host == "arm.example.org"
    assert [login.architecture for login in profile.login_hosts] == ["arm", None]
    assert [(key.type, len(key.sha256)) for key in profile.host_keys] == [("ed25519", 43)]
    assert profile.certificate is None
    assert (str(site.timezone), site.environment, site.work_dir) == ("Europe/Paris", (), "runs")
    assert site.temp_dir == known.temp_dir
    assert (profile.software_dir, site.container_command) == ("/work/{project}", "podman-hpc run")
    assert (known.container_gpu_options, profile.container_gpu_options) == (("--nv",), ())
    small, fresh = profile.partition("small"), profile.partition("fresh")
    assert small
    assert (small.max_nodes, small.max_time, small.min_nodes, small.architecture) == (2, None, 1, None)
    assert set(small.overridden) == {"max_nodes", "max_time", "architecture"}
    assert small.source.page.startswith("CSC user guide")
    assert fresh
    assert (fresh.max_time, fresh.max_nodes) == (5400, None)
    assert profile.partition("medium") == known.partition("medium")
    rates = {rate.name: rate for rate in profile.rates}
    assert set(rates) == {"node", "mine", "shared", "hugemem", "gpu"}
    assert rates["node"].parts == (Term("nodes", Decimal("0.3")),)
    assert profile.rate("small") == rates["mine"]
    assert profile.rate("test") == rates["shared"]
    assert profile.rate("large") is None
    assert rule(rates["mine"]) == "2 * max(cores, ceil(GiB/2)) + a100"
    assert profile.balance
    assert (profile.balance.provider, profile.balance.json_path) == ("lumi", None)
    assert (profile.accounting.seff, profile.accounting.threads_per_core) == ("none", 2)
    assert profile.policy
    assert known.policy
    assert (profile.policy.accounting_window, profile.policy.rules) == (7 * 86400, known.policy.rules)
    assert profile.closing
    assert profile.closing.compute == date(2026, 12, 24)
    assert profile.firewall
    assert profile.firewall.networks == ("192.0.2.0/27",)
    assert "closed on 2026-12-24 (rayslurm.yaml)" in refusal(site, "small", today=date(2026, 12, 24))
    assert refusal(site, "small", nodes=2, time="300h") == ""
    assert "takes at most 2 nodes a job, not 3 (rayslurm.yaml)" in refusal(site, "small", nodes=3)
    assert "has no GPUs (CSC user guide" in refusal(site, "small", gpus_per_node=1)


def test_nothing_written_leaves_the_site_file_as_it_is(tmp_path: Path) -> None:
    site = make_site(tmp_path, "roihu")
    assert site.profile == profiles()["roihu"]
    assert site.login_host == "roihu-cpu.csc.fi"


def test_a_closed_site_may_be_said_to_be_open(tmp_path: Path) -> None:
    assert refusal(make_site(tmp_path, "puhti", "    closed: false\n"), "small", today=date(2027, 1, 1)) == ""


@pytest.mark.parametrize(
    ("extra", "fault"),
    [
        ("closed: soon", "sites.roihu.closed: write a date such as 2026-08-31, or false where the site is open"),
        ("closed: true", "write a date such as"),
        ("partitions: {small: {max_node: 2}}", "did you mean `max_nodes`?"),
        ("partitions: {small: {max_time: long}}", "sites.roihu.partitions.small.max_time: write a length of time"),
        ("partitions: {small: {max_nodes: -1}}", "greater than or equal to 0"),
        ("partitions: {small: {architecture: sparc}}", "'x86' or 'arm'"),
        ("policy: {accounting_windw: 7d}", "did you mean `accounting_window`?"),
        ("rates: {a: {partitions: [b], kind: cpu, unit: BU}}", "sites.roihu.rates.a.parts: is missing"),
        ("rates: {a: {partitions: [b], kind: qpu, unit: BU, parts: [{of: cores}]}}", "'cpu' or 'gpu'"),
        ("rates: {a: {partitions: [b], kind: cpu, unit: BU, parts: [{}]}}", "write either of: "),
        ("rates: {a: {partitions: [b], kind: cpu, unit: BU, parts: [{of: watts}]}}", "'nodes'"),
        ("rates: {a: {partitions: [b], kind: cpu, unit: BU, parts: [{of: cores, times: many}]}}", "a number such as"),
        ("rates: {a: {partitions: [b], kind: cpu, unit: BU, parts: [{of: cores, times: .nan}]}}", "finite number"),
        ("rates: {a: {partitions: [b], kind: cpu, unit: BU, parts: [{of: cores, gpu_type: x}]}}", "of: gpus only"),
        ('host_keys: {ed25519: "SHA256:abc"}', "sites.roihu.host_keys.ed25519: "),
        ("firewall: [everywhere]", "write a network such as 192.0.2.0/27"),
        ("threads_per_core: 0", "sites.roihu.threads_per_core: "),
        ("balance: {provider: csc}", "sites.roihu.balance.command: is missing"),
        ("login_hosts: {x86: -oProxyCommand=x}", "sites.roihu.login_hosts.x86: "),
    ],
)
def test_each_fault_of_an_override_says_where_and_what_to_write(tmp_path: Path, extra: str, fault: str) -> None:
    text = fault_of(tmp_path, "roihu", f"    {extra}\n")
    assert fault in text
    assert "rayslurm.yaml:5: " in text


# -- where it is asked


def test_the_launcher_refuses_before_anything_is_written_or_sent(
    config_path: Path, store: Store, clock: Clock, make_site: MakeSite
) -> None:
    text = config_path.read_text().replace("partition: small\n", "partition: small\n    profile: roihu\n")
    config_path.write_text(text)
    context, transport = make_site([])
    launcher = Launcher(load_config(config_path), store, clock)
    with pytest.raises(RefusedError, match="at most 1 node a job"):
        launcher.launch(context.client, make_spec("puhti2", "small", nodes=2))
    config_path.write_text(text.replace("profile: roihu", "profile: mahti"))
    launcher = Launcher(load_config(config_path), store, clock)
    with pytest.raises(RefusedError, match="closed on 2026-08-31"):
        launcher.launch(context.client, make_spec("puhti2", "small"), campaign="nightly")
    assert transport.asked == []
    with store.snapshot() as connection:
        assert connection.execute("SELECT count(*) FROM submissions").fetchone()[0] == 0


def run(*arguments: str, config: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAYSLURM")}
    if config is not None:
        environment["RAYSLURM_CONFIG"] = str(config)
    return subprocess.run(
        [sys.executable, "-m", "exporter.cli.entry", *arguments], capture_output=True, text=True, env=environment,
        timeout=60, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip


@pytest.mark.parametrize("dry", [True, False])
def test_a_refused_launch_ends_with_4(config_path: Path, tmp_path: Path, dry: bool) -> None:
    config_path.write_text(config_path.read_text().replace("    ssh:\n", "    profile: roihu\n    ssh:\n"))
    spec = tmp_path / "spec.yaml"
    spec.write_text("site: puhti2\ncluster: {nodes: 2, cpus_per_node: 4, memory_per_node: 16G, time: 1h}\n")
    done = run("launch", str(spec), *(["--dry-run"] if dry else []), config=config_path)
    assert (done.returncode, bool(done.stdout)) == (4, dry), "a dry run shows all the same what would be sent"
    assert "partition small takes at most 1 node a job, not 2 (CSC user guide" in done.stderr
    assert "medium would do" in done.stderr


def test_a_launch_on_a_closed_site_must_be_meant(config_path: Path, tmp_path: Path) -> None:
    config_path.write_text(config_path.read_text().replace("    ssh:\n", "    closed: 2020-02-03\n    ssh:\n"))
    spec = tmp_path / "spec.yaml"
    spec.write_text("site: puhti2\ncluster: {cpus_per_node: 4, memory_per_node: 16G, time: 1h}\n")
    refused = run("launch", str(spec), "--dry-run", config=config_path)
    assert refused.returncode == 4
    assert "closed on 2020-02-03" in refused.stderr
    meant = run("launch", str(spec), "--dry-run", "--force", config=config_path)
    assert meant.returncode == 0
    assert "warning: forced, though puhti2: its compute nodes closed" in meant.stderr
    assert meant.stdout.startswith("#!/bin/bash\n")
    sent = run("launch", str(spec), "--force", config=config_path)
    assert sent.returncode == 1, "it goes on as far as the login node, which doesn't exist"
    assert "login.example.org" in sent.stderr


def test_sites_list_needs_no_configuration() -> None:
    done = run("sites", "list")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["SITE", "lumi", "mahti", "puhti", "roihu", "slurm"]
    assert "closed from 2026-07-31 on" in lines[3]
    listed = json.loads(run("sites", "list", "--json").stdout)
    assert [(site["name"], site["closed"]) for site in listed] == [
        ("lumi", None), ("mahti", "2026-08-31"), ("puhti", "2026-07-31"), ("roihu", None), ("slurm", None),
    ]  # fmt: skip
    assert listed[3]["login_hosts"] == ["roihu-cpu.csc.fi", "roihu-gpu.csc.fi"]


@pytest.mark.parametrize("name", [*REAL, "slurm"])
def test_sites_show(name: str) -> None:
    done = run("sites", "show", name)
    assert done.returncode == 0, done.stderr
    shown = json.loads(run("sites", "show", name, "--json").stdout)
    assert shown["name"] == name
    for key in shown["host_keys"]:
        assert f"SHA256:{key['sha256']}" in done.stdout
    for rate in shown["rates"]:
        assert rate["rule"] in done.stdout
        assert rate["source"]["page"] in done.stdout
    for partition in shown["partitions"]:
        assert f"\n{partition['name']} " in done.stdout
    for login in shown["login_hosts"]:
        assert login["host"] in done.stdout
    if shown["closing"]:
        assert f"closed from {shown['closing']['compute']} on" in done.stdout
        assert shown["closing"]["source"]["date"] in done.stdout
    if name == "slurm":
        assert "partitions: unknown" in done.stdout
        assert "rates: unknown" in done.stdout


def test_a_site_that_is_not_known_is_told_with_those_that_are() -> None:
    done = run("sites", "show", "frontera")
    assert (done.returncode, done.stdout) == (2, "")
    assert "frontera is none of: lumi, mahti, puhti, roihu, slurm" in " ".join(done.stderr.replace("│", " ").split())
