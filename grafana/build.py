"""Makes the dashboards' JSON of grafana/*.dashboard.py."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from grafanalib._gen import DashboardEncoder

from grafana.modern import modernise

SOURCES = Path(__file__).resolve().parent
_SUFFIX = ".dashboard.py"


def generate(sources: Path = SOURCES) -> dict[str, str]:
    """Returns the text of every dashboard by its file's name, such as `overview.json`.

    Args:
        sources: the folder of the `*.dashboard.py`.

    Raises:
        ValueError: two have one uid, or one holds what has no shape in today's Grafana.
    """
    made = {
        f"{source.name.removesuffix(_SUFFIX)}.json": _render(source) for source in sorted(sources.glob(f"*{_SUFFIX}"))
    }
    uids = [json.loads(text)["uid"] for text in made.values()]
    if len(set(uids)) < len(uids):
        raise ValueError(f"two dashboards have one uid: {sorted(uids)}")
    return made


def stale(folder: Path, made: dict[str, str]) -> list[Path]:
    """Returns the files of a folder that are not what is made, are missing there, or come from no source any more.

    Args:
        folder: where the JSON lies.
        made: as of `generate`.
    """
    present = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.json")}
    return [folder / name for name in sorted(made | present) if made.get(name) != present.get(name)]


def write(paths: list[Path], made: dict[str, str]) -> None:
    """Writes dashboards, and removes those that come from no source any more.

    Args:
        paths: as of `stale`.
        made: as of `generate`.
    """
    for path in paths:
        if path.name in made:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(made[path.name], encoding="utf-8")
        else:
            path.unlink()


def _render(source: Path) -> str:
    # Its name has a dot in it, so `import` cannot find it.
    spec = importlib.util.spec_from_file_location(source.name.replace(".", "_"), source)
    if spec is None or spec.loader is None:
        raise ImportError(f"{source} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    plain = json.loads(json.dumps(module.dashboard, cls=DashboardEncoder))
    return json.dumps(modernise(plain), indent=2, sort_keys=True) + "\n"
