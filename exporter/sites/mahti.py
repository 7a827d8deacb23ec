"""Mahti (CSC). Its compute nodes are closed; its formats live on in archives and its rates in past bills."""

from datetime import date

from exporter.sites.profile import (
    Accounting,
    Balance,
    Closing,
    Firewall,
    HostKey,
    LoginHost,
    Partition,
    Policy,
    SiteProfile,
    Workspaces,
)
from exporter.sites.rates import Rate, term
from exporter.sites.source import csc

_HOUR = 3600
_CONNECTING = csc("connecting")
_PARTITIONS = csc("partitions")
_BILLING = csc("billing")
_NVME = term("nvme", "0.01")

PROFILE = SiteProfile(
    name="mahti",
    title="Mahti (CSC)",
    login_hosts=(LoginHost("mahti.csc.fi", None, _CONNECTING),),
    host_keys=(
        HostKey("ed25519", "tE+1jA4Et1enbbat1V3dMRWlLtJgA8t7ZrkyIkU4ooo", _CONNECTING),
        HostKey("ecdsa", "WC9Lb5tmKDzUJqsQjaZLvp9T7LTs3aMUYSIy2OCdtgg", _CONNECTING),
        HostKey("rsa", "0CxM3ECpD2LhAnMfHnm3YaXresvHrhW4cevvcPb+HNw", _CONNECTING),
    ),
    timezone="Europe/Helsinki",
    environment=("source /appl/profile/zz-csc-env.sh", "module load pytorch"),
    work_dir="/scratch/{project}/{user}/rayslurm",
    environment_source=csc("environment and disk areas"),
    software_dir="/projappl/{project}",
    container_gpu_options=("--nv",),  # NVIDIA: A100
    partitions=(
        Partition("test", _PARTITIONS, max_gpus_per_job=0),
        Partition("interactive", _PARTITIONS, max_gpus_per_job=0),
        Partition("small", _PARTITIONS, max_time=72 * _HOUR, max_gpus_per_job=0, whole_nodes=False),
        Partition("medium", _PARTITIONS, max_time=36 * _HOUR, max_nodes=20, max_gpus_per_job=0, whole_nodes=True),
        Partition("large", _PARTITIONS, max_nodes=200, max_gpus_per_job=0, whole_nodes=True),
        Partition("gputest", _PARTITIONS),
        Partition("gpusmall", _PARTITIONS),
        Partition("gpumedium", _PARTITIONS),
    ),
    # Whether `test` and `interactive` are billed by the node or by the core was not read anywhere: they have no rate.
    rates=(
        Rate("node", ("medium", "large"), "cpu", "BU", (term("nodes", "100"),), _BILLING),
        Rate("core", ("small",), "cpu", "BU", (term("cores"), _NVME), _BILLING),
        Rate(
            "gpu",
            ("gputest", "gpusmall", "gpumedium"),
            "gpu",
            "BU",
            (term("gpus", "100"), term("gpus", "15", gpu_type="a100_1g.5gb"), _NVME),
            _BILLING,
        ),
    ),
    balance=Balance("csc", ("csc-projects", "-p", "{project}"), None, csc("projects and quotas")),
    workspaces=Workspaces(("csc-workspaces",), csc("projects and quotas")),
    accounting=Accounting("csc", source=csc("seff")),
    policy=Policy(
        csc("usage policy"),
        rules=(
            "sacct is heavy on the batch system: no scripts that run it repeatedly, no long periods",
            "login nodes: one core, minutes, under 1 GiB",
        ),
    ),
    closing=Closing(date(2026, 8, 31), csc("Mahti"), storage=date(2026, 10, 15), successor="roihu"),
    firewall=Firewall(("86.50.165.192/27",), csc("connections to CPouta")),
)
