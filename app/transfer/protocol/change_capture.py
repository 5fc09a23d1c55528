"""Fence and change capture: the functions and triggers on every transferred table.

The fence rejects writes on a side that is not open. Capture adds the keys of changed rows to the change log,
in the transaction that changes the rows. This holds for the writes of every program.
"""

from psycopg import sql

from app.database.advisory_locks import AdvisoryLock
from app.database.connection import Connection
from app.transfer.protocol.tables import SCHEMA, TableInfo

FENCED_SQLSTATE = "FD001"  # raised by the fence; app/errors.py maps it to FencedError

TRIGGERS = ("fence", "truncate", "insert", "update", "delete")  # trigger names without the prefix
TRIGGER_PREFIX = "frontdesk_transfer_"

# True only in the relay's transaction on the standby: the setting holds the id of that transaction, and the
# session's role is the owner of these functions, which is the role that ran `start`.
_IS_RELAY = (
    "coalesce(current_setting('frontdesk_transfer.relay', true), '') <> ''"
    " AND current_setting('frontdesk_transfer.relay', true) = pg_current_xact_id()::text"
    " AND session_user = current_user"
)

# `enter()` raises FD001 unless the calling transaction may write here. Its shared advisory lock keeps the
# side from closing until the transaction ends; `close` and `hand_over` take the lock exclusively. The
# function is VOLATILE so that each of its statements has its own snapshot: the snapshot that reads the row is
# then taken after the lock. A REPEATABLE READ or SERIALIZABLE transaction has one snapshot for all statements
# and would still read the old row. There, FOR SHARE raises a serialization failure if the row has changed
# since the snapshot, and the function raises one if the snapshot is older than the row.
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
                MESSAGE = 'the transfer of this database began after the snapshot of this transaction';
        END IF;
    END IF;
    IF present.state = 'open' OR (present.state = 'standby' AND {_IS_RELAY})
        OR (present.state = 'closing' AND present.until < clock_timestamp()) THEN
        RETURN;
    END IF;
    RAISE EXCEPTION 'this database is being transferred and accepts no writes now' USING
        ERRCODE = '{FENCED_SQLSTATE}', HINT = 'Run the transaction again, on the side that is live.';
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
    RAISE EXCEPTION 'TRUNCATE is refused while the database is being transferred' USING
        ERRCODE = 'feature_not_supported', HINT = 'Use DELETE: change capture can record its rows.';
END $frontdesk$;
"""

# An UPDATE records the old and the new keys. UNION compares them in their own types, which is cheaper than
# comparing arrays of text.
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
# Types whose text form depends on no session setting. Functions for keys of only these types need no SET
# clauses, each of which costs every statement a microsecond.
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

# Statement-level triggers with transition tables: a merge of 20,000 rows calls them once.
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
# Include tables that are no longer recorded in `moved`, so that `finish` leaves no trigger behind.
_TRANSFER_TRIGGERS = """
    SELECT nspname, relname, array_agg(tgname::text ORDER BY tgname) FROM pg_catalog.pg_trigger
        JOIN pg_catalog.pg_class ON pg_class.oid = tgrelid
        JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
    WHERE tgname = ANY(%(names)s) AND NOT tgisinternal
    GROUP BY nspname, relname ORDER BY nspname, relname
"""


def lock_setup(connection: Connection) -> None:
    """Serialise set-up on this side until the transaction ends.

    Concurrent CREATE ... IF NOT EXISTS and CREATE OR REPLACE statements can fail otherwise.
    """
    connection.execute("SELECT pg_catalog.pg_advisory_xact_lock(%s)", (AdvisoryLock.TRANSFER_SETUP,))


def create_functions(connection: Connection) -> None:
    """Create the fence functions that all tables share, in the caller's transaction."""
    connection.execute(_ENTER)
    connection.execute(_FENCE)


def add_triggers(connection: Connection, table: TableInfo) -> None:
    """Create the fence and capture triggers of one table, in a transaction of their own.

    All statements are one message, so a lost connection leaves no table locked.

    CREATE TRIGGER waits for every transaction that has written to the table. Once the triggers exist, every
    write that was not captured is therefore committed or rolled back.

    Raises:
        psycopg.errors.LockNotAvailable: The lock was not free within the session's `lock_timeout`.
    """
    row = connection.execute(
        f"SELECT position FROM {SCHEMA}.moved WHERE table_name = %s",
        (table.name,),
    ).fetchone()
    assert row is not None, "control_schema.create records every table"  # noqa: S101
    function = sql.Identifier(SCHEMA, f"capture_{row[0]}")
    is_plain = all(kind.partition("(")[0] in _SETTING_INDEPENDENT_TYPES for kind in table.key_types)
    settings = (
        ""
        if is_plain
        else "SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres'"
        " SET extra_float_digits = 1 SET bytea_output = 'hex'"
    )
    names = {name: sql.Identifier(TRIGGER_PREFIX + name) for name in TRIGGERS}
    connection.execute(
        sql.SQL(
            f"SELECT pg_catalog.pg_advisory_xact_lock({AdvisoryLock.TRANSFER_SETUP});"
            + _CAPTURE
            + ";"
            + _ON_EACH_TABLE
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


def tables_without_triggers(connection: Connection) -> list[str]:
    """Return the names of the transferred tables that lack an enabled fence or capture trigger."""
    names = [TRIGGER_PREFIX + name for name in TRIGGERS]
    return [name for (name,) in connection.execute(_TABLES_WITHOUT_TRIGGERS, {"names": names})]


def tables_with_triggers(connection: Connection) -> list[tuple[str, str, list[str]]]:
    """Return (schema, table, trigger names) of each table that has any of the transfer's triggers."""
    return connection.execute(
        _TRANSFER_TRIGGERS, {"names": [TRIGGER_PREFIX + name for name in TRIGGERS]}
    ).fetchall()


def drop_triggers(connection: Connection) -> None:
    """Drop the transfer's triggers, with one message and one transaction per table.

    Raises:
        psycopg.errors.LockNotAvailable: A lock was not free within the session's `lock_timeout`.
    """
    for schema, table, names in tables_with_triggers(connection):
        drop = sql.SQL("DROP TRIGGER {} ON {}")
        qualified = sql.Identifier(schema, table)
        connection.execute(sql.SQL("; ").join(drop.format(sql.Identifier(name), qualified) for name in names))
