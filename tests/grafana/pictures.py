"""Draws dashboards with Grafana's own components in a headless Chromium: `python -m tests.grafana.pictures URL`.

No Grafana runs here. Its components are on npm as `@grafana/ui`, apart from those of its core, such as the state
timeline; tests/grafana/render draws a likeness of that.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.grafana.node import BUILD, HERE, MissingError, installed

TOP = HERE.parent.parent
WIDE, PHONE = 1400, 420
"""Widths in pixels: a window on a desk, and a telephone."""

_LARGEST_BYTES = 300_000
_COLOURS = (256, 128, 64, 32)
_UNITS_SECONDS = {"m": 60, "h": 3600, "d": 86400}
_SECONDS_A_PICTURE = 120


@dataclass(frozen=True, slots=True)
class Panel:
    """What one panel shows.

    Attributes:
        dashboard: the name of the dashboard's file.
        width: of the window, in pixels.
        title: of the panel, with its variables filled in.
        kind: Grafana's name of its type.
        series: how many series or tables its queries gave.
        errors: of its queries and transformations.
        threw: the exception that drawing it threw.
        empty: the words in which it says that there is nothing.
        unsupported: nothing here can draw its type.
        stand_in: a likeness was drawn.
        cut: texts that don't fit where they stand.
        text: what a reader finds in it, in short.
    """

    dashboard: str
    width: int
    title: str
    kind: str
    series: int
    errors: tuple[str, ...]
    threw: str
    empty: str
    unsupported: bool
    stand_in: bool
    cut: tuple[str, ...]
    text: str

    @property
    def faults(self) -> tuple[str, ...]:
        """What is wrong with it; nothing where it shows something and nothing failed."""
        said = (
            *self.errors,
            *((self.threw,) if self.threw else ()),
            *((f"shows nothing but {self.empty!r}",) if self.empty else ()),
            *((f"panels of type {self.kind} cannot be drawn here",) if self.unsupported else ()),
        )
        return tuple(f"{self.dashboard} at {self.width} px, {self.title!r}: {fault}" for fault in said)


@dataclass(frozen=True, slots=True)
class Drawing:
    """What came of drawing dashboards.

    Attributes:
        panels: those of every dashboard and width.
        faults: of pages as a whole: exceptions, files that are missing, variables without a value.
    """

    panels: tuple[Panel, ...]
    faults: tuple[str, ...]

    def all_faults(self) -> list[str]:
        """Returns what is wrong with pages and with panels."""
        return [*self.faults, *(fault for panel in self.panels for fault in panel.faults)]


def draw(
    prometheus_url: str,
    folder: Path,
    *,
    dashboards: Sequence[Path] = (),
    widths: Sequence[int] = (WIDE, PHONE),
    scrape_seconds: int = 15,
    since: Mapping[str, int] | None = None,
    variables: Mapping[str, Mapping[str, str]] | None = None,
) -> Drawing:
    """Draws dashboards into NAME-WIDTH.png.

    The time range is a dashboard's own, but begins no sooner than what this Prometheus has seen itself.

    Args:
        prometheus_url: such as `http://127.0.0.1:9090`.
        folder: where the pictures go.
        dashboards: their JSON; all that are shipped where none is named.
        widths: of the browser's window, in pixels.
        scrape_seconds: how often Prometheus scrapes: the interval that Grafana knows of a data source.
        since: by dashboard, the epoch seconds at which its time range begins.
        variables: by dashboard, the values that are not to be picked as Grafana picks them.

    Raises:
        MissingError: node, npm or chromium is not there.
        RuntimeError: the programs failed.
    """
    paths = list(dashboards) or sorted((TOP / "grafana/dashboards").glob("*.json"))
    found = programs("node", "chromium")
    code = installed("render")
    _node(code, "node_modules/.bin/tsc", "--pretty", "false")
    _node(code, "node_modules/.bin/esbuild", *_BUNDLING)
    folder.mkdir(parents=True, exist_ok=True)
    begin = _first_data(prometheus_url)
    names: list[str] = []
    jobs: list[dict[str, Any]] = []
    for path in paths:
        board = json.loads(path.read_text(encoding="utf-8"))
        now = int(time.time())
        for width in widths:
            names.append(path.stem)
            jobs.append(
                {
                    "dashboard": board,
                    "picture": str((folder / f"{path.stem}-{width}.png").resolve()),
                    "width": width,
                    "from": (since or {}).get(path.stem, max(begin, now - _range_seconds(board["time"]["from"]))),
                    "to": now,
                    "scrapeSeconds": scrape_seconds,
                    "variables": (variables or {}).get(path.stem, {}),
                }
            )
    wanted = folder / "jobs.json"
    wanted.write_text(json.dumps(jobs), encoding="utf-8")
    reports = json.loads(
        _node(
            code, found["node"], "render.mjs", str(wanted.resolve()), prometheus_url, found["chromium"],
            seconds=_SECONDS_A_PICTURE * len(jobs),
        )
    )  # fmt: skip
    (folder / "report.json").write_text(json.dumps(reports, indent=1), encoding="utf-8")
    return _drawing(names, jobs, reports)


_BUNDLING = (
    "app.tsx", "--bundle", "--outdir=dist", "--format=iife", '--define:process.env.NODE_ENV="production"',
    "--define:global=window", "--loader:.svg=dataurl", "--loader:.woff2=dataurl", "--loader:.ttf=dataurl",
    "--log-level=error",
)  # fmt: skip


def compress(picture: Path, target: Path) -> int:
    """Writes a picture with as many colours as keep it below 300 kB; returns its bytes.

    Raises:
        MissingError: pngquant is not there.
    """
    pngquant = programs("pngquant")["pngquant"]
    for colours in _COLOURS:
        command = [pngquant, "--force", "--nofs", "--strip", "--speed", "1", "--output", str(target), str(colours)]
        subprocess.run([*command, "--", str(picture)], check=True, timeout=120)
        if target.stat().st_size < _LARGEST_BYTES:
            break
    return target.stat().st_size


def programs(*names: str) -> dict[str, str]:
    """Returns the paths of programs.

    Raises:
        MissingError: one is not there.
    """
    found = {name: shutil.which(name) for name in names}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        raise MissingError(f"not installed: {', '.join(missing)}")
    return {name: path for name, path in found.items() if path is not None}


def _node(folder: Path, *command: str, seconds: int = 120) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=seconds, check=False)
    if done.returncode:
        raise RuntimeError(
            f"{Path(command[0]).name} ended with {done.returncode}: {(done.stdout + done.stderr)[-2000:]}"
        )
    return done.stdout


def _first_data(prometheus_url: str) -> int:
    answer = httpx.get(f"{prometheus_url}/api/v1/status/tsdb", trust_env=False, timeout=30).raise_for_status().json()
    return int(answer["data"]["headStats"]["minTime"] // 1000)


def _range_seconds(begin: str) -> int:
    """Returns the seconds of such a beginning as `now-24h`."""
    return int(begin[4:-1]) * _UNITS_SECONDS[begin[-1]]


def _drawing(names: Sequence[str], jobs: Sequence[Mapping[str, Any]], reports: Sequence[Mapping[str, Any]]) -> Drawing:
    panels, faults = [], []
    for name, job, report in zip(names, jobs, reports, strict=True):
        where = f"{name} at {job['width']} px"
        faults += [f"{where}: {error}" for error in (report["fatal"], *report["pageErrors"]) if error]
        faults += [f"{where}: nothing gives {variable} a value" for variable in report["unresolved"]]
        panels += [
            Panel(
                dashboard=name,
                width=job["width"],
                title=panel["title"],
                kind=panel["type"],
                series=panel["series"],
                errors=tuple(panel["errors"]),
                threw=panel["threw"],
                empty=panel["empty"],
                unsupported=panel["unsupported"],
                stand_in=panel["standIn"],
                cut=tuple(panel["cut"]),
                text=panel["text"],
            )
            for panel in report["panels"]
        ]
    return Drawing(tuple(panels), tuple(faults))


def main(arguments: Sequence[str]) -> int:
    """Draws the dashboards of a Prometheus that runs; returns 1 where something is wrong with them."""
    parser = argparse.ArgumentParser(prog="python -m tests.grafana.pictures", description=__doc__)
    parser.add_argument("prometheus", metavar="URL", help="of a Prometheus with rayslurm's metrics")
    parser.add_argument("dashboards", nargs="*", type=Path, help="JSON of dashboards; all that are shipped by default")
    parser.add_argument("--to", type=Path, default=BUILD / "pictures", help="folder of the pictures")
    parser.add_argument("--scrape", type=int, default=15, metavar="SECONDS", help="how often Prometheus scrapes")
    parser.add_argument("--job", nargs=2, metavar=("SITE", "ID"), help="which job the dashboard `job` shows")
    asked = parser.parse_args(arguments)
    chosen = {"job": {"site": asked.job[0], "job": asked.job[1]}} if asked.job else {}
    try:
        drawing = draw(
            asked.prometheus, asked.to, dashboards=asked.dashboards, scrape_seconds=asked.scrape, variables=chosen
        )
    except MissingError as error:
        print(f"pictures: {error}", file=sys.stderr)
        return 1
    faults = drawing.all_faults()
    for panel in drawing.panels:
        if panel.cut:
            print(f"{panel.dashboard} at {panel.width} px, {panel.title!r}: does not fit: {', '.join(panel.cut)}")
    print("\n".join(faults))
    print(f"{len(drawing.panels)} panels in {asked.to}, {len(faults)} faults")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
