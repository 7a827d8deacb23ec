"""LUMI."""

from decimal import Decimal

from exporter.sites.profile import (
    Accounting,
    Balance,
    Firewall,
    HostKey,
    LoginHost,
    Partition,
    Policy,
    SiteProfile,
    Workspaces,
)
from exporter.sites.rates import Largest, Rate, term
from exporter.sites.source import Source, csc, lumi

_HOUR = 3600
_LOGIN = lumi("logging in", "2024-10")
_PARTITIONS = lumi("partitions")
_BILLING = lumi("billing")


def _test_partition(name: str, *, max_time: int, max_nodes: int, max_gpus_per_job: int | None) -> Partition:
    """Returns a partition that takes two jobs of a user, one of them running, and no production."""
    return Partition(
        name,
        _PARTITIONS,
        max_time=max_time,
        max_nodes=max_nodes,
        max_gpus_per_job=max_gpus_per_job,
        whole_nodes=False,
        production=False,
        max_jobs=2,
        max_running=1,
    )


PROFILE = SiteProfile(
    name="lumi",
    title="LUMI",
    login_hosts=(LoginHost("lumi.csc.fi", None, _LOGIN),),
    host_keys=(
        HostKey("ed25519", "qCFZThjRw8nf0CiZ9rU7b6Zirjq8slAIl5r0xWaVoD0", _LOGIN),
        HostKey("ecdsa", "hY4mnRCYb8bRchTnVcFo7SqoHHHEsUh9Ym38F4sHN1Y", _LOGIN),
        HostKey("rsa", "ypbqdMWtk9ZdXEROkeEpv+3PCEXWjPLGI79IXGHe9ac", _LOGIN),
    ),
    timezone="Europe/Helsinki",
    environment=(
        "module use /appl/local/laifs/modules",
        "module load lumi-aif-singularity-bindings",
    ),
    work_dir="/scratch/{project}/{user}/rayslurm",
    temp_dir="/tmp",  # noqa: S108 - memory, charged to the job; nothing else that is local to a node is known
    environment_source=lumi("software and disk areas"),
    software_dir="/projappl/{project}",
    container_command="singularity exec",
    container_gpu_options=(),  # the module above shows them to containers
    partitions=(
        Partition("standard", _PARTITIONS, max_time=48 * _HOUR, max_gpus_per_job=0, whole_nodes=True),
        Partition("small", _PARTITIONS, max_time=72 * _HOUR, max_nodes=4, max_gpus_per_job=0, whole_nodes=False),
        _test_partition("debug", max_time=_HOUR // 2, max_nodes=4, max_gpus_per_job=0),
        Partition("standard-g", _PARTITIONS, max_time=48 * _HOUR, whole_nodes=True),
        Partition("small-g", _PARTITIONS, max_time=72 * _HOUR, max_nodes=4, whole_nodes=False),
        _test_partition("dev-g", max_time=3 * _HOUR, max_nodes=32, max_gpus_per_job=None),
    ),
    rates=(
        Rate("node", ("standard",), "cpu", "core-hours", (term("nodes", "128"),), _BILLING),
        Rate(
            "shared",
            ("small", "debug"),
            "cpu",
            "core-hours",
            (Largest((term("cores"), term("memory", per=2, rounded_up=True))),),
            _BILLING,
        ),
        Rate("gpu-node", ("standard-g",), "gpu", "gpu-hours", (term("nodes", "4"),), _BILLING),
        Rate(
            "gpu-shared",
            ("small-g", "dev-g"),
            "gpu",
            "gpu-hours",
            (
                Largest(
                    (
                        term("cores", per=8, rounded_up=True),
                        term("memory", per=64, rounded_up=True),
                        term("gpus"),
                    ),
                    times=Decimal("0.5"),
                ),
            ),
            _BILLING,
        ),
    ),
    balance=Balance(
        "lumi",
        ("lumi-allocations", "-p", "{project}"),
        "/var/lib/project_info/users/{project}/{project}.json",
        Source("public sources of lumi-allocations", None),
    ),
    workspaces=Workspaces(("lumi-workspaces",), lumi("software and disk areas")),
    accounting=Accounting("none", threads_per_core=2, source=lumi("accounting")),
    policy=Policy(
        lumi("usage policy"),
        accounting_window=30 * 24 * _HOUR,
        balance_refresh=_HOUR,
        rules=(
            "login nodes: one core, minutes, under 1 GiB",
            "debug and dev-g take two jobs of a user, one running, and are not for production: no campaigns there",
        ),
    ),
    firewall=Firewall(
        ("193.167.209.128/26",),
        csc("connections to CPouta"),
        note="the older 193.167.209.160/28 may miss the address that compute nodes come from",
    ),
)
