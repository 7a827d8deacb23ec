"""Running jobs whose spec says what they may cost."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Capped:
    """A job that goes on and whose spec has a cap.

    Attributes:
        spec: as the journal has it.
    """

    site: str
    job_id: str
    spec: dict[str, Any]


def capped(connection: sqlite3.Connection, site: str) -> list[Capped]:
    """Returns the jobs of a site that run and whose spec has a cap, oldest first."""
    rows = connection.execute(
        "SELECT j.site, j.job_id, s.spec FROM tracked t JOIN submissions s ON s.token = t.token"
        " JOIN jobs j ON j.site = s.site AND j.job_id = s.job_id"
        " WHERE t.done = 0 AND t.site = ? AND j.state = 'running' AND j.final = 0"
        " AND json_extract(s.spec, '$.max_units') IS NOT NULL ORDER BY s.created",
        (site,),
    )
    return [Capped(row["site"], row["job_id"], json.loads(row["spec"])) for row in rows]
