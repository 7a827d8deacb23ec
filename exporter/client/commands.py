"""The shell commands behind the verbs, for ways to a site that have a shell.

Times are asked for as epoch seconds and texts in the C locale, so that neither zone nor language matters. `sacct -P`
and `squeue -O` escape nothing: the delimiter is one that nobody types, and the name stands last.
"""

from __future__ import annotations

import shlex
from abc import ABC, abstractmethod
from collections.abc import Sequence

from exporter.client.transport import Answer

DELIMITER = "\x1f"
"""ASCII's unit separator."""

# What the user's shell sets for Slurm's own commands would override the script, project and name among it, or hide jobs
# from us. Under /bin/sh, since the login shell may be any.
_CLEAN = (
    'for name in $(env | grep -oE "^(SBATCH|SQUEUE|SACCT|SCANCEL|SINFO)_[A-Z0-9_]+"); do unset "$name"; done; '
    "unset SLURM_CLUSTERS SLURM_EXIT_ERROR; "
)
_PLAIN = "LC_ALL=C SLURM_TIME_FORMAT=%s "

_ANY_STATE = ("PD", "R", "S", "CD", "CA", "F", "TO", "NF", "PR", "BF", "DL", "OOM")

LOOK_AHEAD_HOURS = 24
"""How far into the future accounting is looked through for jobs by name."""

_TO_SUBMIT = 0.9
"""How much of its deadline `sbatch` may take: the rest is for the answer, also that it was ended."""

_QUEUE_COLUMNS = (
    "JobArrayID", "ArrayJobID", "State", "Reason", "RestartCnt", "TimeUsed", "TimeLimit", "NumNodes", "NumCPUs",
    "tres-alloc", "Partition", "Account", "UserName", "SubmitTime", "StartTime", "EndTime", "NodeList", "Name",
)  # fmt: skip
"""What the queue is asked for: with `-O`, which alone knows how often a job was started again."""

_PARTITION_FORMAT = "%R|%a|%l|%s|%D|%c|%m|%G|%B|%h"
"""Name, state, time limit, nodes of a job, nodes, their CPUs, MiB and GPUs, CPUs of a job on a node, sharing."""

SACCT_FIELDS = (
    "JobID",
    "User",
    "Account",
    "Partition",
    "State",
    "ExitCode",
    "ReqCPUS",
    "AllocCPUS",
    "ReqNodes",
    "AllocNodes",
    "Submit",
    "Start",
    "End",
    "ElapsedRaw",
    "Timelimit",
    "Planned",
    "PlannedCPURAW",
    "CPUTimeRAW",
    "TotalCPU",
    "AveCPU",
    "AveCPUFreq",
    "AveDiskRead",
    "AveDiskWrite",
    "MaxRSS",
    "TRESUsageInTot",
    "ReqMem",
    "ConsumedEnergyRaw",
    "AllocTRES",
    "Restarts",
    "JobName",
)
"""What accounting is asked for, the name last."""

_OLDER_NAMES = {"Planned": "Reserved", "PlannedCPURAW": "ResvCPURAW"}
"""How fields were called before Slurm 23.02."""


def known_fields(helpformat: str) -> tuple[str, ...]:
    """Returns which of `SACCT_FIELDS` a Slurm knows, under the names it has for them.

    One field that it doesn't know would fail the whole call.

    Args:
        helpformat: what `sacct --helpformat` printed.
    """
    known = {word.lower(): word for word in helpformat.split()}
    fields = (field if field.lower() in known else _OLDER_NAMES.get(field, field) for field in SACCT_FIELDS)
    return tuple(field for field in fields if field.lower() in known)


def queue_command(names: Sequence[str]) -> str:
    """Returns the `squeue` call for all of the user's jobs, or for those with these names.

    By name also for jobs that have ended, as long as the controller remembers them.
    """
    # A suffix and no size: each column is as wide as its content, and ends with the delimiter.
    columns = ",".join(f"{column}:{DELIMITER}" for column in _QUEUE_COLUMNS)
    wanted = f" --states=all --name={shlex.quote(','.join(names))}" if names else ""
    return _shell(f"{_PLAIN}squeue --me{wanted} -O {shlex.quote(columns)}")


