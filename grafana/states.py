"""One colour and one word for each state, wherever it is shown."""

from __future__ import annotations

from typing import Any

_GREY = "#8e8e8e"

JOB = {
    "running": ("running", "blue"),
    "pending": ("pending", "purple"),
    "suspended": ("suspended", "light-purple"),
    "completed": ("completed", "green"),
    "cancelled": ("cancelled", _GREY),
    "preempted": ("preempted", "#b0a990"),
    "unknown": ("unknown", "yellow"),
    "failed": ("failed", "red"),
    "out_of_memory": ("out of memory", "dark-red"),
    "timeout": ("timeout", "semi-dark-red"),
    "node_fail": ("node failed", "light-red"),
    "boot_fail": ("boot failed", "super-light-red"),
    "deadline": ("deadline", "#a04020"),
}
"""Slurm's base states in lower case: the word that is shown, and its colour."""

TUNNEL = {
    "up": ("up", "green"),
    "refused": ("refused", "red"),
    "timeout": ("timeout", "dark-red"),
    "auth": ("auth", "orange"),
    "foreign": ("foreign", "dark-purple"),
    "target_down": ("target down", "semi-dark-orange"),
}
"""How a tunnel is."""

OUTCOME = {
    "succeeded": ("succeeded", "green"),
    "failed": ("failed", "red"),
    "cancelled": ("cancelled", _GREY),
    "refused": ("refused", "orange"),
    "missed": ("missed", "yellow"),
}
"""How a campaign's time ended."""

SEVERITY = {
    "critical": ("critical", "red"),
    "warning": ("warning", "orange"),
    "info": ("info", "blue"),
}
"""How loud an alert is."""

YES_NO = {"0": ("no", "red"), "1": ("yes", "green")}
"""For what is well when it is 1."""

NO_YES = {"0": ("no", "green"), "1": ("yes", "red")}
"""For what is well when it is 0."""

_Words = dict[str, tuple[str, str]]


def words(meaning: _Words) -> list[dict[str, Any]]:
    """Returns a value mapping: text and colour of each value."""
    options = {
        value: {"text": text, "color": color, "index": index}
        for index, (value, (text, color)) in enumerate(meaning.items())
    }
    return [{"type": "value", "options": options}]


def coded(metric: str, selector: str, states: _Words, first: int = 1) -> str:
    """Returns a query that gives each series of a state metric as one number, so that a row can show it over time.

    Args:
        metric: one that is 1 for the current state and has it as label `state`.
        selector: what else is asked of its labels, without braces.
        states: numbered in their order.
        first: the number of the first.
    """
    return " or ".join(
        f'{metric}{{{selector}, state="{state}"}} * {number}' for number, state in enumerate(states, first)
    )


def numbered(states: _Words, first: int = 1) -> _Words:
    """Returns the words and colours by the numbers that `coded` gives."""
    return {str(number): meaning for number, meaning in enumerate(states.values(), first)}


def colours(states: _Words) -> list[dict[str, Any]]:
    """Returns overrides that give a series named after a state that state's colour and word."""
    return [
        {
            "matcher": {"id": "byName", "options": state},
            "properties": [
                {"id": "color", "value": {"mode": "fixed", "fixedColor": color}},
                {"id": "displayName", "value": text},
            ],
        }
        for state, (text, color) in states.items()
    ]


def colour_like(pattern: str, color: str) -> dict[str, Any]:
    """Returns an override that gives one colour to the series whose names are like a regular expression."""
    return {
        "matcher": {"id": "byRegexp", "options": pattern},
        "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": color}}],
    }
