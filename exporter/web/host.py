"""Refuses requests for a name that isn't this machine's own, as a foreign page sends them whose name was rebound."""

from __future__ import annotations

import ipaddress

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

_REFUSED = (
    "rayslurm answers by address and for localhost alone. If something in front of it asks by another name, let that\n"
    "send `Host: 127.0.0.1`, or write `allow_remote: true`.\n"
)


class OwnNameOnly:
    """Answers only what is asked of an address or of `localhost`.

    A browser can be made to take a foreign name for this machine (DNS rebinding); the page of that name could read all
    that is told here. Such a request carries the name. Starlette's own TrustedHostMiddleware takes no IPv6 address.

    Args:
        app: what answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, or refuses it with 421."""
        if scope["type"] == "http" and not is_own(Headers(scope=scope).get("host", "")):
            await PlainTextResponse(_REFUSED, status_code=421)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def is_own(host: str) -> bool:
    """Tells whether a `Host` header names no other machine; one that is empty names none, and no browser sends it."""
    name = host.partition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    if name.lower() in {"", "localhost"}:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
