"""What a move keeps on each side: tables, functions and triggers in a schema of their own.

The state of the protocol is the one row of `side` on either side, and nothing else.
"""

from typing import Any

import psycopg

from app.transfer.protocol import change_capture, fencing
from app.transfer.protocol.tables import SCHEMA, TableInfo

_STATEMENTS = f"""
CREATE SCHEMA IF NOT EXISTS {SCHEMA};

-- One row: who this is, and whether it may be written. A side that is closing opens by itself at `until`.
CREATE TABLE IF NOT EXISTS {SCHEMA}.side (
    "only" boolean PRIMARY KEY DEFAULT true CHECK ("only"),
    name text NOT NULL CHECK (name IN ('legacy', 'primary')),
    state text NOT NULL CHECK (state IN ('open', 'closing', 'standby')),
    epoch bigint NOT NULL,
    attempt bigint NOT NULL DEFAULT 0,
    until timestamptz CHECK (until IS NOT NULL OR state <> 'closing')
);

-- The log: keys that have changed and are not on the other side yet. Keys are never NULL.
CREATE TABLE IF NOT EXISTS {SCHEMA}.marks (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    table_name text NOT NULL,
    key text[] NOT NULL,
    at timestamptz NOT NULL DEFAULT statement_timestamp()
);

-- The tables that are moved, parents before children.
CREATE TABLE IF NOT EXISTS {SCHEMA}.moved (
    table_name text PRIMARY KEY,
    key_columns text[] NOT NULL,
    position integer NOT NULL UNIQUE
);

-- On the side that is copied to: how far each table is, and which blocks are there. They are those of the
-- source's file: when that is another one (VACUUM FULL), they mean nothing any more.
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

-- On the side that is relayed from: the last round.
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

-- Services look at the row; the log is nobody's business.
GRANT USAGE ON SCHEMA {SCHEMA} TO PUBLIC;
GRANT SELECT ON {SCHEMA}.side TO PUBLIC;
"""

_TABLES = ("side", "marks", "moved", "copied", "stretches", "relay", "journal", "verifications")


def is_set_up(connection: psycopg.Connection[Any]) -> bool:
    """Whether a move has been set up on this side, as far as its `side` row."""
    found = connection.execute(
        "SELECT pg_catalog.to_regclass(%s) IS NOT NULL", (f"{SCHEMA}.side",)
    ).fetchone()
    if found != (True,):
        return False
    try:
        return connection.execute(f"SELECT FROM {SCHEMA}.side").fetchone() is not None
    except psycopg.errors.UndefinedTable:  # `finish` has just taken it away
        return False


def has_leftovers(connection: psycopg.Connection[Any]) -> bool:
    """Whether there is anything of a move on this side."""
    found = connection.execute("SELECT pg_catalog.to_regnamespace(%s) IS NOT NULL", (SCHEMA,)).fetchone()
    return found == (True,) or bool(change_capture.tables_with_triggers(connection))


def create(connection: psycopg.Connection[Any], tables: list[TableInfo]) -> None:
    """Make what the move keeps on this side and record its tables; what is there already stays."""
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


def drop(connection: psycopg.Connection[Any]) -> None:
    """Remove the schema of the move; a table in it that is not ours makes this fail, and stays."""
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
