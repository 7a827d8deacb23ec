"""What each real `seff` text of a collection beside the checkout must give, or how it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.errors import InputError
from exporter.parsers import seff
from exporter.records import SeffReport

SAMPLES = Path(__file__).parents[3] / ".." / "shared" / "samples"
pytestmark = pytest.mark.skipif(
    not SAMPLES.is_dir(), reason="no collection of real outputs in ../shared/samples beside this checkout"
)
GIB, MIB = 1024.0**3, 1024.0**2
HOUR, DAY = 3600, 86400

EXPECTED: dict[str, tuple[object, ...]] = {
    "mahti_3460247_cancelled_ray": (
        "3460247 CANCELLED 0",
        (2, 256, 512),
        (354, 0.0017, 2 * DAY + 10 * HOUR + 608, 409),
        (2.26 * GIB, False, 0.1131, 20 * GIB),
        (22.72, {"non_interactive": 22.72}),
    ),
    "puhti_29221065_completed_2node_2025BU": (
        "29221065 COMPLETED 0",
        (2, 40, 80),
        (57681, 0.9717, 59360, 742),
        (23.68 * GIB, True, 0.0638, 371.09 * GIB),
        (24.14, {"cpu": 16.49, "mem": 7.65}),
    ),
    "puhti_3464445_running_gpu_from_inside_job": (
        "3464445 RUNNING None",
        (None, None, 1),
        (0, 0, 1, 1),
        (0, True, 0, 16 * GIB),
        (0.02, {"cpu": 0, "mem": 0, "gpu": 0.02}),
    ),
    "puhti_366910_completed_capBU": (
        "366910 COMPLETED 0",
        (1, 40, 40),
        (4421, 0.9447, 4680, 117),
        (22.13 * GIB, True, 0.1416, 156.25 * GIB),
        (1.81, {"cpu": 1.30, "mem": 0.51}),
    ),
    "puhti_366910_completed_noproject": (
        "366910 COMPLETED 0",
        (1, 40, 40),
        (4421, 0.9447, 4680, 117),
        (22.13 * GIB, True, 0.1416, 156.25 * GIB),
        (1.81, {"cpu": 1.30, "mem": 0.51}),
    ),
    "puhti_4599256_completed_perl_locale_warning": (
        "4599256 COMPLETED 0",
        (1, 5, 5),
        (4690, 0.351, 13360, 2672),
        (1.19 * GIB, False, 0.0595, 20 * GIB),
        (5.20, {"cpu": 3.71, "mem": 1.48}),
    ),
    "puhti_5234656_gpu_full": (
        "5234656 COMPLETED 0",
        (None, None, 1),
        (123, 0.0019, 65260, 65260),
        (268.30 * MIB, False, 0.0537, 4.88 * GIB),
        (1114.65, {"cpu": 18.13, "mem": 8.85, "gpu": 1087.67}),
    ),
    "puhti_5256280_failed_oom_over100pct": (
        "5256280 FAILED 0",
        (1, 40, 40),
        (6, 0.0005, 13320, 333),
        (42.35 * GIB, False, 1.0589, 40 * GIB),
        (4.07, {"cpu": 3.70, "mem": 0.37}),
    ),
    "puhti_5295754_array": (
        "5295754 COMPLETED 0",
        (1, 4, 4),
        (15790, 0.1742, 90640, 22660),
        (14.17 * GIB, False, 0.9068, 15.62 * GIB),
        (35.01, {"cpu": 25.18, "mem": 9.84}),
    ),
    "roihu_307386_completed_cpu_newBU": (
        "307386 COMPLETED 0",
        (1, 384, 384),
        (2 * DAY + 9 * HOUR + 329, 0.9244, 222336, 579),
        (76.45 * GIB, True, 0.1027, 744.72 * GIB),
        (46.32, {"cpu": 46.32, "mem": 0}),
    ),
    "taito_54321_upstream_1core_noWallclock": (
        "54321 COMPLETED 0",
        (None, None, 1),
        (2920, 0.9868, 2959, None),
        (4.06 * GIB, False, 0.1039, 39.06 * GIB),
        (None, {}),
    ),
    "upstream_graham_7545708_pending": (
        "7545708 PENDING None",
        (None, None, 1),
        (None, None, None, None),
        (None, None, None, None),
        (None, {}),
    ),
    "upstream_graham_7725767_timeout": (
        "7725767 TIMEOUT 0",
        (1, 16, 16),
        (70571, 0.068, 12 * DAY + 368, 64823),
        (3.18 * GIB, False, 0.0993, 32 * GIB),
        (None, {}),
    ),
    "upstream_hawk_56154891_oom_no_user_line": (
        "56154891 OUT_OF_MEMORY 0",
        (1, 10, 10),
        (230, 0.0906, 2540, 254),
        (0, True, 0, 39.06 * GIB),
        (None, {}),
    ),
    "upstream_ibu_7317012_array_completed": (
        "7317012 COMPLETED 0",
        (1, 16, 16),
        (58134, 0.0432, 15 * DAY + 48688, 84043),
        (32.29 * GIB, False, 0.5045, 64 * GIB),
        (None, {}),
    ),
    "upstream_openmind_35582785_oom_119pct": (
        "35582785 OUT_OF_MEMORY 0",
        (1, 40, 40),
        (12314, 0.4385, 28080, 702),
        (47.64 * GIB, False, 1.1911, 40 * GIB),
        (None, {}),
    ),
    "upstream_sjtupi_9709905_running": (
        "9709905 RUNNING None",
        (1, 40, 40),
        (0, 0, 8560, 214),
        (0, True, 0, 160 * GIB),
        (None, {}),
    ),
}
OWNERS = {
    "mahti_3460247_cancelled_ray": ("mahti", None, "(your_user)", "pepr_(your_user)", "project_(your_project)"),
    "puhti_366910_completed_noproject": ("puhti", None, "user1", "user1", None),
    "puhti_5234656_gpu_full": ("puhti", None, "another_user", "pepr_anotheruser", "project_2003403"),
    "roihu_307386_completed_cpu_newBU": ("roihu", "medium", "kkayttaj", "kkayttaj", "project_2001659"),
    "upstream_hawk_56154891_oom_no_user_line": ("hawk", None, None, None, None),
    "upstream_ibu_7317012_array_completed": ("ibu_main", None, "user1", "user1", None),
}
REFUSED = {
    "seff/error_array_badly_formatted.stderr.txt": "seff says 'Badly formatted array jobid 123456 with task_id = -2'",
    "seff/error_job_not_found.stderr.txt": "seff says 'Job not found.'",
    "seff/error_usage.txt": "seff says 'Usage: seff",
    "seff/mahti_ray_seff_parsed_1.json": "JSON",
    "seff/puhti_biojobs_fragment.txt": "no line 'Job ID: …' before 'CPU Efficiency: 12.48%",
    "seff/puhti_gpu_energy_fragment.txt": "no line 'Job ID: …' before 'GPU energy'",
    "seff/puhti_gpu_load_memory_fragment.txt": "no line 'Job ID: …' before 'GPU load'",
    "seff/variant_nesi_nn_seff_22278992_timeout.txt": "'Job Wall-time:  100.33%",
    "slurm-lab/daemons-down.txt": "seff says 'Job not found.', after 'perl: error: DBD_GET_JOBS_COND failure",
    "slurm-lab/squeue-me.txt": "it begins 'JOBID PARTITION",
    "slurm-lab/sacct-full-P.txt": "it begins 'JobID",
    "slurm-lab/cancel.txt": "no line 'Job ID: …'",
    "slurm-lab/sstat.txt": "no line 'Job ID: …'",
    "slurm-lab/sacct-unknown-field.txt": "no line 'Job ID: …'",
    "sacct/lumi_default_table.txt": "no line 'Job ID: …'",
    "csc/csc-projects_2025BU.txt": "no line 'Job ID: …'",
    "csc/csc-workspaces_puhti.txt": "no line 'Job ID: …'",
    "lumi/RENDERED_lumi-allocations_qpu.txt": "no line 'Job ID: …'",
    "lumi/RENDERED_lumi-allocations_no_access.txt": "no line 'Job ID: …'",
}


def text(name: str) -> str:
    path = SAMPLES / name
    if not path.is_file():
        pytest.skip(f"no {name} in ../shared/samples beside this checkout")
    return path.read_text(encoding="utf-8")


def report(name: str) -> SeffReport:
    parsed = seff.parse(text(f"seff/{name}.txt"))
    assert parsed.warnings == ()
    (record,) = parsed.records
    return record


def test_the_list_has_every_text() -> None:
    listed = {f"seff/{name}.txt" for name in EXPECTED} | REFUSED.keys()
    assert {f"seff/{path.name}" for path in (SAMPLES / "seff").iterdir()} <= listed


@pytest.mark.parametrize("name", EXPECTED)
def test_what_each_text_gives(name: str) -> None:
    read = report(name)
    assert (
        f"{read.job_id} {read.state} {read.exit_code}",
        (read.nodes, read.cores_per_node, read.cores),
        (read.cpu_used_seconds, read.cpu_efficiency_ratio, read.core_walltime_seconds, read.wall_clock_seconds),
        (
            read.memory_used_bytes,
            read.memory_used_is_estimate,
            read.memory_efficiency_ratio,
            read.memory_allocated_bytes,
        ),
        (read.billing_units, read.billing_components),
    ) == EXPECTED[name]


@pytest.mark.parametrize("name", OWNERS)
def test_whose_each_job_is(name: str) -> None:
    read = report(name)
    assert (read.cluster, read.partition, read.user, read.group, read.billed_project) == OWNERS[name]


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_and_why(name: str) -> None:
    with pytest.raises(InputError) as caught:
        seff.parse(text(name))
    assert REFUSED[name] in str(caught.value)


def test_array_tasks() -> None:
    assert report("puhti_5295754_array").array_job_id == "5295754_100"
    assert report("upstream_ibu_7317012_array_completed").array_job_id == "7317010_6"


def test_the_gpus_of_a_job() -> None:
    (gpu,) = report("puhti_5234656_gpu_full").gpus
    assert (gpu.hostname, gpu.gpu_id, gpu.load_mean_ratio, gpu.load_max_ratio) == ("r15g03", "1", 0.8372, 0.92)
    assert (gpu.memory_mean_bytes, gpu.memory_max_bytes, gpu.energy_joules) == (0.6 * GIB, 0.62 * GIB, None)


def test_fragments_with_the_job_they_lack() -> None:
    head = "Job ID: 1\nState: COMPLETED (exit code 0)\n"
    (load,) = seff.parse(head + text("seff/puhti_gpu_load_memory_fragment.txt")).records[0].gpus
    assert (load.hostname, load.load_mean_ratio, load.memory_max_bytes) == ("r01g07", 0.9218, 16.91 * GIB)
    energies = seff.parse(head + text("seff/puhti_gpu_energy_fragment.txt")).records[0].gpus
    assert [(gpu.gpu_id, gpu.energy_joules) for gpu in energies] == [
        ("0", 58.30 * 3600),
        ("1", 56.63 * 3600),
        ("2", 44.87 * 3600),
        ("3", 62.21 * 3600),
    ]


def test_the_labs_reports() -> None:
    parsed = seff.parse(text("slurm-lab/seff.txt"))
    assert [(each.job_id, each.array_job_id, each.state, each.exit_code) for each in parsed.records] == [
        ("1", None, "COMPLETED", 0),
        ("2", None, "COMPLETED", 0),
        ("3", "3_6", "COMPLETED", 0),
        ("16", "3_3", "FAILED", 1),
        ("4", None, "FAILED", 7),
        ("5", None, "FAILED", 139),
        ("6", None, "TIMEOUT", 0),
        ("7", None, "FAILED", 137),
        ("8", None, "CANCELLED", 0),
        ("9", None, "CANCELLED", 0),
        ("10", None, "RUNNING", None),
        ("11", None, "NODE_FAIL", 0),
    ]
    assert [warning.text for warning in parsed.warnings] == ["Job not found."]
    assert (parsed.records[1].cores, parsed.records[1].memory_allocated_bytes) == (4, 1.17 * GIB)
    assert parsed.records[7].memory_efficiency_ratio == 4.0849
    oom = seff.parse(text("slurm-lab/oom-cgroup.txt"))
    assert [(each.job_id, each.state) for each in oom.records] == [("1", "FAILED"), ("2", "OUT_OF_MEMORY")]
    assert all(warning.line > 32 for warning in oom.warnings)
