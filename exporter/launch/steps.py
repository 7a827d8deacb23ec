"""The steps of a submission by name, so that a test can end the process at any of them."""

from __future__ import annotations

import os
import signal

STEPS = (
    "asked",
    "journalled",
    "folder-made",
    "bringing",
    "copying",
    "copied",
    "submitting",
    "answered",
    "noted",
)
"""In order: what was done last when the name is reached. Between `submitting` and `answered` `sbatch` runs.

`bringing`: a piece of what is brought along was sent; `copying`: a file of the run folder.
"""

CRASH_VARIABLE = "RAYSLURM_CRASH_AT"
"""Names the step at which the process is to die as by `kill -9`; for tests."""


def reached(step: str) -> None:
    """Marks that a step is done; ends the process there where a test wants that."""
    if os.environ.get(CRASH_VARIABLE) == step:
        os.kill(os.getpid(), signal.SIGKILL)
