"""The words and codes in which Slurm prints a job's state."""

from __future__ import annotations

import re

from exporter.records import BASE_STATES

FLAG_STATES = frozenset(
    {
        "COMPLETING",
        "CONFIGURING",
        "EXPEDITING",
        "LAUNCH_FAILED",
        "POWER_UP_NODE",
        "RECONFIG_FAIL",
        "REQUEUED",
        "REQUEUE_FED",
        "REQUEUE_HOLD",
        "RESIZING",
        "RESV_DEL_HOLD",
        "REVOKED",
        "SIGNALING",
        "SPECIAL_EXIT",
        "STAGE_OUT",
        "STOPPED",
        "UPDATE_DB",
    }
)
"""Flags, printed in place of the base state that they accompany."""

STATES = BASE_STATES | FLAG_STATES

WAITING_STATES = frozenset(
    {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "REVOKED", "SPECIAL_EXIT"}
)
"""States of a job that is in the queue and holds no nodes."""

_CODES = {
    "PD": "PENDING",
    "R": "RUNNING",
    "S": "SUSPENDED",
    "CD": "COMPLETED",
    "CA": "CANCELLED",
    "F": "FAILED",
    "TO": "TIMEOUT",
    "NF": "NODE_FAIL",
    "PR": "PREEMPTED",
    "BF": "BOOT_FAIL",
    "DL": "DEADLINE",
    "OOM": "OUT_OF_MEMORY",
    "CG": "COMPLETING",
    "CF": "CONFIGURING",
    "EX": "EXPEDITING",
    "LF": "LAUNCH_FAILED",
    "PB": "POWER_UP_NODE",
    "RE": "RECONFIG_FAIL",
    "RQ": "REQUEUED",
    "RF": "REQUEUE_FED",
    "RH": "REQUEUE_HOLD",
    "RS": "RESIZING",
    "RD": "RESV_DEL_HOLD",
    "RV": "REVOKED",
    "SI": "SIGNALING",
    "SE": "SPECIAL_EXIT",
    "SO": "STAGE_OUT",
    "ST": "STOPPED",
    "UD": "UPDATE_DB",
}

_STATE = re.compile(r"([A-Z_]+)(?: by ([0-9]{1,10}))?\Z")
_NO_UID = 2**32 - 2


def state_word(text: str) -> tuple[str | None, int | None]:
    """Read `COMPLETED`, `CANCELLED by 20001` or `?` as the state's word and the uid of who cancelled.

    `COMPLETING by 20001` occurs too: a cancelled job whose flag is printed in place of its state.

    Raises:
        ValueError: it is no word of Slurm's.
    """
    if text in {"", "?"}:
        return None, None
    match = _STATE.match(text)
    if match is None or match[1] not in STATES:
        raise ValueError("not a state")
    uid = None if match[2] is None else int(match[2])
    return match[1], uid if uid is None or uid < _NO_UID else None


def cut_state_word(text: str) -> str | None:
    """Complete a state that a column's width has cut (`CANCELLED`, `OUT_OF_ME`); None where several fit.

    Raises:
        ValueError: no word of Slurm's begins so.
    """
    if text.startswith("CANCELLED"):
        return "CANCELLED"
    fitting = [word for word in STATES if word.startswith(text)]
    if not fitting:
        raise ValueError("not a state")
    return fitting[0] if len(fitting) == 1 else None


def state_code(text: str) -> str | None:
    """Read squeue's short code (`PD`, `CG`) as the state's word.

    Raises:
        ValueError: it is no code of Slurm's.
    """
    if text in {"", "?"}:
        return None
    if text not in _CODES:
        raise ValueError("not a state's code")
    return _CODES[text]
