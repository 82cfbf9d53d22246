"""Everything a monitor is told, read from staging's tables in one go: the status, and what `status` does not show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import psycopg

from connector.ops import status
from connector.ops.status import Status
from connector.settings import Config
from connector.staging.session import translated


@dataclass(frozen=True, slots=True)
class Figures:
    """As of one moment. `stages`: seconds by stage and `batches`, by party, since its worker started."""

    status: Status
    stages: Mapping[str, Mapping[str, float]]


def read(conn: psycopg.Connection, config: Config) -> Figures:
    """Read it all."""
    found = status.status(conn, config)
    with translated("reading figures"):
        stages: dict[str, dict[str, float]] = dict(
            conn.execute("select party, stages from connector.worker where stages is not null").fetchall()
        )
    return Figures(found, stages)
