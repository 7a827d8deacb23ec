"""The Python of a job's Ray, as its dashboard tells: who connects to that Ray must have the same."""

from __future__ import annotations

import asyncio
import re

from exporter.tunnels.http import NoAnswerError, NotHttpError, get

DEADLINE_SECONDS = 5.0

_VERSION = re.compile(r"\d+\.\d+\.\d+[\w.+-]{0,32}")


async def python_version(port: int, secret: str | None) -> str | None:
    """Asks a Ray that is known to be ours for its Python.

    Args:
        port: of its dashboard on this machine.
        secret: its token; None where it wants none.

    Returns:
        The version, such as `3.11.2`; None where it didn't say.
    """
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            reply = await get(port, "/api/v0/cluster_metadata", bearer=secret)
    except (OSError, NoAnswerError, NotHttpError):  # a timeout is an OSError
        return None
    data = reply.fields().get("data")
    version = data.get("pythonVersion") if isinstance(data, dict) else None
    return version if isinstance(version, str) and _VERSION.fullmatch(version) else None
