"""Sequences do not follow the data: before the standby opens, its own are moved past those of the source."""

from typing import Any

import psycopg
from psycopg import sql

from app.errors import ConflictError
from app.transfer import protocol
from app.transfer.replay import MovedOnError

_SEQUENCES = """
    SELECT nspname, relname, seqincrement FROM pg_catalog.pg_sequence
        JOIN pg_catalog.pg_class ON pg_class.oid = seqrelid
        JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
    WHERE nspname = ANY(%(schemas)s) AND relpersistence = 'p'
    ORDER BY 1, 2
"""


def advance(
    source: psycopg.Connection[Any],
    target: psycopg.Connection[Any],
    schemas: list[str],
    *,
    dry_run: bool = False,
) -> dict[str, int]:
    """Set the standby's sequences to the source's, never backwards; those that were behind, with the number.

    Call it when nobody writes. Raises MovedOnError where the target is no standby, ConflictError where it
    lacks a sequence.
    """
    wanted = _read(source, schemas)
    with target.transaction():
        # Under the row's lock it cannot open meanwhile, and hand out a number that is then set back.
        if protocol.look(target, lock="FOR UPDATE").state != "standby":
            raise MovedOnError
        present = _read(target, schemas)
        missing = sorted(set(wanted) - set(present))
        if missing:
            raise ConflictError(f"Sequences are missing on the standby: {', '.join(map('.'.join, missing))}.")
        behind = {
            name: last
            for name, (last, is_called, step) in wanted.items()
            if is_called and _is_behind(present[name], last, step)
        }
        if not dry_run:
            for name, last in behind.items():
                target.execute(
                    "SELECT setval(%s::regclass, %s, true)", (sql.Identifier(*name).as_string(None), last)
                )
    return {".".join(name): last for name, last in behind.items()}


def _is_behind(present: tuple[int, bool, int], last: int, step: int) -> bool:
    value, is_called, _ = present
    if value == last:
        return not is_called
    return value < last if step > 0 else value > last


def _read(
    connection: psycopg.Connection[Any], schemas: list[str]
) -> dict[tuple[str, str], tuple[int, bool, int]]:
    """Last value, whether it was handed out, and the increment of each sequence, in one statement."""
    found = connection.execute(_SEQUENCES, {"schemas": schemas}).fetchall()
    if not found:
        return {}
    each = [
        sql.SQL("SELECT {}, {}, last_value, is_called, {}::bigint FROM {}").format(
            sql.Literal(schema), sql.Literal(name), sql.Literal(step), sql.Identifier(schema, name)
        )
        for schema, name, step in found
    ]
    rows = connection.execute(sql.SQL(" UNION ALL ").join(each)).fetchall()
    return {(schema, name): (last, called, step) for schema, name, last, called, step in rows}
