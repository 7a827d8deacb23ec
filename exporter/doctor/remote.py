"""The one command that looks at a site, and what is read from its answer."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from exporter.config import Site

SLURM = ("sbatch", "squeue", "sacct", "scancel")
"""What rayslurm calls at every site."""

_MARK = "rayslurm-doctor"
"""What our lines begin with, so that nothing else that a login prints is taken for one."""

# `command -v` is asked in the same shell that the other commands get. Of the site's own commands, as when they are
# called, what a login shell would read is read where that doesn't find them. The folder is that of the jobs, or the
# nearest above it that is there, where it would be made.
_SCRIPT = """\
say() {{ printf '%s\\n' "{mark} $*"; }}
say time "$(date +%s)"
for name in {slurm}; do
  command -v "$name" >/dev/null 2>&1 && say have "$name"
done
for name in {tools}; do
  {{ command -v "$name" || ( . /etc/profile; command -v "$name" ); }} >/dev/null 2>&1 && say have "$name"
done
file={balance_file}
[ -n "$file" ] && [ -r "$file" ] && say balance-file
folder={folder}
while [ -n "$folder" ] && [ ! -e "$folder" ]; do
  case $folder in
    /*/*) folder=${{folder%/*}} ;;
    /*) folder=/ ;;
    */*) folder=${{folder%/*}} ;;
    *) folder=. ;;
  esac
done
[ -n "$folder" ] && [ -d "$folder" ] && [ -w "$folder" ] && [ -x "$folder" ] && say writable
say folder "$folder"
say python "$({python} -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)"
told=$(LC_ALL=C sacct -X -n -P -S now-1hours -o JobID 2>&1 >/dev/null)
status=$?
say sacct "$status" "$(printf '%s' "$told" | tail -n 1)"
say end
exit 0
"""


@dataclass(frozen=True, slots=True)
class Told:
    """What a site answered.

    Attributes:
        time: its clock, epoch seconds; None where that wasn't told.
        commands: which of those that were asked for are there.
        balance_file: whether the file with the project's balance can be read.
        folder: the folder for jobs, or the nearest above it that is there.
        writable: whether it can be written to.
        python: version of the interpreter that starts jobs, as (3, 6); None where there is none.
        sacct_status: what accounting ended with; None where that wasn't told.
        sacct_said: the last line of what it said on standard error.
        whole: whether the script came to its end.
    """

    time: int | None
    commands: frozenset[str]
    balance_file: bool
    folder: str
    writable: bool
    python: tuple[int, int] | None
    sacct_status: int | None
    sacct_said: str
    whole: bool


def tools(site: Site) -> tuple[str, ...]:
    """Returns the site's own commands that rayslurm calls, by the site file; one that may be there among them."""
    profile = site.profile
    seff = () if profile.accounting.seff == "none" else ("seff",)
    balance = (profile.balance.command[0],) if profile.balance else ()
    areas = (profile.workspaces.command[0],) if profile.workspaces else ()
    return (*seff, *balance, *areas)


def jobs_folder(site: Site) -> str | None:
    """Returns where the site's jobs have their folders; None where that hangs on a project, and none is set."""
    project = site.settings.project
    if project is None and "{project}" in site.work_dir:
        return None
    return site.filled(site.work_dir, project or "")


def command(site: Site) -> str:
    """Returns the command; it changes nothing at the site."""
    balance = site.profile.balance
    path = balance.json_path if balance else None
    script = _SCRIPT.format(
        mark=_MARK,
        slurm=" ".join(SLURM),
        tools=shlex.join(tools(site)),
        balance_file=shlex.quote(site.filled(path, site.settings.project) if path and site.settings.project else ""),
        folder=shlex.quote(jobs_folder(site) or ""),
        python=site.python,
    )
    return f"exec /bin/sh -c {shlex.quote(script)}"


def read(stdout: str) -> Told:
    """Reads what the command printed."""
    lines = list(_lines(stdout))
    said = dict(lines)
    status, _, words = said.get("sacct", "").partition(" ")
    version = said.get("python", "").split(".")
    return Told(
        time=int(said["time"]) if said.get("time", "").isdecimal() else None,
        commands=frozenset(value for key, value in lines if key == "have"),
        balance_file="balance-file" in said,
        folder=said.get("folder", ""),
        writable="writable" in said,
        python=(int(version[0]), int(version[1])) if len(version) == 2 and all(map(str.isdecimal, version)) else None,  # noqa: PLR2004 - major and minor
        sacct_status=int(status) if status.isdecimal() else None,
        sacct_said=words.strip()[:200],
        whole="end" in said,
    )


def _lines(stdout: str) -> Iterator[tuple[str, str]]:
    for line in stdout.splitlines():
        if line.startswith(f"{_MARK} "):
            key, _, value = line.removeprefix(f"{_MARK} ").partition(" ")
            yield key, value.strip()
