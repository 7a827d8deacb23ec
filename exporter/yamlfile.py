"""YAML files that people write, read into pydantic models with errors that say where and what to write instead."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeGuard, TypeVar, get_args, get_origin

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo
from pydantic_core import ErrorDetails

from exporter.errors import ConfigError

ModelT = TypeVar("ModelT", bound=BaseModel)
Location = tuple[int | str, ...]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZE = re.compile(r"(\d{1,15}(?:\.\d+)?)\s*(M|MB|MiB|G|GB|GiB|T|TB|TiB)")
_SIZE_UNITS = {"M": 1024**2, "G": 1024**3, "T": 1024**4}
_CLOCK = re.compile(r"(?:(?P<days>\d{1,6})-)?(?P<hours>\d{1,4}):(?P<minutes>[0-5]\d):(?P<seconds>[0-5]\d)")


class FileModel(BaseModel):
    """A part of a file that a person writes: unknown keys are errors, numbers are finite, values don't change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def parse_duration(value: object) -> float:
    """Reads a length of time: `90s`, `15m`, `24h`, `7d`, or Slurm's `D-HH:MM:SS`.

    A bare number is refused: to Slurm's users it means minutes, to others seconds.

    Returns:
        Seconds.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(value, str):
        text = value.strip()
        if match := re.fullmatch(r"(\d{1,15}(?:\.\d+)?)\s*([smhd])", text):
            return float(match[1]) * _UNITS[match[2]]
        if match := _CLOCK.fullmatch(text):
            parts = {name: int(number or 0) for name, number in match.groupdict().items()}
            return float(parts["days"] * 86400 + parts["hours"] * 3600 + parts["minutes"] * 60 + parts["seconds"])
    raise ValueError('write a length of time with its unit, such as 90s, 15m, 24h, 7d, or "02:00:00" (in quotes)')


JOURNAL = {"from": "journal"}
"""The context in which a model is read back as it was kept, with its seconds and bytes as numbers."""


def _duration(value: object, info: ValidationInfo) -> object:
    return value if info.context is JOURNAL and isinstance(value, int | float) else parse_duration(value)


Duration = Annotated[float, BeforeValidator(_duration)]
"""A field that holds seconds and is written as `parse_duration` reads it."""


def parse_size(value: object) -> int:
    """Reads an amount of memory: `512M`, `16G`, `1.5TiB`; G, GB and GiB are all 1024³, as Slurm has it.

    Returns:
        Bytes.

    Raises:
        ValueError: it is none, or has no unit.
    """
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("write an amount of memory with its unit, such as 16G (units of 1024: M, G, T)")
    return int(float(match[1]) * _SIZE_UNITS[match[2][0]])


def _size(value: object, info: ValidationInfo) -> object:
    return value if info.context is JOURNAL and isinstance(value, int) else parse_size(value)


Size = Annotated[int, BeforeValidator(_size)]
"""A field that holds bytes and is written as `parse_size` reads it."""


def _user_path(path: Path, info: ValidationInfo) -> Path:
    try:
        path = path.expanduser()
    except RuntimeError:
        raise ValueError(f"{path.parts[0]} is no home that this machine knows; write the whole path") from None
    return info.context / path if isinstance(info.context, Path) else path


UserPath = Annotated[Path, AfterValidator(_user_path)]
"""A path, in which `~` is the home of who runs rayslurm; in a file it is relative to that file's folder."""

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
OneLine = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]*$")]
HostName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]*$")]
UserName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")]
Port = Annotated[int, Field(ge=1, le=65535)]


def load_model(path: Path, model: type[ModelT]) -> ModelT:
    """Reads a YAML file into a model.

    Args:
        path: the file.
        model: what its top level is.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or does not fit the model. Every fault is told, each with
            file, line, key and what to write instead.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return load_model_text(text, model, name=str(path), folder=path.absolute().parent)


def load_model_text(text: str, model: type[ModelT], *, name: str, folder: Path | None = None) -> ModelT:
    """Reads YAML text into a model; see `load_model`.

    Args:
        text: the YAML.
        model: what its top level is.
        name: what errors call the text.
        folder: what paths of the user's are relative to; None leaves them as they are.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        _refuse_duplicate_keys(root, name)
        data = yaml.safe_load(text)
    # The last three: a date such as 02-30, a key that is a list, an alias to itself.
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}" if mark else name
        raise ConfigError(f"{where}: not YAML that can be used: {getattr(error, 'problem', None) or error}") from None
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ConfigError(f"{name}:1: the top level must be keys with values, such as `site: lumi`")
    try:
        return model.model_validate(data, context=folder)
    except ValidationError as error:
        faults = [_fault(detail, root, model, name) for detail in error.errors()]
        raise ConfigError("\n".join(faults)) from None


def _refuse_duplicate_keys(root: yaml.Node | None, name: str) -> None:
    for node in _nodes(root):
        if not isinstance(node, yaml.MappingNode):
            continue
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise ConfigError(f"{name}:{key.start_mark.line + 1}: {key.value}: stands here twice; keep one of them")
            seen.add(key.value)


def _nodes(node: yaml.Node | None) -> Iterator[yaml.Node]:
    if node is None:
        return
    yield node
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _nodes(key)
            yield from _nodes(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _nodes(value)


def _fault(detail: ErrorDetails, root: yaml.Node | None, model: type[BaseModel], name: str) -> str:
    location = detail["loc"]
    key = ".".join(str(part) for part in location) or "(top level)"
    kind = detail["type"]
    if kind == "missing":
        line = _line(root, location[:-1])
        message = "is missing; add it"
    elif kind == "extra_forbidden":
        line = _line(root, location)
        known = _keys_at(model, location[:-1])
        close = difflib.get_close_matches(str(location[-1]), known, n=1)
        hint = f"did you mean `{close[0]}`?" if close else f"known here: {', '.join(sorted(known))}"
        message = f"is not a key that rayslurm knows; {hint}"
    else:
        line = _line(root, location)
        message = detail["msg"].removeprefix("Value error, ")
        given = detail.get("input")
        if isinstance(given, str | int | float | bool) and "got" not in message:
            message += f" (got {given!r})"
    return f"{name}:{line}: {key}: {message}"


def _line(root: yaml.Node | None, location: Location) -> int:
    """Returns the 1-based line of a key, or of the nearest thing around it."""
    node, line = root, (root.start_mark.line if root else 0)
    for part in location:
        if isinstance(node, yaml.MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if found is None:
                continue
            line, node = found[0].start_mark.line, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line
    return int(line) + 1


def _keys_at(model: type[BaseModel], location: Location) -> list[str]:
    """Returns the keys that the model knows at a place; empty where the place is no model."""
    current: Any = model
    for part in location:
        arguments = get_args(current)
        if _is_model(current):
            field = current.model_fields.get(str(part))
            current = field.annotation if field else None
        else:  # the values of a mapping, the items of a list
            current = arguments[-1 if get_origin(current) is dict else 0] if arguments else None
        if get_origin(current) is UnionType:  # `Model | None`
            current = next(inner for inner in get_args(current) if inner is not type(None))
    return list(current.model_fields) if _is_model(current) else []


def _is_model(annotation: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
