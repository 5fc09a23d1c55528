"""Integrity checks: defects inside a database that do not cause errors yet."""

from collections.abc import Iterator
from dataclasses import dataclass

from psycopg import sql

from app.database.connection import Connection
from app.database.sql_files import read_queries

_QUERIES = read_queries(__package__, "integrity_checks.sql")


@dataclass(frozen=True)
class LaggingSequence:
    """A sequence whose next value exists in its column already, so that the next insert fails.

    `behind`: how far the sequence must advance.
    """

    sequence: str
    table: str
    column: str
    behind: int


def invalid_constraints(connection: Connection) -> list[tuple[str, str]]:
    """Return table and name of each constraint that is NOT VALID: existing rows may violate it."""
    return connection.execute(_QUERIES["constraints"]).fetchall()


def invalid_indexes(connection: Connection) -> list[tuple[str, str]]:
    """Return table and name of each index whose build failed.

    PostgreSQL updates such an index at every write but never uses it for queries.
    """
    return connection.execute(_QUERIES["indexes"]).fetchall()


def lagging_sequences(connection: Connection) -> Iterator[LaggingSequence]:
    """Yield sequences that are behind their column, after a copy of rows or inserts with explicit values."""
    for sequence, table, column, increment in connection.execute(_QUERIES["sequences"]).fetchall():
        ((following, highest),) = connection.execute(
            sql.SQL(
                "SELECT CASE WHEN is_called THEN last_value + {step} ELSE last_value END,"
                " (SELECT max({column}) FROM {table}) FROM {sequence}"
            ).format(
                step=sql.Literal(increment),
                column=sql.Identifier(column),
                table=sql.Identifier(table),
                sequence=sql.Identifier(sequence),
            )
        )
        if highest is not None and highest >= following:
            yield LaggingSequence(sequence, table, column, highest - following + 1)
