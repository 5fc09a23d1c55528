"""What can be wrong inside a database although everything seems to work."""

from collections.abc import Iterator
from dataclasses import dataclass

from psycopg import sql

from app.database.database import Connection

_CONSTRAINTS = """
    SELECT conrelid::regclass::text, conname FROM pg_constraint
    WHERE NOT convalidated AND connamespace = current_schema()::regnamespace ORDER BY 1, 2
"""
# One that is being built at this moment is not valid yet, and no mistake.
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
    """A sequence whose next number is in its table already: the next insert fails."""

    sequence: str
    table: str
    column: str
    behind: int


def invalid_constraints(connection: Connection) -> list[tuple[str, str]]:
    """Table and name of each constraint that existing rows were not checked against."""
    return connection.execute(_CONSTRAINTS).fetchall()


def invalid_indexes(connection: Connection) -> list[tuple[str, str]]:
    """Table and name of each index that a build left unfinished: it costs, and serves nobody."""
    return connection.execute(_INDEXES).fetchall()


def lagging_sequences(connection: Connection) -> Iterator[LaggingSequence]:
    """Sequences that a copy of rows, or an insert with numbers of its own, has left behind."""
    for sequence, table, column, increment in connection.execute(_SEQUENCES).fetchall():
        row = connection.execute(
            sql.SQL(
                "SELECT CASE WHEN is_called THEN last_value + {step} ELSE last_value END,"
                " (SELECT max({column}) FROM {table}) FROM {sequence}"
            ).format(
                step=sql.Literal(increment),
                column=sql.Identifier(column),
                table=sql.Identifier(table),
                sequence=sql.Identifier(sequence),
            )
        ).fetchone()
        assert row is not None, "a sequence has one row"  # noqa: S101
        following, highest = row
        if highest is not None and highest >= following:
            yield LaggingSequence(sequence, table, column, highest - following + 1)
