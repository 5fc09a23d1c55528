"""Triggers that somebody else has put on the tables: they must not fire when rows are replayed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql

from app.transfer.capture import PREFIX
from app.transfer.tables import Table

_ENABLED = """
    SELECT nspname || '.' || relname, tgname, tgenabled::text FROM pg_catalog.pg_trigger
        JOIN pg_catalog.pg_class ON pg_class.oid = tgrelid
        JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
    WHERE NOT tgisinternal AND tgenabled IN ('O', 'A') AND NOT starts_with(tgname, %(prefix)s)
        AND nspname || '.' || relname = ANY(%(tables)s)
    ORDER BY 1, 2
"""
_BACK = {"O": "ENABLE", "A": "ENABLE ALWAYS"}


def foreign_triggers(
    connection: psycopg.Connection[Any], tables: Sequence[Table]
) -> list[tuple[str, str, str]]:
    """Table, name and mode (as pg_trigger.tgenabled) of each trigger that would fire."""
    names = [table.name for table in tables]
    return connection.execute(_ENABLED, {"prefix": PREFIX, "tables": names}).fetchall()


@contextmanager
def silenced(connection: psycopg.Connection[Any], tables: Sequence[Table]) -> Iterator[None]:
    """Switch them off inside the caller's transaction, and on again at its end: nobody else sees them off.

    It takes no more than the tables' owner; `session_replication_role` takes a superuser. Deferred
    constraints are checked before they are switched on again. Raises psycopg's errors.
    """
    by_name = {table.name: table.identifier for table in tables}
    found = foreign_triggers(connection, tables)
    for table, trigger, _ in found:
        _alter(connection, by_name[table], "DISABLE", trigger)
    yield
    if found:
        connection.execute("SET CONSTRAINTS ALL IMMEDIATE")  # a table with pending checks cannot be altered
    for table, trigger, mode in found:
        _alter(connection, by_name[table], _BACK[mode], trigger)


def _alter(connection: psycopg.Connection[Any], table: sql.Identifier, verb: str, trigger: str) -> None:
    connection.execute(
        sql.SQL("ALTER TABLE {} {} TRIGGER {}").format(table, sql.SQL(verb), sql.Identifier(trigger))
    )
