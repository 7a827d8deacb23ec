"""Every error rayslurm raises on purpose.

```
RayslurmError
├── ConfigError                rayslurm.yaml or a spec is wrong; says file, line, key and cure   exit 2
├── InputError                 a text is not what it was said to be                              exit 3
├── RefusedError               not allowed: budget, policy, closed site                          exit 4
│   └── BudgetExhaustedError   this hour's commands for the site are used up
├── StoreError                 the store cannot be opened, read or written
│   └── OwnerError             another process owns the sites
└── SiteError                  talking to the site failed
    ├── ConnectError           no session: refused, unreachable, or no answer in time; nothing was sent
    │   ├── NoKeyError         there is no key to log in with; none was offered
    │   ├── AuthError          the site did not accept the key, certificate or agent
    │   └── HostKeyError       the host key is not the pinned one
    ├── DeadlineError          sent, but not answered in time: whether it was carried out is not known
    ├── SessionLostError       sent, but the session broke before the answer: as above
    └── CommandError           the command answered with a non-zero exit status
```

`exit_code` is what the command line ends with when the error reaches it.
"""

from __future__ import annotations


class RayslurmError(Exception):
    """Base of all errors that are meant for the user."""

    exit_code = 1


class ConfigError(RayslurmError):
    """The configuration or a spec is wrong; the message names file, line, key and what to write instead."""

    exit_code = 2


class InputError(RayslurmError):
    """A text is not of the kind it was said to be; the message quotes the line."""

    exit_code = 3


class RefusedError(RayslurmError):
    """What was asked for is not allowed: the command budget, the site's policy, a closed site."""

    exit_code = 4


class BudgetExhaustedError(RefusedError):
    """This hour's commands for the site are used up."""


class StoreError(RayslurmError):
    """The store cannot be opened, read or written."""


class OwnerError(StoreError):
    """Another process owns the sites of this store."""


class SiteError(RayslurmError):
    """Talking to the site failed."""


class ConnectError(SiteError):
    """No session with the site: refused, unreachable, or no answer in time. Nothing was sent."""


class NoKeyError(ConnectError):
    """There is no key, certificate or agent to log in with; the site was offered none."""


class AuthError(ConnectError):
    """The site accepted neither key, certificate nor agent."""


class HostKeyError(ConnectError):
    """The site's host key is not the pinned one."""


class DeadlineError(SiteError):
    """The command was sent and its answer did not come in time: whether it was carried out is not known."""


class SessionLostError(SiteError):
    """The session broke after the command was sent: whether it was carried out is not known."""


class CommandError(SiteError):
    """The site answered with a non-zero exit status.

    Attributes:
        exit_status: what the command ended with.
        stderr: what it said on standard error, as it came.
    """

    def __init__(self, message: str, *, exit_status: int, stderr: str) -> None:
        super().__init__(message)
        self.exit_status = exit_status
        self.stderr = stderr
