"""Makes grafana/dashboards/*.json of grafana/*.dashboard.py: `python -m grafana.build [--check]`."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

from grafanalib._gen import DashboardEncoder

from grafana.modern import modernise

_HERE = Path(__file__).resolve().parent
_SUFFIX = ".dashboard.py"


def generate() -> dict[Path, str]:
    """Returns the text of every dashboard by the path that it belongs to."""
    return {
        _HERE / "dashboards" / f"{source.name.removesuffix(_SUFFIX)}.json": _render(source)
        for source in sorted(_HERE.glob(f"*{_SUFFIX}"))
    }


def build(*, check: bool = False) -> int:
    """Writes the dashboards and removes those whose source is gone.

    Args:
        check: change nothing, only tell what would change.

    Returns:
        The exit status: 1 where `check` found something that would change.
    """
    wanted = generate()
    present = {path: path.read_text(encoding="utf-8") for path in sorted((_HERE / "dashboards").glob("*.json"))}
    stale = [path for path in sorted(wanted | present) if wanted.get(path) != present.get(path)]
    for path in stale:
        sys.stdout.write(f"{path}: {'is not what its source makes' if check else 'written'}\n")
        if not check:
            _replace(path, wanted.get(path))
    return int(check and bool(stale))


def _replace(path: Path, text: str | None) -> None:
    if text is None:
        path.unlink()
    else:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _render(source: Path) -> str:
    # Its name has a dot in it, so `import` cannot find it.
    spec = importlib.util.spec_from_file_location(source.name.replace(".", "_"), source)
    if spec is None or spec.loader is None:
        raise ImportError(f"{source} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    plain = json.loads(json.dumps(module.dashboard, cls=DashboardEncoder))
    return json.dumps(modernise(plain), indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    sys.exit(build(check="--check" in sys.argv[1:]))
