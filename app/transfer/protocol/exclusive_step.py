"""Exclusive locks on tables with concurrent writers, in attempts so short that writers are not blocked."""

from collections.abc import Callable

import psycopg
from psycopg import sql

from app.database import autovacuum_locks
from app.database.advisory_locks import AdvisoryLock
from app.database.connection import Connection
from app.database.lock_retries import lock_error, with_lock_retries
from app.database.sql_files import read_script
from app.errors import ConflictError

LOCK_TIMEOUT = "200ms"  # short, because every writer of the table queues behind a waiting CREATE TRIGGER
LOCK_ATTEMPTS = 60
MAX_RETRY_PAUSE_SECONDS = 1.0


def run_exclusive_step(connection: Connection, step: Callable[[], object]) -> None:
    """Run a step that needs an exclusive lock, in up to LOCK_ATTEMPTS short attempts.

    The session's `lock_timeout` should be LOCK_TIMEOUT. Autovacuum workers that hold locks are cancelled
    between attempts. Raises ConflictError, with the sessions that hold the locks, if every attempt fails.
    """
    try:
        with_lock_retries(
            step,
            attempts=LOCK_ATTEMPTS,
            max_pause=MAX_RETRY_PAUSE_SECONDS,
            before_retry=lambda: autovacuum_locks.cancel_autovacuum(connection),
        )
    except psycopg.OperationalError as error:
        if lock_error(error) is None:
            raise
        raise ConflictError(f"A table stays locked: {_describe_lock_holders(connection)}.") from error


_LOCK_HOLDERS = sql.SQL(read_script(__package__, "exclusive_step.sql")).format(
    setup_lock=AdvisoryLock.TRANSFER_SETUP.value
)


def _describe_lock_holders(connection: Connection) -> str:
    """Describe the transactions that hold the locks: process id, application and age of each."""
    rows = connection.execute(_LOCK_HOLDERS).fetchall()
    if not rows:
        return "try again at a quieter time"
    listed = ", ".join(f"{pid} ({application or 'unnamed'}, {age} s)" for pid, application, age in rows[:5])
    return f"transactions with writes have not ended, in the server's processes {listed}"
