"""A server on which autovacuum has taken hold of a table, and will not be done with it for minutes."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from tests.processes import wait_until
from tests.servers import execute


@contextmanager
def vacuumed(url: str, table: str) -> Iterator[None]:
    """Autovacuum is at work on `table` when the block begins. The server must be the test's own."""
    settings = "autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1"
    execute(
        url,
        "ALTER SYSTEM SET autovacuum_naptime = '1s'",
        "SELECT pg_reload_conf()",
        f"ALTER TABLE {table} SET ({settings}, autovacuum_vacuum_threshold = 1)",
        f"UPDATE {table} SET updated_at = now()",
    )
    at_work = f"SELECT count(*) FROM pg_stat_progress_vacuum WHERE relid = '{table}'::regclass"
    with psycopg.connect(url, autocommit=True) as connection:
        wait_until(lambda: connection.execute(at_work).fetchone() == (1,))
        yield
