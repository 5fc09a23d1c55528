"""Fence and change capture: the functions and triggers on every transferred table.

The fence rejects writes on a side that is not open. Capture adds the keys of changed rows to the change log,
in the transaction that changes the rows. This holds for the writes of every program.
"""

from psycopg import sql

from app.database.advisory_locks import AdvisoryLock
from app.database.connection import Connection
from app.database.sql_files import read_queries
from app.transfer.protocol.tables import SCHEMA, TableInfo

FENCED_SQLSTATE = "FD001"  # raised by the fence; app/errors.py maps it to FencedError

TRIGGERS = ("fence", "truncate", "insert", "update", "delete")  # trigger names without the prefix
TRIGGER_PREFIX = "frontdesk_transfer_"

_QUERIES = read_queries(__package__, "change_capture.sql")

# True only in the relay's transaction on the standby: the setting holds the id of that transaction, and the
# session's role is the owner of these functions, which is the role that ran `start`.
_IS_RELAY = (
    "coalesce(current_setting('frontdesk_transfer.relay', true), '') <> ''"
    " AND current_setting('frontdesk_transfer.relay', true) = pg_current_xact_id()::text"
    " AND session_user = current_user"
)

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


def lock_setup(connection: Connection) -> None:
    """Serialise set-up on this side until the transaction ends.

    Concurrent CREATE ... IF NOT EXISTS and CREATE OR REPLACE statements can fail otherwise.
    """
    connection.execute("SELECT pg_catalog.pg_advisory_xact_lock(%s)", (AdvisoryLock.TRANSFER_SETUP,))


def create_functions(connection: Connection) -> None:
    """Create the fence functions that all tables share, in the caller's transaction."""
    connection.execute(
        sql.SQL(_QUERIES["functions"]).format(
            fence_lock=AdvisoryLock.TRANSFER_FENCE.value,
            fenced_sqlstate=FENCED_SQLSTATE,
            is_relay=sql.SQL(_IS_RELAY),
        )
    )


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
        sql.SQL(_QUERIES["capture of a table"]).format(
            setup_lock=AdvisoryLock.TRANSFER_SETUP.value,
            schema=sql.Identifier(SCHEMA),
            function=function,
            settings=sql.SQL(settings),
            is_relay=sql.SQL(_IS_RELAY),
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
    return [name for (name,) in connection.execute(_QUERIES["tables without triggers"], {"names": names})]


def tables_with_triggers(connection: Connection) -> list[tuple[str, str, list[str]]]:
    """Return (schema, table, trigger names) of each table that has any of the transfer's triggers."""
    return connection.execute(
        _QUERIES["transfer triggers"], {"names": [TRIGGER_PREFIX + name for name in TRIGGERS]}
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
