"""Cancel autovacuum workers that block DDL (PostgreSQL cancels them after deadlock_timeout)."""

from contextlib import suppress

import psycopg

from app.database.connection import Connection

LOCK_TIMEOUT_MS = 3_000  # longer than deadlock_timeout, whose default is 1 s

# pg_locks is readable by every role. pg_stat_activity is not enough: without special rights it hides
# which processes are autovacuum workers, so the query selects tables by the lock mode of a vacuum.
_VACUUMED_TABLES = """
    SELECT DISTINCT relation::pg_catalog.regclass::text
    FROM pg_catalog.pg_locks JOIN pg_catalog.pg_class ON pg_class.oid = relation
    WHERE mode = 'ShareUpdateExclusiveLock' AND granted AND relkind = 'r'
        AND relnamespace NOT IN ('pg_catalog'::pg_catalog.regnamespace, 'pg_toast'::pg_catalog.regnamespace)
        AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
"""


def cancel_autovacuum(connection: Connection) -> None:
    """Make running autovacuum workers of this database yield their table locks.

    A vacuum of a large table can take hours. DDL that waits for it with an exclusive lock request makes all
    writers queue behind that request. This function requests SHARE UPDATE EXCLUSIVE instead, which conflicts
    with autovacuum but not with writers; PostgreSQL cancels the autovacuum worker after deadlock_timeout.
    A manual VACUUM and an autovacuum that prevents wraparound continue. Errors are ignored.
    """
    for (table,) in connection.execute(_VACUUMED_TABLES).fetchall():
        # The DDL that follows reports a lock conflict.
        with suppress(psycopg.Error), connection.transaction():
            connection.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
            connection.execute(f"LOCK TABLE {table} IN SHARE UPDATE EXCLUSIVE MODE")
