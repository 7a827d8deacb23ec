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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.grafana.node import BUILD, HERE, MissingError, installed

TOP = HERE.parent.parent
WIDE, PHONE = 1400, 420
"""Widths in pixels: a window on a desk, and a telephone."""

GOOD_WHEN_EMPTY = {("campaigns", "Held back, and not understood")}
"""Dashboard and title of panels that show only what practice sites don't let happen."""

_LARGEST_BYTES = 300_000
_COLOURS = (256, 128, 64, 32)
_UNITS_SECONDS = {"m": 60, "h": 3600, "d": 86400}
_SECONDS_A_PICTURE = 120


@dataclass(frozen=True, slots=True)
class Panel:
    """What one panel shows.

    Attributes:
        dashboard: the name of the dashboard's file.
        scene: the name of its picture.
        width: of the window, in pixels.
        title: of the panel, with its variables filled in.
        kind: Grafana's name of its type.
        series: how many series or tables its queries gave.
        errors: of its queries and transformations.
        threw: the exception that drawing it threw.
        empty: the words in which it says that there is nothing.
        blank: these words don't show.
        unsupported: nothing here can draw its type.
        stand_in: a likeness was drawn.
        cut: texts that don't fit where they stand, and columns that have to be scrolled to.
        text: what a reader finds in it, in short.
    """

    dashboard: str
    scene: str
    width: int
    title: str
    kind: str
    series: int
    errors: tuple[str, ...]
    threw: str
    empty: str
    blank: bool
    unsupported: bool
    stand_in: bool
    cut: tuple[str, ...]
    text: str

    @property
    def broken(self) -> tuple[str, ...]:
        """What failed in it."""
        kinds = (f"panels of type {self.kind} cannot be drawn here",) if self.unsupported else ()
        thrown = (self.threw,) if self.threw else ()
        silent = (f"is blank where it should say {self.empty!r}",) if self.blank else ()
        return (*self.errors, *thrown, *silent, *kinds)

    def __str__(self) -> str:
        return f"{self.scene} at {self.width} px, {self.title!r}"


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
        """Returns what is wrong with pages and panels; a panel may be empty where it isn't in another scene."""
        shown = {(panel.dashboard, panel.title, panel.width) for panel in self.panels if not panel.empty}
        return [
            *self.faults,
            *(f"{panel}: {fault}" for panel in self.panels for fault in panel.broken),
            *(
                f"{panel}: shows nothing but {panel.empty!r}"
                for panel in self.panels
                if (panel.dashboard, panel.title, panel.width) not in shown
                and (panel.dashboard, panel.title) not in GOOD_WHEN_EMPTY
            ),
        ]


@dataclass(frozen=True, slots=True)
class Scene:
    """One dashboard as it is to be drawn.

    Attributes:
        dashboard: its JSON.
        name: of the pictures.
        variables: values of variables that are not to be picked as Grafana picks them.
        since: epoch seconds at which its time range begins; None: where its own range begins, but no sooner than what
            this Prometheus has seen itself.
        longest_step: seconds that no step of a query is longer than, so that what is seen in minutes has bars too that
            are by the hour or the day; None: as it says itself.
    """

    dashboard: Path
    name: str
    variables: Mapping[str, str] = field(default_factory=dict)
    since: int | None = None
    longest_step: int | None = None


def shipped() -> list[Scene]:
    """Returns every dashboard that is shipped, as Grafana shows it at first."""
    return [Scene(path, path.stem) for path in sorted((TOP / "grafana/dashboards").glob("*.json"))]


def draw(
    prometheus_url: str, folder: Path, scenes: Sequence[Scene], *, widths: Sequence[int] = (WIDE, PHONE),
    scrape_seconds: int = 15,
) -> Drawing:  # fmt: skip
    """Draws dashboards into NAME-WIDTH.png.

    Args:
        prometheus_url: such as `http://127.0.0.1:9090`.
        folder: where the pictures go.
        scenes: what is drawn.
        widths: of the browser's window, in pixels.
        scrape_seconds: how often Prometheus scrapes: the interval that Grafana knows of a data source.

    Raises:
        MissingError: node, npm or chromium is not there.
        RuntimeError: the programs failed.
    """
    found = programs("node", "chromium")
    code = installed("render")
    _node(code, "node_modules/.bin/tsc", "--pretty", "false")
    _node(code, "node_modules/.bin/esbuild", *_BUNDLING)
    folder.mkdir(parents=True, exist_ok=True)
    begin, now = _first_data(prometheus_url), int(time.time())
    drawn = [(scene, width) for scene in scenes for width in widths]
    jobs = []
    for scene, width in drawn:
        board = json.loads(scene.dashboard.read_text(encoding="utf-8"))
        own = max(begin, now - _range_seconds(board["time"]["from"]))
        jobs.append(
            {
                "dashboard": board,
                "picture": str((folder / f"{scene.name}-{width}.png").resolve()),
                "width": width,
                "from": own if scene.since is None else scene.since,
                "to": now,
                "scrapeSeconds": scrape_seconds,
                "longestStepSeconds": scene.longest_step,
                "variables": scene.variables,
            }
        )
    wanted = folder / "jobs.json"
    wanted.write_text(json.dumps(jobs), encoding="utf-8")
    command = [found["node"], "render.mjs", str(wanted.resolve()), prometheus_url, found["chromium"]]
    reports = json.loads(_node(code, *command, seconds=_SECONDS_A_PICTURE * len(jobs)))
    (folder / "report.json").write_text(json.dumps(reports, indent=1), encoding="utf-8")
    return _drawing(drawn, reports)


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


def _drawing(drawn: Sequence[tuple[Scene, int]], reports: Sequence[Mapping[str, Any]]) -> Drawing:
    panels, faults = [], []
    for (scene, width), report in zip(drawn, reports, strict=True):
        where = f"{scene.name} at {width} px"
        faults += [f"{where}: {error}" for error in (report["fatal"], *report["pageErrors"]) if error]
        faults += [f"{where}: nothing gives {variable} a value" for variable in report["unresolved"]]
        panels += [
            Panel(
                dashboard=scene.dashboard.stem,
                scene=scene.name,
                width=width,
                title=panel["title"],
                kind=panel["type"],
                series=panel["series"],
                errors=tuple(panel["errors"]),
                threw=panel["threw"],
                empty=panel["empty"],
                blank=panel["blank"],
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
    parser.add_argument("--to", type=Path, default=BUILD / "pictures", help="folder of the pictures")
    parser.add_argument("--scrape", type=int, default=15, metavar="SECONDS", help="how often Prometheus scrapes")
    asked = parser.parse_args(arguments)
    try:
        drawing = draw(asked.prometheus, asked.to, shipped(), scrape_seconds=asked.scrape)
    except MissingError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    faults = drawing.all_faults()
    for panel in drawing.panels:
        if panel.cut:
            print(f"{panel}: does not fit: {', '.join(panel.cut)}")
    print("\n".join(faults))
    print(f"{len(drawing.panels)} panels in {asked.to}, {len(faults)} faults")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
