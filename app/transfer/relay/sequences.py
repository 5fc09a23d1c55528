"""Sequences: the relay does not replay them, so a cutover advances the standby's before it opens the side."""

from collections.abc import Iterable

from psycopg import sql

from app.database.connection import Connection
from app.transfer.protocol.pipeline import Statement

_SEQUENCES = """
    SELECT nspname, relname, seqincrement FROM pg_catalog.pg_sequence
        JOIN pg_catalog.pg_class ON pg_class.oid = seqrelid
        JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
    WHERE nspname = ANY(%(schemas)s) AND relpersistence = 'p'
    ORDER BY 1, 2
"""

SequenceInfo = tuple[str, str, int]  # schema, name, increment
SequencePosition = tuple[int, int, bool]  # index in the list of sequences, last_value, is_called


def find(connection: Connection, schemas: list[str]) -> list[SequenceInfo]:
    """Return the permanent sequences of the schemas, ordered by schema and name."""
    return connection.execute(_SEQUENCES, {"schemas": schemas}).fetchall()


def positions_query(sequences: Iterable[SequenceInfo]) -> Statement:
    """Return a query for the positions of the sequences. Execute it on the source while writes are paused."""
    queries = [
        sql.SQL("SELECT {}, last_value, is_called FROM {}").format(sql.Literal(n), sql.Identifier(*names))
        for n, (*names, _) in enumerate(sequences)
    ]
    return sql.SQL(" UNION ALL ").join(queries) if queries else "SELECT WHERE false"


def advance_statements(
    sequences: list[SequenceInfo], positions: Iterable[SequencePosition], *, dry_run: bool = False
) -> list[Statement]:
    """Return statements that advance the standby's sequences to the source's positions, never backwards.

    Each statement returns one row if its sequence was behind, else none. Execute them while the standby's
    state row is locked: otherwise the standby could open meanwhile and use a number that is then set back.
    With `dry_run` the statements change nothing.
    """
    return [_advance_statement(sequences[n], last, dry_run) for n, last, is_called in positions if is_called]


def _advance_statement(sequence: SequenceInfo, last: int, dry_run: bool) -> Statement:
    *names, step = sequence
    name = sql.Identifier(*names)
    set_ = sql.SQL("setval({}, {}, true)").format(sql.Literal(name.as_string(None)), sql.Literal(last))
    behind = "last_value < {0} OR (last_value = {0} AND NOT is_called)"
    if step < 0:
        behind = behind.replace("<", ">")
    return sql.SQL("SELECT {} FROM {} WHERE {}").format(
        sql.SQL("true") if dry_run else set_, name, sql.SQL(behind).format(sql.Literal(last))
    )
