"""What is behind a dashboard's tunnel: this job's Ray, or what else."""

from __future__ import annotations

import asyncio

from exporter.store.tunnels import UP
from exporter.tunnels.http import NoAnswerError, NotHttpError, Reply, get

DEADLINE_SECONDS = 5.0
"""How long one probe may take, all its questions together."""

_OK, _UNAUTHORIZED, _FORBIDDEN, _SERVER_ERROR = 200, 401, 403, 500
_RAY_FIELDS = {"version", "ray_version", "session_name"}


async def probe(
    port: int, secret: str | None, *, may_be_open: bool = False, deadline: float = DEADLINE_SECONDS
) -> str | None:
    """Looks what answers on a port of this machine.

    A Ray that says it wants a token and takes ours is ours: nobody else has it. It is shown only to who says so, so
    that what is no Ray never sees it. Of a job whose spec allows a Ray without authentication that asks for nothing, no
    more can be told than that a Ray answers, not whose.

    Args:
        port: where the tunnel should listen.
        secret: the token of the job's Ray; None where it is lost.
        may_be_open: whether the job's spec allows a Ray that asks for no token.
        deadline: seconds.

    Returns:
        `up`; `refused`: nobody listens, so there is no tunnel; `timeout`: no whole answer came in time; `auth`: a Ray
        that doesn't take our token; `foreign`: something that isn't this job's Ray; `target_down`: the tunnel lives,
        and what is behind it closes without an answer or is out of order (a status from 500 on). None where it cannot
        be told.
    """
    try:
        async with asyncio.timeout(deadline):
            return await _who_answers(port, secret, may_be_open=may_be_open)
    except TimeoutError:
        return "timeout"
    except ConnectionRefusedError:
        return "refused"
    except (ConnectionError, NoAnswerError):
        return "target_down"
    except NotHttpError:
        return "foreign"
    except OSError:  # this machine's own fault, such as too many open files: it says nothing about the tunnel
        return None


async def _who_answers(port: int, secret: str | None, *, may_be_open: bool) -> str | None:
    mode = await get(port, "/api/authentication_mode")
    if mode.status >= _SERVER_ERROR:
        return "target_down"
    wants_token = mode.status == _OK and mode.fields().get("authentication_mode") == "token"
    if not wants_token and not may_be_open:
        return "foreign"
    if wants_token and secret is None:
        return None
    version = await get(port, "/api/version", bearer=secret if wants_token else None)
    if version.status >= _SERVER_ERROR:
        return "target_down"
    if wants_token and version.status in {_UNAUTHORIZED, _FORBIDDEN}:
        return "auth"
    return UP if _is_ray(version) else "foreign"


def _is_ray(version: Reply) -> bool:
    return version.status == _OK and version.fields().keys() >= _RAY_FIELDS
