"""What the commands of the sites that are played print, in each site's own way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from exporter.practice.rates import Bill

_RULE = "-" * 70
_COLUMNS = (
    ("CPU", "cpu_hours", "core/hours", 20),
    ("GPU", "gpu_hours", "gpu/hours", 16),
    ("Storage", "storage_hours", "TB/hours", 17),
    ("QPU", "qpu_secs", "qpu/secs", 12),
)


def seff_bill(site: str, project: str, paid: Bill | None) -> list[str]:
    """Returns the lines on the bill that CSC's seff prints after Slurm's own; none where there is no rate."""
    if paid is None:
        return []
    kind, parts = paid
    total = f"Job consumed {sum(parts.values()):.2f} CSC billing units"
    if site == "roihu":
        by = "GPU" if kind == "GPU" else "CPU" if parts["CPU"] else "memory"
        lines = [f"{total}, billed on {by} usage"]
    else:
        lines = [f"{total} based on following used resources"]
    lines.append(f"Billed project: {project}")
    for name, units in parts.items():
        if name == "NVMe" and not units:
            continue
        if name == "Non-Interactive":
            lines.append(f"Non-Interactive BUs: {units:.2f}")
        elif site == "mahti":
            lines.append(f"{name.upper()} BU: {units:.2f}")
        else:
            lines.append(f"{name} usage: {units:.2f} {kind} BU")
    return lines


def seff_gpus(hosts: Sequence[str], gpus: int, load: float) -> list[str]:
    """Returns the tables on GPUs with which CSC's seff ends on Mahti; none for a job without.

    Args:
        hosts: the job's nodes.
        gpus: on each of them.
        load: of each GPU, 0 to 1.
    """
    if not gpus:
        return []
    rule = "-" * 72
    each = [(host, number) for host in hosts for number in range(gpus)]
    heads = "     Hostname        GPU Id{:>14}{:>14}{:>14}"
    row = "{:>12}{:>15}{:>14.2f}{:>14.2f}{:>14.2f}"
    return [
        "GPU job efficiency:",
        rule,
        "GPU load",
        heads.format("Mean (%)", "stdDev (%)", "Max (%)"),
        *(row.format(host, number, 90 * load, 10 * load, 100 * load) for host, number in each),
        rule,
        "GPU memory",
        heads.format("Mean (GiB)", "stdDev (GiB)", "Max (GiB)"),
        *(row.format(host, number, 60 * load, 2 * load, 64 * load) for host, number in each),
        rule,
    ]


def csc_projects(project: str, about: Mapping[str, Any], spent: Mapping[str, float], now: datetime) -> list[str]:
    """Returns what csc-projects prints of a project.

    Args:
        project: its name.
        about: `owner title start end status latest_grant`, and in `csc` what was granted and used of each kind.
        spent: units that its jobs cost, by kind.
        now: in the site's zone.
    """
    rule = "-" * 65
    lines = [
        rule,
        f"Project: {project}        Owner: {about['owner']}",
        f'Title: "{about["title"]}"',
        f"Start: {about['start']} End: {about['end']} Status: {about['status']}",
        "Billing units      Budget        Used      Remain",
        "-------------      ------        ----      ------",
    ]
    for kind, (granted, before) in about["csc"].items():
        used = round(before + spent.get(kind, 0))
        lines.append(f"{kind + ' BU:':<13}{granted:>12}{used:>12}{granted - used:>12}")
    return [
        *lines,
        f"Latest resource grant: {about['latest_grant']}",
        rule,
        f"Project info updated: {now:%Y-%m-%d %H:%M}",
    ]


def lumi_billing(about: Mapping[str, Any], spent: Mapping[str, float]) -> dict[str, Any]:
    """Returns what stands in LUMI's file of a project.

    Args:
        about: in `lumi` what was granted and used of each kind.
        spent: units that its jobs cost, by kind.
    """
    kinds = {"cpu_hours": "CPU", "gpu_hours": "GPU"}
    return {
        "billing": {
            key: {"alloc": granted, "used": used + (spent.get(kinds[key], 0.0) if key in kinds else 0)}
            for key, (granted, used) in about["lumi"].items()
        }
    }


def lumi_allocations(found: Mapping[str, Mapping[str, Any]], updated: datetime) -> list[str]:
    """Returns what lumi-allocations prints.

    Args:
        found: what stands under `billing` in the file of each project.
        updated: when the files were written, in the site's zone.
    """
    with_qpu = any(billing["qpu_secs"]["alloc"] for billing in found.values())
    columns = _COLUMNS if with_qpu else _COLUMNS[:-1]
    heads = [f"{name + ' (used/allocated)':>{width + 10 + len(unit)}}" for name, _, unit, width in columns]
    lines = [
        f"Data updated: {updated:%Y-%m-%d %H:%M:%S.%f}",
        "|".join([f"{'Project':<20}", *heads]),
        "-" * (20 + sum(len(head) + 1 for head in heads)),
    ]
    for project, billing in found.items():
        cells = []
        for _, key, unit, width in columns:
            used, granted = round(billing[key]["used"]), round(billing[key]["alloc"])
            share = f"({100 * used / granted:.1f}%)" if granted else "(N/A)"
            cells.append(f"{f'{used}/{granted}':>{width}} {share:>8} {unit}")
        lines.append("|".join([f"{project:<20}", *cells]))
    return lines


@dataclass(frozen=True)
class Area:
    """A disk area: what is used of it, and what may be.

    Attributes:
        path: as the site names it.
        quota: bytes and files that it may hold.
        cleanup: when the site removes what is old.
    """

    path: str
    used_bytes: int
    used_files: int
    quota: tuple[int, int]
    cleanup: str = "n/a"


def workspaces(site: str, home: Area, projects: Iterable[tuple[str, str, Sequence[Area]]]) -> list[str]:
    """Returns what csc-workspaces and lumi-workspaces print.

    Args:
        site: mahti has units of its own.
        home: the user's home.
        projects: name, title and areas of each project.
    """
    lines = [
        "",
        "Disk area               Capacity(used/max)  Files(used/max)  Cleanup",
        _RULE,
        "Personal home folder",
        "",
    ]
    lines.append(_area(site, home))
    for name, title, areas in projects:
        lines += [_RULE, f'Project: {name} "{title}"', "", *(_area(site, area) for area in areas)]
    return [*lines, _RULE]


def _area(site: str, area: Area) -> str:
    thousand = "k" if site == "mahti" else "K"
    capacity = _share(site, area.used_bytes, area.quota[0], 1024, ("", thousand, "M", "G", "T"))
    files = _share(site, area.used_files, area.quota[1], 1000, ("", thousand, "M")[: 2 if site == "mahti" else 3])
    return f"{area.path:<28}{capacity:>20}{files:>17}{area.cleanup:>11}"


def _share(site: str, used: int, limit: int, step: int, letters: Sequence[str]) -> str:
    mark = "*" if used > limit else ""
    return f"{_short(site, used, step, letters)}{mark}/{_short(site, limit, step, letters)}"


def _short(site: str, whole: int, step: int, letters: Sequence[str]) -> str:
    amount, power = float(whole), 0
    while amount >= step and power < len(letters) - 1:
        amount, power = amount / step, power + 1
    if site == "mahti":  # nothing below thousands, and no zero before the point
        if not power:
            amount, power = amount / step, 1
        return (f"{amount:.2f}".rstrip("0").rstrip(".").removeprefix("0") or "0") + letters[power]
    return (f"{amount:.1f}" if amount < 10 and power else f"{amount:.0f}") + letters[power]  # noqa: PLR2004 - one digit