def accounting_command(ids: Sequence[str], fields: Sequence[str], *, duplicates: bool) -> str:
    """Returns the `sacct` call for these jobs with their steps."""
    again = " --duplicates" if duplicates else ""
    return _shell(
        f"{_PLAIN}sacct -P --delimiter={shlex.quote(DELIMITER)}{again}"
        f" -j {shlex.quote(','.join(ids))} -o {','.join(fields)}"
    )


def accounting_by_name_command(names: Sequence[str], hours: int) -> str:
    """Returns the `sacct` call for the user's jobs with these names that lived within so many hours.

    By a window alone `sacct` leaves out jobs that were cancelled before they could begin; with states it tells of them,
    but then it needs an end as well. That is a day ahead, for clocks that differ, and no more: sites bound the range
    (slurmdbd's MaxQueryTimeRange). What is still to begin after that is in the queue.
    """
    return _shell(
        f"{_PLAIN}sacct -X -P --delimiter={shlex.quote(DELIMITER)} -S now-{hours}hours -E now+{LOOK_AHEAD_HOURS}hours"
        f" -s {','.join(_ANY_STATE)} --name={shlex.quote(','.join(names))} -o JobID,State,JobName"
    )


def partitions_command() -> str:
    """Returns the `sinfo` call for all partitions, hidden ones too: one row for each and kind of node in it.

    `--exact` keeps nodes of different sizes apart; without it only the smallest would be told.
    """
    return _shell(f"{_PLAIN}sinfo --all --exact -o {shlex.quote(_PARTITION_FORMAT)}")


def submit_command(run_dir: str, script: str, seconds: int) -> str:
    """Returns the `sbatch` call; it gives up after so many seconds, so that later on nobody submits any more.

    It ends with 126 where `sbatch` was not run.
    """
    # No locale of ours: the job inherits what sbatch sees. Within the time is also the `cd`: a file system may hang.
    inner = 'cd "$0" || exit 126; exec sbatch --parsable "$1"'
    return _shell(
        f"exec timeout -k 1 {seconds} /bin/sh -c {shlex.quote(inner)} {shlex.quote(run_dir)} {shlex.quote(script)}"
    )


def _shell(command: str) -> str:
    return f"exec /bin/sh -c {shlex.quote(_CLEAN + command)}"


class Shell(ABC):
    """The verbs that are shell commands; a way to a site with a shell inherits them and brings `run`."""

    @abstractmethod
    def run(self, command: str, deadline: float) -> Answer:
        """Runs a shell command; see `Transport.run`."""

    def submit(self, run_dir: str, script: str, deadline: float) -> Answer:
        """See `Transport.submit`."""
        return self.run(submit_command(run_dir, script, max(1, int(deadline * _TO_SUBMIT))), deadline)

    def queue(self, names: Sequence[str], deadline: float) -> Answer:
        """See `Transport.queue`."""
        return self.run(queue_command(names), deadline)

    def accounting(
        self, ids: Sequence[str], fields: Sequence[str], deadline: float, *, duplicates: bool = False
    ) -> Answer:
        """See `Transport.accounting`."""
        return self.run(accounting_command(ids, fields, duplicates=duplicates), deadline)

    def accounting_by_name(self, names: Sequence[str], hours: int, deadline: float) -> Answer:
        """See `Transport.accounting_by_name`."""
        return self.run(accounting_by_name_command(names, hours), deadline)

    def accounting_fields(self, deadline: float) -> Answer:
        """See `Transport.accounting_fields`."""
        return self.run(_shell("LC_ALL=C sacct --helpformat"), deadline)

    def partitions(self, deadline: float) -> Answer:
        """See `Transport.partitions`."""
        return self.run(partitions_command(), deadline)

    def tool(self, words: Sequence[str], deadline: float) -> Answer:
        """See `Transport.tool`.

        Where a shell that is no login shell doesn't find the command, what a login shell would read is read first.
        """
        known = f"command -v {shlex.quote(words[0])} >/dev/null 2>&1"
        return self.run(_shell(f"{known} || . /etc/profile >/dev/null 2>&1; LC_ALL=C {shlex.join(words)}"), deadline)

    def cancel(self, job_id: str, deadline: float) -> Answer:
        """See `Transport.cancel`."""
        return self.run(_shell(f"LC_ALL=C scancel {shlex.quote(job_id)}"), deadline)
