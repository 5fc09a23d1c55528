"""The control schema of a transfer: its own tables and functions on each side.

The protocol's whole state is one row on each side, in the table `side`.
"""

import psycopg

from app.database.connection import Connection
from app.database.sql_files import read_script
from app.transfer.protocol import change_capture, fencing
from app.transfer.protocol.tables import SCHEMA, TableInfo

_TABLES = ("side", "marks", "moved", "copied", "stretches", "relay", "journal", "verifications")


def is_set_up(connection: Connection) -> bool:
    """Return True if this side has a `side` row, so that a transfer has been set up here."""
    row = connection.execute("SELECT pg_catalog.to_regclass(%s) IS NOT NULL", (f"{SCHEMA}.side",)).fetchone()
    if row != (True,):
        return False
    try:
        return connection.execute(f"SELECT FROM {SCHEMA}.side").fetchone() is not None
    except psycopg.errors.UndefinedTable:  # `finish` has dropped it since the first query
        return False


def has_leftovers(connection: Connection) -> bool:
    """Return True if this side has the control schema or any trigger of a transfer."""
    row = connection.execute("SELECT pg_catalog.to_regnamespace(%s) IS NOT NULL", (SCHEMA,)).fetchone()
    return row == (True,) or bool(change_capture.tables_with_triggers(connection))


def create(connection: Connection, tables: list[TableInfo]) -> None:
    """Create the control schema on this side and record the tables to transfer; keep what exists."""
    with connection.transaction():
        change_capture.lock_setup(connection)
        connection.execute(read_script(__package__, "control_schema.sql"))
        change_capture.create_functions(connection)
        fencing.create_functions(connection)
        for table in tables:
            connection.execute(
                f"INSERT INTO {SCHEMA}.moved (table_name, key_columns, position)"
                f" SELECT %s, %s, coalesce(max(position), 0) + 1 FROM {SCHEMA}.moved ON CONFLICT DO NOTHING",
                (table.name, list(table.key)),
            )


def drop(connection: Connection) -> None:
    """Drop the control schema. Fails, and changes nothing, if the schema holds tables of other programs."""
    with connection.transaction():
        functions = connection.execute(
            "SELECT oid::regprocedure::text FROM pg_catalog.pg_proc"
            " WHERE pronamespace = pg_catalog.to_regnamespace(%s) ORDER BY 1",
            (SCHEMA,),
        ).fetchall()
        for (function,) in functions:
            connection.execute(f"DROP FUNCTION {function}")
        for table in _TABLES:
            connection.execute(f"DROP TABLE IF EXISTS {SCHEMA}.{table}")
        connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA}")
