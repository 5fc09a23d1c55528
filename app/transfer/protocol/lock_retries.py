"""Exclusive locks on tables that others write to: many short attempts, so that nobody queues behind one."""

from collections.abc import Callable
from typing import Any

import psycopg
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_random_exponential

from app.database import autovacuum_locks
from app.errors import ConflictError
from app.transfer.protocol.tables import SCHEMA

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


def _describe_lock_holders(connection: psycopg.Connection[Any]) -> str:
    """Who holds the locks: process, application and age of the transaction, no statement's text."""
    rows = connection.execute(
        "SELECT DISTINCT pid, application_name, extract(epoch FROM clock_timestamp() - xact_start)::int"
        " FROM pg_catalog.pg_locks LEFT JOIN pg_catalog.pg_stat_activity USING (pid)"
        " JOIN pg_catalog.pg_class ON pg_class.oid = relation"
        " JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace"
        f" JOIN {SCHEMA}.moved ON moved.table_name = nspname || '.' || relname"
        " WHERE granted AND mode = 'RowExclusiveLock' AND pid <> pg_backend_pid() ORDER BY 3 DESC NULLS LAST"
    ).fetchall()
    if not rows:
        return "try again at a quieter time"
    listed = ", ".join(f"{pid} ({application or 'unnamed'}, {age} s)" for pid, application, age in rows[:5])
    return f"transactions that have written do not end, in the server's processes {listed}"
