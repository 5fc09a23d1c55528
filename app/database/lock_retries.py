"""Retries of work that another session's lock prevents.

Every writer of a table queues behind a session that waits for an exclusive lock on it. So such a session
waits briefly (`lock_timeout`) and tries again later.
"""

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

import psycopg
from sqlalchemy.exc import DBAPIError

T = TypeVar("T")

log = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 0.1  # upper limit; it doubles with each attempt


def lock_error(error: Exception) -> psycopg.Error | None:
    """Return the lock timeout or deadlock that `error` is or that SQLAlchemy has wrapped in it, else None."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(cause, (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)):
        return cause
    return None


def with_lock_retries(
    attempt: Callable[[], T],
    *,
    attempts: int,
    max_pause: float,
    before_retry: Callable[[], object] = lambda: None,
    progress: Callable[[], object] = lambda: None,
    logger: logging.Logger = log,
) -> T:
    """Call `attempt` until it does not fail because of a lock timeout or deadlock; return its result.

    Raises the error of the last attempt, and every other error at once.

    Args:
        attempt: The work; it leaves no transaction open when it fails.
        attempts: Number of attempts; the count restarts when `progress` returns a new value.
        max_pause: Longest pause between two attempts, in seconds.
        before_retry: Called after each pause.
        progress: Returns a value that changes when a failed attempt has achieved part of the work.
        logger: Logger of a line before each pause.
    """
    tried, reached = 0, progress()
    while True:
        try:
            return attempt()
        except (psycopg.Error, DBAPIError) as error:
            if (locked := lock_error(error)) is None:
                raise
            now_reached = progress()
            tried, reached = (tried + 1 if now_reached == reached else 1), now_reached
            if tried >= attempts:
                raise
            pause = min(max_pause, FIRST_PAUSE_SECONDS * 2 ** (tried - 1))
            pause *= random.uniform(0.5, 1.0)  # noqa: S311 - jitter
            logger.info("Waiting for a lock (%s); next attempt in %.1f s", locked.diag.message_primary, pause)
        time.sleep(pause)
        before_retry()
