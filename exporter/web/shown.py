"""How values are written for people; what is unknown is a dash that says so."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo

from markupsafe import Markup

from exporter.dates import LAST

UNKNOWN = Markup(
    '<span class="dash" title="unknown"><span aria-hidden="true">&ndash;</span><span class="away">unknown</span></span>'
)

_TUNNELS = {
    "up": "up",
    "refused": "down: nobody listens",
    "timeout": "down: no answer in time",
    "auth": "a Ray that refuses our token",
    "foreign": "something else answers",
    "target_down": "open, but Ray is gone behind it",
}

_NO_USE = {
    "never_ready": "its Ray was never ready",
    "tunnel_down": "its dashboard was not reached",
    "idle": "its Ray used no CPU and no GPU",
}

_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_STEP = 1024
_LEAST = 0.01
_LEAST_RATIO = 0.001


def length(seconds: float | None) -> str:
    """Returns a length of time: `42 s`, `5 min`, `1 h 20 min`, `3 d 4 h`."""
    if seconds is None:
        return UNKNOWN
    whole = max(0, round(seconds))
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min"
    if whole < _DAY:
        minutes = whole % _HOUR // _MINUTE
        return f"{whole // _HOUR} h" + (f" {minutes} min" if minutes else "")
    hours = whole % _DAY // _HOUR
    return f"{whole // _DAY} d" + (f" {hours} h" if hours else "")


def moment(epoch: float | None, now: float) -> str:
    """Returns a time as its distance from now, with the time itself for those who want it."""
    if epoch is None or not 0 <= epoch < LAST:
        return UNKNOWN
    exact = datetime.fromtimestamp(epoch, UTC)
    words = f"{length(now - epoch)} ago" if epoch <= now else f"in {length(epoch - now)}"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        f"{exact:%Y-%m-%dT%H:%M:%SZ}", f"{exact:%Y-%m-%d %H:%M:%S} UTC", words
    )


def exactly(epoch: float | None, now: float) -> str:
    """Returns a time as its distance from now and as itself."""
    distance = moment(epoch, now)
    if epoch is None or distance is UNKNOWN:
        return UNKNOWN
    return Markup("{} <small>({:%Y-%m-%d %H:%M:%S} UTC)</small>").format(distance, datetime.fromtimestamp(epoch, UTC))


def at(epoch: float) -> str:
    """Returns a time as itself, for where a distance from now would soon be wrong."""
    exact = datetime.fromtimestamp(epoch, UTC)
    return Markup('<time datetime="{}">{}</time>').format(
        f"{exact:%Y-%m-%dT%H:%M:%SZ}", f"{exact:%Y-%m-%d %H:%M:%S} UTC"
    )


def day(epoch: float | None, zone: tzinfo) -> str:
    """Returns a day, as it is called where it was told."""
    return UNKNOWN if epoch is None else f"{datetime.fromtimestamp(epoch, zone):%Y-%m-%d}"


def amount(value: float | None) -> str:
    """Returns a number with thousands apart, and two decimals where it has any; what is little is not 0."""
    if value is None:
        return UNKNOWN
    if 0 < abs(value) < _LEAST:
        return f"< {_LEAST}" if value > 0 else f"> -{_LEAST}"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.2f}"


def size(value: float | None) -> str:
    """Returns bytes in steps of 1024: `7.2 TiB`."""
    if value is None:
        return UNKNOWN
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < _STEP:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= _STEP
    return f"{value:.1f} PiB"


def percent(ratio: float | None) -> str:
    """Returns a ratio in percent; what is little is not 0."""
    if ratio is None:
        return UNKNOWN
    return "< 0.1 %" if 0 < ratio < _LEAST_RATIO else f"{100 * ratio:.1f} %"


def text(value: object | None) -> str:
    """Returns a value as it is; nothing is unknown."""
    return UNKNOWN if value is None or value == "" else str(value)


def no_use(reason: str) -> str:
    """Returns in what way a job was of no use."""
    return _NO_USE[reason]


def tunnel(state: str, last_success: float | None, now: float) -> str:
    """Returns how a tunnel is, and when it was last up."""
    last = "never up" if last_success is None else moment(last_success, now)
    before = "" if state == "up" or last_success is None else "last up "
    return Markup("{}, {}{}").format(_TUNNELS[state], before, last)
