"""Roihu (CSC), in service since June 2026; the successor of Puhti and Mahti."""

from exporter.sites.profile import (
    Accounting,
    Balance,
    Certificate,
    Firewall,
    HostKey,
    LoginHost,
    Partition,
    Policy,
    SiteProfile,
    Workspaces,
)
from exporter.sites.rates import Kind, Largest, Part, Rate, term
from exporter.sites.source import csc

_HOUR = 3600
_CONNECTING = csc("connecting")
_PARTITIONS = csc("partitions")
_BILLING = csc("billing")


def _cpu(
    name: str,
    *,
    max_time: int | None = None,
    min_nodes: int | None = None,
    max_nodes: int | None = None,
    whole_nodes: bool = False,
) -> Partition:
    return Partition(
        name,
        _PARTITIONS,
        architecture="x86",
        max_time=max_time,
        min_nodes=min_nodes,
        max_nodes=max_nodes,
        max_gpus_per_job=0,
        whole_nodes=whole_nodes,
    )


def _gpu(name: str, *, max_time: int, max_nodes: int, max_gpus_per_job: int | None = None) -> Partition:
    return Partition(
        name,
        _PARTITIONS,
        architecture="arm",
        max_time=max_time,
        min_nodes=1,
        max_nodes=max_nodes,
        max_gpus_per_job=max_gpus_per_job,
    )


def _rate(name: str, partitions: tuple[str, ...], kind: Kind, part: Part) -> Rate:
    """Returns a rate with what storage that is reserved costs in every partition."""
    return Rate(name, partitions, kind, "BU", (part, term("nvme", "0.02")), _BILLING)


PROFILE = SiteProfile(
    name="roihu",
    title="Roihu (CSC)",
    login_hosts=(
        LoginHost("roihu-cpu.csc.fi", "x86", _CONNECTING),
        LoginHost("roihu-gpu.csc.fi", "arm", _CONNECTING),
    ),
    host_keys=(
        HostKey("ed25519", "YNdesHbXhxN0hKD4mWvYGQONebjRqY+CGXDqPiZyByQ", _CONNECTING),
        HostKey("ecdsa", "h3YVzmNucpxTXcxag8D2TaC21jH8/6LGNNCCOgRDaTU", _CONNECTING),
        HostKey("rsa", "cXJ5h3Z9fgu0wVpC2kDIpjdsrFsJF/bfyWegQXsfQpU", _CONNECTING),
    ),
    certificate=Certificate("MyCSC", 24 * _HOUR, _CONNECTING),
    timezone="Europe/Helsinki",
    # Whether a non-login shell needs the profile is not documented; a `source` that fails doesn't end the job.
    environment=("source /appl/profile/zz-csc-env.sh", "module load python-pytorch"),
    work_dir="/scratch/{project}/{user}/rayslurm",
    temp_dir="$TMPDIR",  # 20 GiB per user on shared nodes
    environment_source=csc("environment and disk areas"),
    software_dir="/projappl/{project}",
    container_gpu_options=("--nv",),  # NVIDIA: GH200
    partitions=(
        _cpu("test", max_time=_HOUR // 4, min_nodes=1, max_nodes=2),
        _cpu("interactive"),
        _cpu("small", max_time=72 * _HOUR, min_nodes=1, max_nodes=1),
        _cpu("medium", max_time=36 * _HOUR, min_nodes=1, max_nodes=6, whole_nodes=True),
        _cpu("large", max_time=36 * _HOUR, min_nodes=6, max_nodes=60, whole_nodes=True),
        _cpu("longrun", max_time=240 * _HOUR),
        _cpu("hugemem"),
        _cpu("hugemem_longrun"),
        _gpu("gputest", max_time=_HOUR // 4, max_nodes=2),
        _gpu("gpumedium", max_time=36 * _HOUR, max_nodes=4, max_gpus_per_job=4),
        _gpu("gpularge", max_time=36 * _HOUR, max_nodes=10),
    ),
    rates=(
        _rate(
            "shared",
            ("test", "small", "longrun", "interactive"),
            "cpu",
            Largest((term("cores", "0.75"), term("memory", "0.375"))),
        ),
        _rate("hugemem", ("hugemem", "hugemem_longrun"), "cpu", Largest((term("cores", "12"), term("memory", "0.25")))),
        _rate("node", ("medium", "large"), "cpu", term("nodes", "288")),
        _rate("gpu", ("gputest", "gpumedium", "gpularge"), "gpu", term("gpus", "200")),
    ),
    balance=Balance("csc", ("csc-projects", "-p", "{project}"), None, csc("projects and quotas")),
    workspaces=Workspaces(("csc-workspaces",), csc("projects and quotas")),
    accounting=Accounting("csc", source=csc("seff")),
    policy=Policy(
        csc("usage policy"),
        rules=(
            "sacct is heavy on the batch system: no scripts that run it repeatedly, no long periods",
            "login nodes: one core, minutes, under 1 GiB",
            "submit from the login host of the partition's architecture",
        ),
    ),
    firewall=Firewall(("86.50.172.0/27",), csc("connections to CPouta")),
)
