"""Efficiency worked out from accounting, against Slurm's own seff, for real jobs of many shapes.

With RAYSLURM_FULL=1 twenty jobs of at least 100 CPU seconds each, half an hour on two cores; else seven of fewer,
where seff's rounding up to whole seconds is allowed for.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.lab.lab import Lab
from tests.lab.serving import SITE, Rayslurm, configure, own_site

FULL = os.environ.get("RAYSLURM_FULL") == "1"
pytestmark = pytest.mark.timeout(2400 if FULL else 300)

BURN = """\
import sys, time
seconds, mebibytes = float(sys.argv[1]), int(sys.argv[2])
held = bytearray(b"x") * (mebibytes << 20)
while time.process_time() < seconds:
    sum(range(20000))
time.sleep(3)
"""
STEP = "srun --exact -N1 -n1 -c1"


@dataclass(frozen=True)
class Shape:
    """A kind of job: its options, and its script, in which `{x}` is a third of the CPU seconds that it must burn."""

    options: str
    script: str
    quick: bool = False


SHAPES = {
    "one task": Shape("-n1 --mem=400", "python3 burn.py {all} 100", quick=True),
    "one task, four cores": Shape("-n1 -c4 --mem=600", "python3 burn.py {all} 300"),
    "much memory": Shape("-n1 --mem=1500", "python3 burn.py {all} 1200"),
    "little memory": Shape("-n1 --mem=3000", "python3 burn.py {all} 20"),
    "two processes": Shape(
        "-n1 -c2 --mem=800", "python3 burn.py {x} 200 & python3 burn.py {rest} 100; wait", quick=True
    ),
    "a step": Shape("-n1 --mem=500", f"{STEP} --mem=400 python3 burn.py {{all}} 150"),
    "a step and the script": Shape("-n1 --mem=700", f"python3 burn.py {{x}} 50; {STEP} python3 burn.py {{rest}} 200"),
    "steps one after the other": Shape(
        "-n1 --mem=700", f"{STEP} python3 burn.py {{rest}} 250; {STEP} python3 burn.py {{x}} 80", quick=True
    ),
    "the larger step last": Shape(
        "-n1 --mem=700", f"{STEP} python3 burn.py {{rest}} 60; {STEP} python3 burn.py {{x}} 350"
    ),
    "steps at once": Shape(
        "-n2 --mem=900",
        f"{STEP} --mem=400 python3 burn.py {{rest}} 120 & {STEP} --mem=400 python3 burn.py {{x}} 200 & wait",
        quick=True,
    ),
    "two nodes": Shape(
        "-N2 -n2 --mem=500",
        f"{STEP} -w $(scontrol show hostnames | head -1) python3 burn.py {{rest}} 100 &"
        f" {STEP} -w $(scontrol show hostnames | tail -1) python3 burn.py {{x}} 220 & wait",
        quick=True,
    ),
    "two nodes, one idle": Shape("-N2 -n2 --mem=500", "python3 burn.py {all} 180"),
    "two nodes, one after the other": Shape(
        "-N2 -n2 --mem=600",
        f"{STEP} -w $(scontrol show hostnames | tail -1) python3 burn.py {{rest}} 300;"
        f" {STEP} -w $(scontrol show hostnames | head -1) python3 burn.py {{x}} 40",
    ),
    "three nodes": Shape(
        "-N3 -n3 --mem=400",
        f"for node in $(scontrol show hostnames); do {STEP} -w $node python3 burn.py {{third}} 90 & done; wait",
    ),
    "it fails": Shape("-n1 --mem=300", "python3 burn.py {all} 70; exit 3"),
    "an array": Shape("-n1 --mem=400 -a 1-3", "python3 burn.py {all} $((60 * SLURM_ARRAY_TASK_ID))", quick=True),
    "an array of steps": Shape("-n1 --mem=500 -a 5,7", f"{STEP} python3 burn.py {{all}} $((30 * SLURM_ARRAY_TASK_ID))"),
}


@dataclass(frozen=True)
class Ended:
    """The jobs that ended, by what they were, and what followed them."""

    ids: dict[str, str]
    several_tasks: str
    rayslurm: Rayslurm


@pytest.fixture(scope="module")
def ended(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ended]:
    (lab.researcher_home / "burn.py").write_text(BURN)
    (lab.researcher_home / "burn.py").chmod(0o644)
    rayslurm = configure(lab, tmp_path_factory.mktemp("seff"))
    with own_site(lab), rayslurm.serving():
        ids: dict[str, str] = {}
        for name, shape in SHAPES.items():
            if not (FULL or shape.quick):
                continue
            job_id = lab.sbatch(shape.options, "-p", "small", "-t", "50", wrap=script(shape))
            tasks = re.search(r"-a (\S+)", shape.options)
            members = {"1-3": ("1", "2", "3"), "5,7": ("5", "7")}[tasks[1]] if tasks else ()
            ids |= {f"{name} {task}": f"{job_id}_{task}" for task in members} or {name: job_id}
            rayslurm.run("track", f"{SITE}/{job_id}")
        several = lab.sbatch(
            "-n2 --mem=900 -p small -t 50",
            wrap='srun -n2 bash -c "python3 burn.py 3 \\$((100 + 150 * SLURM_PROCID))"',
        )
        rayslurm.run("track", f"{SITE}/{several}")
        wanted = {*ids.values(), several}
        lab.wait(lambda: measured(rayslurm) >= wanted, 2000 if FULL else 240, "every job's efficiency", every=1)
        yield Ended(ids, several, rayslurm)


def script(shape: Shape) -> str:
    seconds = 104 if FULL else 9
    third = seconds // 3 + 1
    numbers = {"all": seconds, "x": third, "rest": seconds - third, "third": third}
    return re.sub(r"\{(all|x|rest|third)\}", lambda match: str(numbers[match[1]]), shape.script)


def measured(rayslurm: Rayslurm) -> set[str]:
    return {dict(labels)["job_id"] for labels in rayslurm.samples().get("rayslurm_job_cpu_efficiency_ratio", {})}


@dataclass(frozen=True)
class Seff:
    """What seff prints, read without the parser under test."""

    used: float
    cpu: float
    bytes: float
    memory: float


def seff(lab: Lab, job_id: str) -> Seff:
    text = lab.sh(f"seff {job_id}", check=True).stdout
    ((days, hours, minutes, seconds),) = re.findall(r"CPU Utilized: (?:(\d+)-)?(\d+):(\d+):(\d+)", text)
    (cpu,) = re.findall(r"CPU Efficiency: ([\d.]+)%", text)
    ((amount, unit),) = re.findall(r"Memory Utilized: ([\d.]+) ([KMG]B)", text)
    (memory,) = re.findall(r"Memory Efficiency: ([\d.]+)%", text)
    scale = {"KB": 1024, "MB": 1024**2, "GB": 1024**3}[unit]
    used = ((int(days or 0) * 24 + int(hours)) * 60 + int(minutes)) * 60 + int(seconds)
    return Seff(used, float(cpu) / 100, float(amount) * scale, float(memory) / 100)


def test_accounting_agrees_with_seff(lab: Lab, ended: Ended) -> None:
    assert len(ended.ids) >= (20 if FULL else 7)
    rounding = 0.0 if FULL else 1.0
    differences = {}
    for name, job_id in ended.ids.items():
        printed = seff(lab, job_id)
        job = {"site": SITE, "job_id": job_id, "source": "sacct"}
        used = ended.rayslurm.value("job_cpu_used_seconds", **job)
        cpu = ended.rayslurm.value("job_cpu_efficiency_ratio", **job)
        memory = ended.rayslurm.value("job_memory_efficiency_ratio", **job)
        assert used is not None
        assert cpu is not None
        assert memory is not None
        assert used >= (100 if FULL else 9), f"{name} burnt too little to compare"
        differences[name] = (cpu / printed.cpu - 1, memory / printed.memory - 1)
        print(f"{name}: {used:.1f} s (seff {printed.used}), cpu {cpu:.4f} (seff {printed.cpu}), "
              f"memory {memory:.4f} (seff {printed.memory})")  # fmt: skip
        assert cpu == pytest.approx(printed.cpu, rel=0.01 + rounding / used), name
        assert memory == pytest.approx(printed.memory, rel=0.01), name


def test_several_tasks_are_added_up_and_not_the_largest_multiplied(lab: Lab, ended: Ended) -> None:
    job_id = ended.several_tasks
    step, = (row for row in lab.sacct(job_id, ["jobid", "maxrss", "ntasks", "tresusageintot"])
             if row["jobid"] == f"{job_id}.0")  # fmt: skip
    assert step["ntasks"] == "2"
    largest = kibibytes(step["maxrss"])
    (told,) = re.findall(r"(?:^|,)mem=(\w+)", step["tresusageintot"])
    assert seff(lab, job_id).bytes == pytest.approx(2 * largest, rel=0.001), "what seff makes of it"
    peak = ended.rayslurm.value("job_memory_peak_bytes", site=SITE, job_id=job_id, source="sacct")
    assert peak == kibibytes(told)
    assert peak < 1.9 * largest, "the tasks differ, or this shows nothing"


def kibibytes(text: str) -> float:
    number, unit = text[:-1], text[-1]
    return float(number) * {"K": 1024, "M": 1024**2, "G": 1024**3}[unit]
