"""Puhti (CSC). Its compute nodes are closed; its formats live on in archives and its rates in past bills."""

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

_CONNECTING = csc("connecting")
_PARTITIONS = csc("partitions")
_BILLING = csc("billing")
_CPU = ("test", "interactive", "small", "large", "longrun", "hugemem")
_GPU = ("gputest", "gpu")
_SHARED = (term("cores"), term("memory", "0.1"), term("nvme", "0.006"))

PROFILE = SiteProfile(
    name="puhti",
    title="Puhti (CSC)",
    login_hosts=(LoginHost("puhti.csc.fi", None, _CONNECTING),),
    host_keys=(
        HostKey("ed25519", "Q2lpykI43ffs4PrRODZ/qncjUo3eyrRHc5T9yjJEwWY", _CONNECTING),
        HostKey("ecdsa", "kk0Tar9opQ+6Gq0GWJdWVVvFEMeI6kW1DW1VOYveT5c", _CONNECTING),
        HostKey("rsa", "WH1Ag2OQtMPZb+hj3YeH9uVMMetXpCvyNUbsdk0Qcpk", _CONNECTING),
    ),
    timezone="Europe/Helsinki",
    environment=("source /appl/profile/zz-csc-env.sh", "module load pytorch"),
    work_dir="/scratch/{project}/{user}/rayslurm",
    environment_source=csc("environment and disk areas"),
    software_dir="/projappl/{project}",
    partitions=(
        *(Partition(name, _PARTITIONS, max_gpus_per_job=0, whole_nodes=False) for name in _CPU),
        *(Partition(name, _PARTITIONS, whole_nodes=False) for name in _GPU),
    ),
    rates=(
        Rate("cpu", _CPU, "cpu", "BU", _SHARED, _BILLING),
        Rate("gpu", _GPU, "gpu", "BU", (term("gpus", "60"), *_SHARED), _BILLING),
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
    closing=Closing(date(2026, 7, 31), csc("Puhti"), storage=date(2026, 10, 15), successor="roihu"),
    firewall=Firewall(("86.50.164.176/28",), csc("connections to CPouta")),
)
