"""Sequences do not follow the data: before the standby opens, its own are moved past those of the source."""

from collections.abc import Iterable
from typing import Any

import psycopg
from psycopg import sql

from app.transfer.protocol.pipeline import Statement

_SEQUENCES = """
    SELECT nspname, relname, seqincrement FROM pg_catalog.pg_sequence
        JOIN pg_catalog.pg_class ON pg_class.oid = seqrelid
        JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
    WHERE nspname = ANY(%(schemas)s) AND relpersistence = 'p'
    ORDER BY 1, 2
"""

SequenceInfo = tuple[str, str, int]  # its schema, its name, and by how much it counts
SequencePosition = tuple[
    int, int, bool
]  # its place in the list, the last number, and whether that was handed out


def find(connection: psycopg.Connection[Any], schemas: list[str]) -> list[SequenceInfo]:
    """The sequences of the schemas."""
    return connection.execute(_SEQUENCES, {"schemas": schemas}).fetchall()


def positions_query(sequences: Iterable[SequenceInfo]) -> Statement:
    """What asks the source for the position of each. Send it when nobody writes."""
    each = [
        sql.SQL("SELECT {}, last_value, is_called FROM {}").format(sql.Literal(n), sql.Identifier(*names))
        for n, (*names, _) in enumerate(sequences)
    ]
    return sql.SQL(" UNION ALL ").join(each) if each else "SELECT WHERE false"


def advance_statements(
    sequences: list[SequenceInfo], positions: Iterable[SequencePosition], *, dry_run: bool = False
) -> list[Statement]:
    """What sets the standby's to the source's, never backwards; each answers with a row if it was behind.

    Send them while the standby's row is locked: it cannot open meanwhile, and hand out a number that is then
    set back. `dry_run`: they only look.
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
