"""The journal: what was done in a move, and when."""

from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from app.transfer.protocol.tables import SCHEMA


def record(connection: psycopg.Connection[Any], step: str, **detail: object) -> None:
    """Write one line into this side's journal. No personal data: names, counts, seconds."""
    connection.execute(
        f"INSERT INTO {SCHEMA}.journal (step, detail) VALUES (%s, %s)",
        (step, Jsonb(detail)),
    )
