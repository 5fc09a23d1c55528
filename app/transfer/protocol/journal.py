"""The journal of a transfer: its completed steps with their times, in a table on each side."""

from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from app.transfer.protocol.tables import SCHEMA


def record(connection: psycopg.Connection[Any], step: str, **detail: object) -> None:
    """Add an entry to this side's journal.

    `detail` holds names, counts and seconds, and no personal data. Example:
    `record(legacy, "copy", rows=120, seconds=1.5)`.
    """
    connection.execute(
        f"INSERT INTO {SCHEMA}.journal (step, detail) VALUES (%s, %s)",
        (step, Jsonb(detail)),
    )
