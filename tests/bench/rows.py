"""Rows as `sacct` prints them for jobs of every size: no two jobs alike, steps with the times of their job."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence

from exporter.client.commands import SACCT_FIELDS

DELIMITER = "|"
FIRST_SUBMIT = 1_780_000_000
_STEPS = ("batch", "extern", "0")


def table(rows: int) -> str:
    """Returns a text with so many rows below its header, in all columns that rayslurm asks for."""
    return "\n".join([DELIMITER.join(SACCT_FIELDS), *lines(cells(rows), SACCT_FIELDS, DELIMITER), ""])


def lines(rows: Iterable[dict[str, str]], columns: Sequence[str], delimiter: str) -> Iterator[str]:
    """Gives rows as lines of these columns."""
    for row in rows:
        yield delimiter.join(row.get(column, "") for column in columns)


def cells(rows: int) -> Iterator[dict[str, str]]:
    """Gives so many rows: column to cell, for the columns that rayslurm and its peers ask for."""
    chance = random.Random(7)
    given = 0
    for number in range(rows):
        for row in _job(4_000_000 + number, chance):
            if given == rows:
                return
            given += 1
            yield row


def _job(job_id: int, chance: random.Random) -> Iterator[dict[str, str]]:
    nodes = chance.choice((1, 1, 2, 4, 8))
    cpus, memory = nodes * chance.choice((8, 40, 128)), nodes * chance.choice((16, 64, 224))
    submit = FIRST_SUBMIT + (job_id % 1_000_000) * 37
    waited, elapsed = chance.randrange(5, 9_000), chance.randrange(10, 90_000)
    used = int(cpus * elapsed * chance.random())
    times = {"Submit": submit, "Start": submit + waited, "End": submit + waited + elapsed, "ElapsedRaw": elapsed}
    shared = {
        "Account": f"project_{462_000_000 + chance.randrange(20)}", "ExitCode": "0:0", "ReqCPUS": cpus,
        "AllocCPUS": cpus, "NCPUS": cpus, "ReqNodes": nodes, "AllocNodes": nodes, "NNodes": nodes, **times,
        "State": chance.choice(("COMPLETED", "COMPLETED", "COMPLETED", "FAILED", "TIMEOUT", "CANCELLED by 20001")),
        "Elapsed": clock(elapsed), "CPUTimeRAW": cpus * elapsed, "CPUTime": clock(cpus * elapsed),
        "TotalCPU": clock(used), "ConsumedEnergyRaw": chance.randrange(10**9),
        "AllocTRES": f"billing={cpus},cpu={cpus},mem={memory}G,node={nodes}",
    }  # fmt: skip
    user = f"user{chance.randrange(50)}"
    yield _text(shared | {
        "JobID": job_id, "JobIDRaw": job_id, "User": user, "Group": user,
        "Partition": chance.choice(("small", "standard", "standard-g")),
        "Timelimit": clock(chance.choice((3_600, 86_400, 172_800))), "Planned": clock(waited),
        "PlannedCPURAW": waited * cpus, "ReqMem": f"{memory}G", "Restarts": 0,
        "JobName": f"train_{chance.randrange(300)}",
    })  # fmt: skip
    for step in _STEPS:
        peak = f"{chance.randrange(1_000, 200_000_000)}K"
        yield _text(shared | {
            "JobID": f"{job_id}.{step}", "JobIDRaw": f"{job_id}.{step}", "NTasks": nodes, "AveCPU": clock(used / 3),
            "State": str(shared["State"]).partition(" ")[0], "AveCPUFreq": f"{chance.uniform(1, 3.5):.2f}G",
            "AveDiskRead": f"{chance.uniform(1, 3_000):.2f}M", "AveDiskWrite": f"{chance.uniform(1, 3_000):.2f}M",
            "MaxRSS": peak, "JobName": step,
            "TRESUsageInTot": f"cpu={clock(used)},energy=0,fs/disk={chance.randrange(2**40)},mem={peak},"
            f"pages={chance.randrange(100)},vmem={chance.randrange(2**30)}K",
        })  # fmt: skip


def _text(row: Mapping[str, object]) -> dict[str, str]:
    return {column: str(value) for column, value in row.items()}


def clock(seconds: float) -> str:
    """Returns a length of time as Slurm prints it."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return (f"{days}-" if days else "") + f"{hour:02}:{minute:02}:{second:02}"
