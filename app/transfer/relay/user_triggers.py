"""Triggers that other programs have defined on the tables; they must not fire when rows are applied."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from psycopg import sql

from app.database.connection import Connection
from app.transfer.protocol.change_capture import TRIGGER_PREFIX
from app.transfer.protocol.pipeline import Statement, StatementBatch
from app.transfer.protocol.tables import TableInfo

_ENABLED = """
    SELECT nspname || '.' || relname, tgname, tgenabled::text FROM pg_catalog.pg_trigger
        JOIN pg_catalog.pg_class ON pg_class.oid = tgrelid
        JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
    WHERE NOT tgisinternal AND tgenabled IN ('O', 'A') AND NOT starts_with(tgname, {prefix})
        AND nspname || '.' || relname = ANY({tables})
    ORDER BY 1, 2
"""
_ENABLE_CLAUSES = {"O": "ENABLE", "A": "ENABLE ALWAYS"}

UserTrigger = tuple[str, str, str]  # table, trigger name, and mode as in pg_trigger.tgenabled


def enabled_triggers_query(tables: Sequence[TableInfo]) -> sql.Composed:
    """Return a query for the enabled user triggers of the tables."""
    names = [table.name for table in tables]
    return sql.SQL(_ENABLED).format(prefix=sql.Literal(TRIGGER_PREFIX), tables=sql.Literal(names))


def find_user_triggers(connection: Connection, tables: Sequence[TableInfo]) -> list[UserTrigger]:
    """Return the enabled user triggers of the tables."""
    return connection.execute(enabled_triggers_query(tables)).fetchall()


def disable_and_enable_statements(
    triggers: Sequence[UserTrigger], tables: Sequence[TableInfo]
) -> tuple[list[Statement], list[Statement]]:
    """Return the statements that disable the triggers of `tables`, and the statements to enable them again.

    Execute both in one transaction: then other sessions never see the triggers disabled. The role must own
    the tables; `session_replication_role` would need a superuser. Deferred constraints are checked before the
    triggers are enabled, because PostgreSQL cannot alter a table with pending checks.
    """
    by_name = {table.name: table.identifier for table in tables}
    selected = [(by_name[table], name, mode) for table, name, mode in triggers if table in by_name]
    off = [_alter(table, "DISABLE", name) for table, name, _ in selected]
    on = [_alter(table, _ENABLE_CLAUSES[mode], name) for table, name, mode in selected]
    return [*off], [*["SET CONSTRAINTS ALL IMMEDIATE"] * bool(on), *on]


@contextmanager
def triggers_disabled(connection: Connection, tables: Sequence[TableInfo]) -> Iterator[None]:
    """Disable the user triggers of the tables inside the caller's transaction. Raises psycopg errors."""
    off, on = disable_and_enable_statements(find_user_triggers(connection, tables), tables)
    StatementBatch(*off).execute(connection)
    yield
    StatementBatch(*on).execute(connection)


def _alter(table: sql.Identifier, verb: str, trigger: str) -> sql.Composed:
    return sql.SQL("ALTER TABLE {} {} TRIGGER {}").format(table, sql.SQL(verb), sql.Identifier(trigger))
