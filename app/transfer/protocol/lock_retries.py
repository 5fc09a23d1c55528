"""Exclusive locks on tables that others write to: many short attempts, so that nobody queues behind one."""

from collections.abc import Callable
from typing import Any

import psycopg
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_random_exponential

from app.database import autovacuum_locks
from app.database.advisory_locks import AdvisoryLock
from app.errors import ConflictError

LOCK_TIMEOUT = "200ms"  # behind a trigger that waits for its lock, every writer of the table waits, too
LOCK_ATTEMPTS = 60


def with_lock_retries(connection: psycopg.Connection[Any], step: Callable[[], object]) -> None:
    """Run a step that needs an exclusive lock, in many short attempts. Raises ConflictError in the end.

    The session's `lock_timeout` should be LOCK_TIMEOUT.
    """

    def give_up(state: RetryCallState) -> object:
        raise ConflictError(f"A table stays locked: {_describe_lock_holders(connection)}.")

    Retrying(
        retry=retry_if_exception_type((psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)),
        stop=stop_after_attempt(LOCK_ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.05, max=1),
        before_sleep=lambda _: autovacuum_locks.cancel_autovacuum(connection),
        retry_error_callback=give_up,
    )(step)


# Sessions that hold what a step waits for: a write lock on a table, or the set-up lock.
_LOCK_HOLDERS = f"""
    SELECT DISTINCT pid, application_name, extract(epoch FROM clock_timestamp() - xact_start)::int
    FROM pg_catalog.pg_locks LEFT JOIN pg_catalog.pg_stat_activity USING (pid)
        LEFT JOIN pg_catalog.pg_class ON pg_class.oid = relation
        LEFT JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
    WHERE granted AND pid <> pg_backend_pid()
        AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
        AND (
            (mode = 'RowExclusiveLock' AND relkind IN ('r', 'p') AND nspname NOT LIKE 'pg\\_%')
            OR (locktype = 'advisory' AND objsubid = 1
                AND (classid::bigint << 32) | objid::bigint = {AdvisoryLock.TRANSFER_SETUP})
        )
    ORDER BY 3 DESC NULLS LAST
"""


def _describe_lock_holders(connection: psycopg.Connection[Any]) -> str:
    """Return the processes, applications and ages of the transactions that hold the locks."""
    rows = connection.execute(_LOCK_HOLDERS).fetchall()
    if not rows:
        return "try again at a quieter time"
    listed = ", ".join(f"{pid} ({application or 'unnamed'}, {age} s)" for pid, application, age in rows[:5])
    return f"transactions that have written do not end, in the server's processes {listed}"
