"""Where the files lie that travel with the package: jobs/, prometheus/, grafana/."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def data_path(*parts: str) -> Path:
    """Returns the path of a file or folder that is shipped beside the code.

    In a wheel the three folders lie in `exporter/_data`; in a checkout they lie at its top.

    Args:
        *parts: the path below the top, such as `"jobs", "ray_job.py"`.

    Raises:
        FileNotFoundError: the installation is incomplete.
    """
    for top in (_PACKAGE / "_data", _PACKAGE.parent):
        path = top.joinpath(*parts)
        if path.exists():
            return path
    raise FileNotFoundError("/".join(parts))
