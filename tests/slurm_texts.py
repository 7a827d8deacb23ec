"""What Slurm prints for the commands that rayslurm sends, made from a few values."""

from __future__ import annotations

from exporter.client.commands import DELIMITER, SACCT_FIELDS

_QUEUE_HEADER = (
    "JOBID ARRAY_JOB_ID STATE REASON RESTART_COUNT TIME TIME_LIMIT NODES CPUS TRES_ALLOC PARTITION ACCOUNT USER "
    "SUBMIT_TIME START_TIME END_TIME NODELIST NAME"
).split()

HELPFORMAT = " ".join(SACCT_FIELDS)


def squeue(*jobs: dict[str, str]) -> str:
    """Returns an answer of `squeue` for these jobs; what a job leaves out is that of a pending one."""
    lines = [_QUEUE_HEADER]
    for job in jobs:
        job_id = job["JOBID"]
        defaults = {
            "ARRAY_JOB_ID": job_id.partition("_")[0], "STATE": "PENDING", "REASON": "None", "RESTART_COUNT": "0",
            "TIME": "0:00", "TIME_LIMIT": "20:00", "NODES": "2", "CPUS": "4", "PARTITION": "small",
            "TRES_ALLOC": "cpu=4,mem=6000M,node=2,billing=5", "ACCOUNT": "project_2001234", "USER": "maija",
            "SUBMIT_TIME": "1794999900", "START_TIME": "N/A", "END_TIME": "N/A", "NODELIST": "", "NAME": "demo",
        }  # fmt: skip
        lines.append([{**defaults, **job}[name] for name in _QUEUE_HEADER])
    return "".join(DELIMITER.join([*line, ""]) + "\n" for line in lines)


def sacct(*rows: dict[str, str]) -> str:
    """Returns an answer of `sacct` for these rows; what a row leaves out is blank, for a job some usual values."""
    lines = [list(SACCT_FIELDS)]
    for row in rows:
        defaults = {"ExitCode": "0:0", "AllocCPUS": "4", "ReqCPUS": "4", "AllocNodes": "2", "ReqNodes": "2"}
        if "." not in row["JobID"]:
            defaults |= {
                "User": "maija", "Account": "project_2001234", "Partition": "small", "Timelimit": "00:20:00",
                "Submit": "1794999900", "AllocTRES": "billing=5,cpu=4,mem=6000M,node=2", "JobName": "demo",
            }  # fmt: skip
        lines.append([{**dict.fromkeys(SACCT_FIELDS, ""), **defaults, **row}[name] for name in SACCT_FIELDS])
    return "".join(DELIMITER.join(line) + "\n" for line in lines)


def finished(job_id: str, state: str = "COMPLETED", **values: str) -> list[dict[str, str]]:
    """Returns the rows of a job that ran 100 s and of its batch step."""
    times = {"Start": "1794999910", "End": "1795000010", "ElapsedRaw": "100", "CPUTimeRAW": "400"}
    return [
        {"JobID": job_id, "State": state, **times, "TotalCPU": "03:20", **values},
        {
            "JobID": f"{job_id}.batch", "State": state.partition(" ")[0], **times, "TotalCPU": "03:20",
            "AveCPU": "00:03:20",
            "TRESUsageInTot": "cpu=00:03:20,energy=0,fs/disk=1024,mem=3000M,pages=0,vmem=4000M", "AveCPUFreq": "2.50G",
            "AveDiskRead": "1.00M", "AveDiskWrite": "0.50M", "MaxRSS": "3000M", "JobName": "batch",
        },
    ]  # fmt: skip
