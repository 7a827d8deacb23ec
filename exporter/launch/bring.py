"""What a spec says of what its job brings along: files and folders of this machine, and how much they may be."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_validator

from exporter.yamlfile import JOURNAL, FileModel, OneLine

WORK_FOLDER = "work"
"""The folder in the run folder in which the entrypoint runs."""

_MIB = 1024**2
_SIZE = re.compile(r"(\d{1,15}(?:\.\d+)?)\s*(K|KB|KiB|M|MB|MiB|G|GB|GiB)")
_UNITS = {"K": 1024, "M": _MIB, "G": 1024**3}


def _parse_bytes(value: object, info: ValidationInfo) -> object:
    if info.context is JOURNAL and isinstance(value, int):
        return value
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("write a size with its unit, such as 100M (units of 1024: K, M, G)")
    return int(float(match[1]) * _UNITS[match[2][0]])


def _stays_inside(value: str) -> str:
    if not value or value.startswith(("/", "~")) or ".." in value.split("/"):
        raise ValueError("write a path within the working folder: not empty, without `..`, not from the root or home")
    return value


Inside = Annotated[OneLine, AfterValidator(_stays_inside)]
"""A path, or a pattern of paths, relative to the working folder, that doesn't lead out of it."""


class BringItem(FileModel):
    """A file or a folder that is brought along.

    Attributes:
        path: where it is on this machine; relative to the folder of the spec.
        to: where it goes in the working folder; the last part of `path` where left out. A folder's contents go there;
            so does a file, unless it ends with a slash or is `.`: then the file keeps its name in that folder.
        exclude: patterns of what is left out of a folder, beside `rules.LEFT_OUT`.
    """

    path: Annotated[OneLine, Field(min_length=1)]
    to: Inside | None = None
    exclude: Annotated[tuple[Annotated[OneLine, Field(min_length=1)], ...], Field(max_length=200)] = ()

    @model_validator(mode="before")
    @classmethod
    def _path_alone(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _has_a_name(self) -> BringItem:
        if (
            self.to is None
            and PurePosixPath(self.path) != PurePosixPath()
            and PurePosixPath(self.path).name in {"", ".."}
        ):
            raise ValueError(f"to: is missing; {self.path} has no name of its own, so say where it goes")
        return self

    def at(self, folder: Path) -> BringItem:
        """Returns the same with an absolute path and with `to`.

        Args:
            folder: what relative paths start at; absolute.
        """
        try:
            path = Path(self.path).expanduser()
        except RuntimeError:  # `~somebody` who isn't known here
            path = Path(self.path)
        to = self.to or path.name or "."
        return self.model_copy(update={"path": os.path.normpath(folder / path), "to": to})


class BringLimits(FileModel):
    """How much a job may bring along.

    Attributes:
        max_bytes: of all files together.
        max_files: files and folders; a parallel file system suffers from many small ones.
    """

    max_bytes: Annotated[int, BeforeValidator(_parse_bytes), Field(ge=1, le=10 * 1024**3)] = 100 * _MIB
    max_files: Annotated[int, Field(ge=1, le=100_000)] = 1000
