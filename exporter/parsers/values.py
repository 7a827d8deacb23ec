"""The single values that Slurm's tools print: counts, durations, sizes, frequencies, TRES.

Every reader takes one cell. It returns None where Slurm says that there is no value (empty, `Unknown`, `INVALID`,
`UNLIMITED`, the sentinels NO_VAL and INFINITE) and raises ValueError where the text is none of what Slurm prints, so
that the caller can keep it raw. None of them guesses.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

KIBI = 1024.0
PETA = KIBI**5
_POWER = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}
_BINARY = {unit: KIBI**power for unit, power in _POWER.items()}
_DECIMAL = {unit: 1000.0**power for unit, power in _POWER.items()}
_NO_VALUE = frozenset({"", "unknown", "none", "n/a", "na", "(null)", "none assigned", "not_set"})
_NO_DURATION = _NO_VALUE | {"invalid", "unlimited", "partition_limit"}
_SENTINELS = frozenset({2**16 - 2, 2**32 - 2, 2**32 - 1, 2**64 - 2, 2**64 - 1})
_SENTINEL_SIZES = frozenset(float(number) for number in _SENTINELS)
_FAULT_JOULES = 1e15
"""278 GWh: no job uses that; values around 1e19 and 1e20 are what a broken sensor leaves."""
_LARGEST_BYTES = KIBI**6
_LARGEST_COUNT = 2**32

_INTEGER = re.compile(r"[0-9]{1,20}\Z")
_COUNT_SCALED = re.compile(r"([0-9]{1,9})(\.[0-9]+)?([KMGTP])\Z")
_DURATION = re.compile(
    r"(?:(?:([0-9]{1,9})-)?([0-9]{1,9}):)?([0-9]{1,2}):([0-9]{2})(\.[0-9]{1,6})?\Z",
)
_SCALED = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,6})?)([KMGTPE]?)\Z")
_EXIT = re.compile(r"([0-9]{1,3}):([0-9]{1,3})\Z")
_TRES_NAME = re.compile(r"[a-z][a-z0-9_]*(?:/[A-Za-z0-9_.:-]+)?\Z")
_AMOUNT = r"[0-9]{1,20}(?:\.[0-9]{1,6})?[KMGTPE]?"
_USUAL_USAGE = re.compile(
    r"cpu=(?:[0-9]{1,9}-(?:[01][0-9]|2[0-3])|[0-9]{2,9}):[0-5][0-9]:[0-5][0-9]"
    rf"(?:,energy={_AMOUNT})?(?:,fs/disk={_AMOUNT})?(?:,gres/gpumem={_AMOUNT})?(?:,gres/gpuutil={_AMOUNT})?"
    rf",mem=({_AMOUNT})(?:,pages={_AMOUNT})?(?:,vmem={_AMOUNT})?\Z"
)
"""TRESUsageInTot as Slurm prints it almost always, so that one look is enough."""
_REQUESTED = re.compile(r"([0-9.]+[KMGTPE]?)([cn]?)\Z")


def is_unknown(text: str) -> bool:
    """Whether a cell says in one of Slurm's words that there is no value."""
    return text.casefold() in _NO_VALUE


def integer(text: str) -> int | None:
    """Read a plain number, such as a raw count of seconds or a uid.

    Raises:
        ValueError: it is not a plain number in ASCII digits.
    """
    if not _INTEGER.match(text):
        if is_unknown(text):
            return None
        raise ValueError("not a number")
    number = int(text)
    return None if number in _SENTINELS and number > 2**16 else number


def count(text: str) -> int | None:
    """Read a number of CPUs or nodes, also `1K` and `1.50K`, which Slurm prints for 1024 and 1536.

    `--units` rounds (`0.00K` for one node, `2.00K` for 2047 to 2053): what it was cannot be known, hence None.

    Raises:
        ValueError: it is not a number.
    """
    if match := _COUNT_SCALED.match(text):
        whole, fraction, unit = match.groups()
        if fraction not in {None, ".50"} or int(whole) == 0:
            return None
        number: int | None = int((int(whole) + (0.5 if fraction else 0)) * _BINARY[unit])
    else:
        number = integer(text)
    if number is not None and number >= _LARGEST_COUNT:
        raise ValueError("not a number of CPUs or nodes")
    return number


def duration(text: str) -> float | None:
    """Read `D-HH:MM:SS`, `HH:MM:SS`, `MM:SS` or `MM:SS.mmm` as seconds.

    Raises:
        ValueError: it is none of these, or its minutes or seconds are beyond 59.
    """
    match = _DURATION.match(text)
    if match is None:
        if text.casefold() in _NO_DURATION:
            return None
        raise ValueError("not a duration")
    days, hours, minutes, seconds, fraction = match.groups()
    minute, second = int(minutes), int(seconds)
    if minute > 59 or second > 59:  # noqa: PLR2004 - of a clock
        raise ValueError("not a duration")
    total = minute * 60 + second
    if hours is not None:
        hour = int(hours)
        if len(minutes) != 2 or (days is not None and hour > 23):  # noqa: PLR2004 - two digits after hours
            raise ValueError("not a duration")
        total += int(days or 0) * 86400 + hour * 3600
    return float(total) if fraction is None else float(f"{total}{fraction}")


def raw_seconds(text: str) -> float | None:
    """Read a raw number of seconds.

    Raises:
        ValueError: it is not a plain number.
    """
    if not text.isdecimal() and text.casefold() in _NO_DURATION:
        return None
    number = integer(text)
    return None if number is None else float(number)


