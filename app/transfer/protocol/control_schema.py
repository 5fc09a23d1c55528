"""The control schema of a transfer: its own tables and functions on each side.

The protocol's whole state is one row on each side, in the table `side`.
"""

import psycopg

from app.database.connection import Connection
from app.transfer.protocol import change_capture, fencing
from app.transfer.protocol.tables import SCHEMA, TableInfo

_STATEMENTS = f"""
CREATE SCHEMA IF NOT EXISTS {SCHEMA};

-- One row: the name of this side, and whether it accepts writes. A closing side counts as open after `until`.
CREATE TABLE IF NOT EXISTS {SCHEMA}.side (
    "only" boolean PRIMARY KEY DEFAULT true CHECK ("only"),
    name text NOT NULL CHECK (name IN ('legacy', 'primary')),
    state text NOT NULL CHECK (state IN ('open', 'closing', 'standby')),
    epoch bigint NOT NULL,
    attempt bigint NOT NULL DEFAULT 0,
    until timestamptz CHECK (until IS NOT NULL OR state <> 'closing')
);

-- The change log: keys of rows that have changed and are not on the other side yet. Keys are never NULL.
CREATE TABLE IF NOT EXISTS {SCHEMA}.marks (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    table_name text NOT NULL,
    key text[] NOT NULL,
    at timestamptz NOT NULL DEFAULT statement_timestamp()
);

-- The tables that are transferred, parents before children.
CREATE TABLE IF NOT EXISTS {SCHEMA}.moved (
    table_name text PRIMARY KEY,
    key_columns text[] NOT NULL,
    position integer NOT NULL UNIQUE
);

-- Used on the side that is copied to: the progress of each table, and the block ranges that are copied. Block
-- numbers refer to the source's file `file`. VACUUM FULL writes a new file, which makes them meaningless.
CREATE TABLE IF NOT EXISTS {SCHEMA}.copied (
    table_name text PRIMARY KEY,
    file oid NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz
);
CREATE TABLE IF NOT EXISTS {SCHEMA}.stretches (
    table_name text NOT NULL,
    first_block bigint NOT NULL,
    end_block bigint NOT NULL,
    rows bigint NOT NULL,
    PRIMARY KEY (table_name, first_block)
);

-- Used on the live side: the relay's last apply cycle.
CREATE TABLE IF NOT EXISTS {SCHEMA}.relay (
    "only" boolean PRIMARY KEY DEFAULT true CHECK ("only"),
    began_at timestamptz,
    finished_at timestamptz,
    marks bigint NOT NULL DEFAULT 0,
    seconds double precision NOT NULL DEFAULT 0
);
INSERT INTO {SCHEMA}.relay DEFAULT VALUES ON CONFLICT DO NOTHING;

CREATE TABLE IF NOT EXISTS {SCHEMA}.journal (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    step text NOT NULL,
    detail jsonb NOT NULL DEFAULT '{{}}'
);

CREATE TABLE IF NOT EXISTS {SCHEMA}.verifications (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    equal boolean NOT NULL,
    detail jsonb NOT NULL DEFAULT '{{}}'
);

-- Services read the row. The change log is private to the transfer's role.
GRANT USAGE ON SCHEMA {SCHEMA} TO PUBLIC;
GRANT SELECT ON {SCHEMA}.side TO PUBLIC;
"""

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
        connection.execute(_STATEMENTS)
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
