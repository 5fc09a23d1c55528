"""Fence and capture: the functions and triggers on every moved table.

The fence refuses writes where the side is not open. Capture writes the keys of changed rows into the log, in
the transaction that changes them, whoever that is.
"""

from typing import Any

import psycopg
from psycopg import sql

from app.database.advisory_locks import AdvisoryLock
from app.transfer.protocol.tables import SCHEMA, TableInfo

# Any number will do that no other program takes advisory locks on. Shared by every writing transaction,
# exclusive to close.
FENCED_SQLSTATE = "FD001"

TRIGGERS = ("fence", "truncate", "insert", "update", "delete")  # names on each table, after the prefix
TRIGGER_PREFIX = "frontdesk_transfer_"

# The relay's transaction on the standby, and no other: the setting holds the transaction's own id, and the
# session is of the role that has set up the move (which owns these functions).
_IS_RELAY = (
    "coalesce(current_setting('frontdesk_transfer.relay', true), '') <> ''"
    " AND current_setting('frontdesk_transfer.relay', true) = pg_current_xact_id()::text"
    " AND session_user = current_user"
)

# `enter()` raises FD001 unless the calling transaction may write here, and keeps it so until it ends.
# VOLATILE, so that each statement has a snapshot of its own: the one that reads the row is then younger than
# the lock. A transaction with one snapshot for all of its statements would read the old row all the same;
# FOR SHARE makes that a serialization failure; a snapshot from before the row was there is one as well.
_ENTER = f"""
CREATE OR REPLACE FUNCTION {SCHEMA}.enter() RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $frontdesk$
DECLARE present {SCHEMA}.side;
BEGIN
    PERFORM pg_advisory_xact_lock_shared({AdvisoryLock.TRANSFER_FENCE});
    IF current_setting('transaction_isolation') IN ('read committed', 'read uncommitted') THEN
        SELECT * INTO present FROM {SCHEMA}.side;
    ELSE
        SELECT * INTO present FROM {SCHEMA}.side FOR SHARE;
        IF NOT FOUND THEN
            RAISE serialization_failure USING
                MESSAGE = 'the move of this database began after the snapshot of this transaction';
        END IF;
    END IF;
    IF present.state = 'open' OR (present.state = 'standby' AND {_IS_RELAY})
        OR (present.state = 'closing' AND present.until < clock_timestamp()) THEN
        RETURN;
    END IF;
    RAISE EXCEPTION 'this database is being moved and takes no writes now' USING ERRCODE = '{FENCED_SQLSTATE}',
        HINT = 'Run the transaction again, on the side that is live.';
END $frontdesk$;
"""

_FENCE = f"""
CREATE OR REPLACE FUNCTION {SCHEMA}.fence() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $frontdesk$
BEGIN
    PERFORM {SCHEMA}.enter();
    RETURN NULL;
END $frontdesk$;

CREATE OR REPLACE FUNCTION {SCHEMA}.refuse_truncate() RETURNS trigger
LANGUAGE plpgsql AS $frontdesk$
BEGIN
    RAISE EXCEPTION 'TRUNCATE is refused while the database is being moved' USING
        ERRCODE = 'feature_not_supported', HINT = 'Use DELETE: it names the rows.';
END $frontdesk$;
"""

# Keys by their own types first: comparing them is cheaper than comparing arrays of text.
_CAPTURE = """
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp {settings} AS $frontdesk$
BEGIN
    IF {is_relay} THEN
        RETURN NULL;
    ELSIF TG_OP = 'INSERT' THEN
        INSERT INTO {schema}.marks (table_name, key) SELECT {name}, {key} FROM new_rows AS changed;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO {schema}.marks (table_name, key) SELECT {name}, {key} FROM old_rows AS changed;
    ELSE
        INSERT INTO {schema}.marks (table_name, key) SELECT {name}, {key}
        FROM (SELECT {columns} FROM old_rows UNION SELECT {columns} FROM new_rows) AS changed;
    END IF;
    RETURN NULL;
END $frontdesk$
"""
# Types whose text depends on no setting of the session; each SET costs every statement a microsecond.
_SETTING_INDEPENDENT_TYPES = (
    "bigint",
    "integer",
    "smallint",
    "text",
    "character varying",
    "uuid",
    "boolean",
    "numeric",
)

# Statement triggers with the changed rows: a merge of 20,000 rows calls them once.
_ON_EACH_TABLE = """
CREATE OR REPLACE TRIGGER {fence} BEFORE INSERT OR UPDATE OR DELETE ON {table}
    FOR EACH STATEMENT EXECUTE FUNCTION {schema}.fence();
CREATE OR REPLACE TRIGGER {truncate} BEFORE TRUNCATE ON {table}
    FOR EACH STATEMENT EXECUTE FUNCTION {schema}.refuse_truncate();
CREATE OR REPLACE TRIGGER {insert} AFTER INSERT ON {table} REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION {function}();
CREATE OR REPLACE TRIGGER {update} AFTER UPDATE ON {table}
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION {function}();
CREATE OR REPLACE TRIGGER {delete} AFTER DELETE ON {table} REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION {function}();
ALTER TABLE {table} ENABLE ALWAYS TRIGGER {fence}, ENABLE ALWAYS TRIGGER {truncate},
    ENABLE ALWAYS TRIGGER {insert}, ENABLE ALWAYS TRIGGER {update}, ENABLE ALWAYS TRIGGER {delete};
"""

