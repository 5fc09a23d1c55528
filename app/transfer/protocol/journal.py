"""The journal of a transfer: its completed steps with their times, in a table on each side."""

from psycopg.types.json import Jsonb

from app.database.connection import Connection
from app.transfer.protocol.tables import SCHEMA


def record(connection: Connection, step: str, **detail: object) -> None:
    """Add an entry to this side's journal.

    `detail` holds names, counts and seconds, and no personal data. Example:
    `record(legacy, "copy", rows=120, seconds=1.5)`.
    """
    connection.execute(
        f"INSERT INTO {SCHEMA}.journal (step, detail) VALUES (%s, %s)",
        (step, Jsonb(detail)),
    )
