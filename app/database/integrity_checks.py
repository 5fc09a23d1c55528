"""Integrity checks: defects inside a database that do not cause errors yet."""

from collections.abc import Iterator
from dataclasses import dataclass

from psycopg import sql

from app.database.connection import Connection

_CONSTRAINTS = """
    SELECT conrelid::regclass::text, conname FROM pg_constraint
    WHERE NOT convalidated AND connamespace = current_schema()::regnamespace ORDER BY 1, 2
"""
# An index that is being built at this moment is invalid too, but not a defect.
_INDEXES = """
    SELECT pg_index.indrelid::regclass::text, pg_index.indexrelid::regclass::text FROM pg_index
    JOIN pg_class ON pg_class.oid = pg_index.indexrelid
    WHERE NOT (indisvalid AND indisready) AND relnamespace = current_schema()::regnamespace
        AND NOT EXISTS (
            SELECT FROM pg_stat_progress_create_index AS build WHERE build.index_relid = pg_index.indexrelid
        )
    ORDER BY 1, 2
"""
_SEQUENCES = """
    SELECT sequence.relname, owner.relname, attname, seqincrement FROM pg_depend
    JOIN pg_sequence ON seqrelid = objid
    JOIN pg_class AS sequence ON sequence.oid = objid
    JOIN pg_class AS owner ON owner.oid = refobjid
    JOIN pg_attribute ON attrelid = refobjid AND attnum = refobjsubid
    WHERE classid = 'pg_class'::regclass AND refclassid = 'pg_class'::regclass AND deptype IN ('a', 'i')
        AND owner.relnamespace = current_schema()::regnamespace
    ORDER BY 1
"""


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
    return connection.execute(_CONSTRAINTS).fetchall()


def invalid_indexes(connection: Connection) -> list[tuple[str, str]]:
    """Return table and name of each index whose build failed.

    PostgreSQL updates such an index at every write but never uses it for queries.
    """
    return connection.execute(_INDEXES).fetchall()


def lagging_sequences(connection: Connection) -> Iterator[LaggingSequence]:
    """Yield sequences that are behind their column, after a copy of rows or inserts with explicit values."""
    for sequence, table, column, increment in connection.execute(_SEQUENCES).fetchall():
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
