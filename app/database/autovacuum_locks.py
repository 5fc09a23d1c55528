"""Autovacuum lets go of a table for whoever waits for it a second, and works on a large one for hours."""

from contextlib import suppress
from typing import Any

import psycopg

LOCK_TIMEOUT_MS = 3_000  # more than deadlock_timeout, which is 1 s

# Of locks everybody may ask; whose process is a vacuum only the powerful can see.
_VACUUMED_TABLES = """
    SELECT DISTINCT relation::pg_catalog.regclass::text
    FROM pg_catalog.pg_locks JOIN pg_catalog.pg_class ON pg_class.oid = relation
    WHERE mode = 'ShareUpdateExclusiveLock' AND granted AND relkind = 'r'
        AND relnamespace NOT IN ('pg_catalog'::pg_catalog.regnamespace, 'pg_toast'::pg_catalog.regnamespace)
        AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
"""


def cancel_autovacuum(connection: psycopg.Connection[Any]) -> None:
    """End what autovacuum does to the tables of this database, for those who cannot wait so long.

    They may not, because all writers would queue behind their lock; this lock waits without stopping any
    of them. A VACUUM that somebody started stays, and so does one against wraparound.
    """
    for (table,) in connection.execute(_VACUUMED_TABLES).fetchall():
        with suppress(psycopg.Error), connection.transaction():  # the next attempt tells what is in its way
            connection.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
            connection.execute(f"LOCK TABLE {table} IN SHARE UPDATE EXCLUSIVE MODE")