_TABLES_WITHOUT_TRIGGERS = f"""
    SELECT moved.table_name FROM {SCHEMA}.moved
    WHERE (
        SELECT count(*) FROM pg_catalog.pg_trigger
            JOIN pg_catalog.pg_class ON pg_class.oid = tgrelid
            JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
        WHERE nspname || '.' || relname = moved.table_name AND tgname = ANY(%(names)s) AND tgenabled = 'A'
    ) < cardinality(%(names)s)
    ORDER BY position
"""
# Also of tables that are no longer recorded, so that nothing stays behind.
_OUR_TRIGGERS = """
    SELECT nspname, relname, array_agg(tgname::text ORDER BY tgname) FROM pg_catalog.pg_trigger
        JOIN pg_catalog.pg_class ON pg_class.oid = tgrelid
        JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
    WHERE tgname = ANY(%(names)s) AND NOT tgisinternal
    GROUP BY nspname, relname ORDER BY nspname, relname
"""


def lock_setup(connection: psycopg.Connection[Any]) -> None:
    """Wait for whoever else sets up this side: IF NOT EXISTS and OR REPLACE alone fail in a race."""
    connection.execute("SELECT pg_catalog.pg_advisory_xact_lock(%s)", (AdvisoryLock.TRANSFER_SETUP,))


def create_functions(connection: psycopg.Connection[Any]) -> None:
    """Make what all tables share. The caller's transaction."""
    connection.execute(_ENTER)
    connection.execute(_FENCE)


def add_triggers(connection: psycopg.Connection[Any], table: TableInfo) -> None:
    """Fence and capture one table, in a transaction of its own.

    It is one call: a network that is lost in the middle leaves no table locked.

    The lock that CREATE TRIGGER takes waits for every transaction that has written to the table: when the
    triggers stand, whatever was written without them is committed, or rolled back. Raises
    psycopg.errors.LockNotAvailable after the session's `lock_timeout`.
    """
    row = connection.execute(
        f"SELECT position FROM {SCHEMA}.moved WHERE table_name = %s",
        (table.name,),
    ).fetchone()
    assert row is not None, "recorded by `create`"  # noqa: S101
    function = sql.Identifier(SCHEMA, f"capture_{row[0]}")
    is_plain = all(kind.partition("(")[0] in _SETTING_INDEPENDENT_TYPES for kind in table.key_types)
    settings = (
        ""
        if is_plain
        else "SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres'"
        " SET extra_float_digits = 1 SET bytea_output = 'hex'"
    )
    names = {each: sql.Identifier(TRIGGER_PREFIX + each) for each in TRIGGERS}
    connection.execute(
        sql.SQL(
            f"SELECT pg_catalog.pg_advisory_xact_lock({AdvisoryLock.TRANSFER_SETUP});" + _CAPTURE + ";" + _ON_EACH_TABLE
        ).format(
            function=function,
            settings=sql.SQL(settings),
            is_relay=sql.SQL(_IS_RELAY),
            schema=sql.Identifier(SCHEMA),
            name=sql.Literal(table.name),
            key=table.text_key("changed"),
            columns=table.key_list(),
            table=table.identifier,
            **names,
        )
    )


def tables_without_triggers(connection: psycopg.Connection[Any]) -> list[str]:
    """The moved tables that are not, or no longer, fenced and captured."""
    names = [TRIGGER_PREFIX + each for each in TRIGGERS]
    return [name for (name,) in connection.execute(_TABLES_WITHOUT_TRIGGERS, {"names": names})]


def tables_with_triggers(connection: psycopg.Connection[Any]) -> list[tuple[str, str, list[str]]]:
    """Schema and name of each table that has any of the triggers, and which."""
    return connection.execute(
        _OUR_TRIGGERS, {"names": [TRIGGER_PREFIX + each for each in TRIGGERS]}
    ).fetchall()


def drop_triggers(connection: psycopg.Connection[Any]) -> None:
    """Take the triggers off every table, a transaction and a call each.

    Raises psycopg.errors.LockNotAvailable after the session's `lock_timeout`.
    """
    for schema, table, names in tables_with_triggers(connection):
        drop = sql.SQL("DROP TRIGGER {} ON {}")
        place = sql.Identifier(schema, table)
        connection.execute(sql.SQL("; ").join(drop.format(sql.Identifier(name), place) for name in names))
