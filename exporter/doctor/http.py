"""One request to a service on this machine."""

from __future__ import annotations

import http.client

_SECONDS = 5.0
_BYTES = 1024


def said_over_http(host: str, port: int, path: str) -> str | None:
    """Returns the beginning of what a service answers to a GET, whatever its status; None where nobody answers.

    What answers in no words of HTTP has said nothing, but is there: an empty text.
    """
    connection = http.client.HTTPConnection(host, port, timeout=_SECONDS)
    try:
        connection.connect()
    except TimeoutError:
        return ""
    except OSError:
        return None
    try:
        connection.request("GET", path)
        return connection.getresponse().read(_BYTES).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()
