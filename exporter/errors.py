"""Every error rayslurm raises on purpose.

```
RayslurmError
├── ConfigError                rayslurm.yaml or a spec is wrong; says file, line, key and cure   exit 2
├── InputError                 a text is not what it was said to be                              exit 3
├── RefusedError               not allowed: budget, policy, closed site                          exit 4
│   ├── BudgetExhaustedError   this hour's commands for the site are used up
│   └── OverBudgetError        it would cost more than a budget, a floor or its own cap allows
├── StoreError                 the store cannot be opened, read or written
│   └── OwnerError             another process owns the sites
├── ArchiveError               the archive's bucket cannot be used, or something in it is not what it should be
└── SiteError                  talking to the site failed
    ├── ConnectError           no session: refused, unreachable, or no answer in time; nothing was sent
    │   ├── NoKeyError         there is no key to log in with; none was offered
    │   ├── AuthError          the site did not accept the key, certificate or agent
    │   └── HostKeyError       the host key is not the pinned one
    ├── DeadlineError          sent, but not answered in time: whether it was carried out is not known
    ├── SessionLostError       sent, but the session broke before the answer: as above
    ├── AnswerError            the answer is no whole one: empty, cut short, or too large to be one
    └── CommandError           the command answered with a non-zero exit status
```

`exit_code` is what the command line ends with when the error reaches it; `reason` is one word for it, from a bounded
set, as metrics have it.
"""

from __future__ import annotations

import re

# What Slurm's commands say on standard error; slurm_errno.c and the commands' own sources.
_SAYINGS = (
    ("slurmctld_unreachable", re.compile(r"Unable to contact slurm controller")),
    (
        "slurmdbd_unreachable",
        re.compile(r"slurm_persist_conn_open|talking to the database|DBD_GET_\w+ failure"),
    ),
    ("unknown_field", re.compile(r"Invalid field requested|Invalid job format specification")),
)
_NOT_FOUND = 127


class RayslurmError(Exception):
    """Base of all errors that are meant for the user."""

    exit_code = 1
    reason = "error"


class ConfigError(RayslurmError):
    """The configuration or a spec is wrong; the message names file, line, key and what to write instead."""

    exit_code = 2


class InputError(RayslurmError):
    """A text is not of the kind it was said to be; the message quotes the line."""

    exit_code = 3
    reason = "not_understood"


class RefusedError(RayslurmError):
    """What was asked for is not allowed: the command budget, the site's policy, a closed site."""

    exit_code = 4
    reason = "refused"


class BudgetExhaustedError(RefusedError):
    """This hour's commands for the site are used up."""

    reason = "budget"


class OverBudgetError(RefusedError):
    """A launch would cost more than its campaign's budget, its project's floor or its own cap allows."""

    reason = "over_budget"


class StoreError(RayslurmError):
    """The store cannot be opened, read or written."""

    reason = "store"


class OwnerError(StoreError):
    """Another process owns the sites of this store."""


class ArchiveError(RayslurmError):
    """The archive's bucket cannot be used, or something in it is not what it should be.

    Attributes:
        reason: `unreachable`, `tls`, `credentials`, `denied`, `no_bucket`, `public`, `full`, `damaged`, `missing` or
            `archive`.
    """

    def __init__(self, message: str, reason: str = "archive") -> None:
        super().__init__(message)
        self.reason = reason


class SiteError(RayslurmError):
    """Talking to the site failed."""

    reason = "site"


class ConnectError(SiteError):
    """No session with the site: refused, unreachable, or no answer in time. Nothing was sent."""

    reason = "unreachable"


class NoKeyError(ConnectError):
    """There is no key, certificate or agent to log in with; the site was offered none."""

    reason = "no_key"


class AuthError(ConnectError):
    """The site accepted neither key, certificate nor agent."""

    reason = "auth"


class HostKeyError(ConnectError):
    """The site's host key is not the pinned one."""

    reason = "host_key"


class DeadlineError(SiteError):
    """The command was sent and its answer did not come in time: whether it was carried out is not known."""

    reason = "timeout"


class SessionLostError(SiteError):
    """The session broke after the command was sent: whether it was carried out is not known."""

    reason = "session_lost"


class AnswerError(SiteError):
    """The command went well by its exit status, but what came back is no whole answer.

    Attributes:
        reason: `empty_answer`, `incomplete_answer` or `answer_too_large`.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class CommandError(SiteError):
    """The site answered with a non-zero exit status.

    Attributes:
        exit_status: what the command ended with.
        stderr: what it said on standard error, as it came.
        reason: `command_failed`, or what of Slurm failed: `slurmctld_unreachable`, `slurmdbd_unreachable`,
            `unknown_field`, `no_such_command`.
    """

    def __init__(self, message: str, *, exit_status: int, stderr: str) -> None:
        super().__init__(message)
        self.reason = _reason(exit_status, stderr)
        self.exit_status = exit_status
        self.stderr = stderr


def _reason(exit_status: int, stderr: str) -> str:
    if exit_status == _NOT_FOUND:
        return "no_such_command"
    return next((reason for reason, saying in _SAYINGS if saying.search(stderr)), "command_failed")