def raw_minutes(text: str) -> float | None:
    """Read a raw number of minutes, such as TimelimitRaw, as seconds.

    Raises:
        ValueError: it is not a plain number.
    """
    seconds = raw_seconds(text)
    return None if seconds is None else seconds * 60


def _scaled(text: str, factors: Mapping[str, float]) -> float:
    match = _SCALED.match(text)
    if match is None:
        raise ValueError("not a number with a unit")
    number, unit = match.groups()
    return float(number) * factors[unit]


def size(text: str) -> float | None:
    """Read a size in bytes. Units are steps of 1024; without one the number is bytes.

    That holds for AveDiskRead and AveDiskWrite too: sacct divides their bytes by 1 << 20 before it prints the `M`.

    Raises:
        ValueError: it is not a size, or one beyond an exbibyte.
    """
    match = _SCALED.match(text)
    if match is None:
        if is_unknown(text):
            return None
        raise ValueError("not a number with a unit")
    number, unit = match.groups()
    amount = float(number) * _BINARY[unit]
    if amount in _SENTINEL_SIZES and _INTEGER.match(text) and int(text) in _SENTINELS and amount > 2**16:
        return None
    if amount >= _LARGEST_BYTES:
        raise ValueError("not a size a job can have")
    return amount


def frequency(text: str) -> float | None:
    """Read AveCPUFreq in hertz; its units are steps of 1000.

    Raises:
        ValueError: it is not a number with a unit.
    """
    return None if is_unknown(text) else _scaled(text, _DECIMAL)


def energy(text: str) -> float | None:
    """Read ConsumedEnergyRaw or ConsumedEnergy in joules; the latter's units are steps of 1000.

    Returns:
        None for 0 (a site without sensors prints it for every job) and for what a faulty sensor leaves.

    Raises:
        ValueError: it is not a number.
    """
    if is_unknown(text):
        return None
    joules = _scaled(text, _DECIMAL)
    return joules if 0 < joules < _FAULT_JOULES and int(joules) not in _SENTINELS else None


def exit_code(text: str) -> tuple[int, int | None] | None:
    """Read `7:0` as exit code and signal; signal 0 is None.

    Raises:
        ValueError: it is not of that form.
    """
    if is_unknown(text):
        return None
    match = _EXIT.match(text)
    if match is None or int(match[1]) > 255 or int(match[2]) > 255:  # noqa: PLR2004 - a byte each
        raise ValueError("not an exit code")
    return int(match[1]), int(match[2]) or None


def _tres_items(text: str) -> dict[str, str]:
    items: dict[str, str] = {}
    for item in text.split(","):
        name, equals, amount = item.partition("=")
        if not equals or not amount or not _TRES_NAME.match(name) or name in items:
            raise ValueError("not a list of TRES")
        items[name] = amount
    return items


def _is_size(name: str) -> bool:
    return name == "mem" or name.startswith("bb/") or name.endswith("/gpumem")


def tres(text: str) -> dict[str, float] | None:
    """Read AllocTRES or ReqTRES (`billing=2,cpu=2,mem=600M,gres/gpu:a100=2`) as name to amount.

    Memory is in bytes. What the text calls NONE or a sentinel has no amount and is left out.

    Raises:
        ValueError: an item is not understood; the others are then of no use either, since a missing one reads as 0.
    """
    if is_unknown(text):
        return None
    amounts: dict[str, float] = {}
    for name, amount in _tres_items(text).items():
        if amount == "NONE":
            continue
        value = size(amount) if _is_size(name) else integer(amount)
        if value is not None:
            amounts[name] = float(value)
    return amounts


def tres_usage_memory(text: str) -> float | None:
    """Read `mem` of TRESUsageInTot (`cpu=00:00:08,energy=0,fs/disk=293389,mem=165284K`) in bytes.

    Raises:
        ValueError: an item is not understood.
    """
    if match := _USUAL_USAGE.match(text):
        return size(match[1])
    if is_unknown(text):
        return None
    items = _tres_items(text)
    for name, amount in items.items():
        if name == "cpu":
            duration(amount)
        elif name != "mem" and amount != "NONE":
            _scaled(amount, _BINARY)
    return size(items["mem"]) if "mem" in items and items["mem"] != "NONE" else None


def requested_memory(text: str, *, cpus: int | None, nodes: int | None) -> float | None:
    """Read ReqMem in bytes for the whole job.

    Slurm 21.08 and later print the whole job's memory. Earlier ones print it per CPU (`3000Mc`) or per node
    (`48000Mn`), which is multiplied here. `0` asks for all of a node's memory, however much that is, hence None; so is
    more than 1 PiB per node (or CPU, or in all where the nodes are not known), which is a fault and no request:
    `2147486648Mn` is 3000M with a flag's bit left in.

    Args:
        text: the cell.
        cpus: the job's CPUs, None where not known.
        nodes: the job's nodes, None where not known.

    Raises:
        ValueError: it is not a size.
    """
    if is_unknown(text):
        return None
    match = _REQUESTED.match(text)
    if match is None:
        raise ValueError("not a size")
    amount, per = _scaled(match[1], _BINARY), match[2]
    factor = {"c": cpus, "n": nodes, "": 1}[per]
    share = amount / nodes if not per and nodes else amount
    if not factor or amount == 0 or share > PETA:
        return None
    return amount * factor


def gpus(amounts: Mapping[str, float]) -> int | None:
    """How many GPUs a map of TRES names; None where it names none (the site may not track them)."""
    if "gres/gpu" in amounts:
        return int(amounts["gres/gpu"])
    typed = [amount for name, amount in amounts.items() if name.startswith("gres/gpu:")]
    return int(sum(typed)) if typed else None
