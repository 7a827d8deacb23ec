"""Slurm's job states: the words it prints, and the base states that metrics carry."""

from __future__ import annotations

from exporter.records import BASE_STATES

UNKNOWN = "unknown"
"""The state of a job that no answer of the site names."""

METRIC_STATES = (*sorted(state.lower() for state in BASE_STATES), UNKNOWN)
"""Every value that the label `state` can have."""

# Flags that Slurm prints in place of the base state (slurm.h, JOB_STATE_FLAGS), and the base state that they imply
# for somebody who waits or pays: a job that is completing still holds its nodes.
_FLAGS = {
    "COMPLETING": "RUNNING",
    "CONFIGURING": "RUNNING",
    "EXPEDITING": "PENDING",
    "POWER_UP_NODE": "RUNNING",
    "REQUEUED": "PENDING",
    "REQUEUE_FED": "PENDING",
    "REQUEUE_HOLD": "PENDING",
    "RESIZING": "RUNNING",
    "RESV_DEL_HOLD": "PENDING",
    "SIGNALING": "RUNNING",
    "SPECIAL_EXIT": "PENDING",
    "STAGE_OUT": "RUNNING",
    "STOPPED": "SUSPENDED",
}


def base_state(word: str | None) -> str:
    """Returns the base state, in lower case, that Slurm's word stands for; `unknown` where it stands for none.

    Args:
        word: a state as `squeue` or `sacct` prints it, in capitals; None where it was not understood.
    """
    if word is None:
        return UNKNOWN
    word = _FLAGS.get(word, word)
    return word.lower() if word in BASE_STATES else UNKNOWN
