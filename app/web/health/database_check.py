"""Whether the database can be reached and its schema is the one that this code expects."""

import logging
from contextlib import closing
from enum import Enum

import psycopg

from app.database.live_database import AnyDatabase
from app.errors import FrontdeskError
from app.migrations import runner
from app.migrations.runner import SchemaState
from app.web.health.single_flight import SingleFlight

log = logging.getLogger(__name__)

STATEMENT_TIMEOUT_MS = 1_000  # milliseconds for a statement; callers wait less, see single_flight.py


class DatabaseStatus(Enum):
    """What a check found; the value is all that a caller over HTTP learns of it."""

    READY = "ready"
    UNREACHABLE = "database_unreachable"
    BEHIND = "schema_behind"
    UNKNOWN = "schema_unknown"  # newer than the code, not Frontdesk's, or not readable


_BY_STATE = {
    SchemaState.AT_HEAD: DatabaseStatus.READY,
    SchemaState.EMPTY: DatabaseStatus.BEHIND,
    SchemaState.BEHIND: DatabaseStatus.BEHIND,
    SchemaState.UNKNOWN: DatabaseStatus.UNKNOWN,
}


class DatabaseCheck:
    """Looks at the database over a connection of its own, made anew each time.

    The pool may be exhausted, and a connection that was kept may be stale: neither says anything about
    the database.
    """

    def __init__(self, database: AnyDatabase) -> None:
        self._database = database
        self._last = DatabaseStatus.READY
        self._single_flight = SingleFlight(self._query_status, timeout_result=DatabaseStatus.UNREACHABLE)
        self.start = self._single_flight.start
        runner.revisions()  # reading the chain of files takes a moment that no probe should wait for

    def __call__(self) -> DatabaseStatus:
        """The verdict, at most a second old, within the deadline of a probe."""
        return self._single_flight()

    def _query_status(self) -> DatabaseStatus:
        try:
            verdict, reason = _BY_STATE[runner.schema_state_at(_revision(self._database))], ""
        except psycopg.OperationalError as error:
            # libpq's words name host, user and reason, never the password.
            verdict, reason = DatabaseStatus.UNREACHABLE, " ".join(str(error).split())
        except FrontdeskError as error:  # of two databases, which one is live cannot be told
            verdict, reason = DatabaseStatus.UNREACHABLE, error.message
        except psycopg.Error as error:
            verdict, reason = DatabaseStatus.UNKNOWN, f"SQLSTATE {error.sqlstate}"
        self._log(verdict, reason)
        return verdict

    def _log(self, status: DatabaseStatus, reason: str) -> None:
        """Say it once when it changes, not with every probe."""
        if status is not self._last:
            level = logging.INFO if status is DatabaseStatus.READY else logging.WARNING
            log.log(level, "Database check: %s %s", status.value, reason)
        self._last = status


def _revision(database: AnyDatabase) -> str | None:
    with closing(database.connect_outside_pool(STATEMENT_TIMEOUT_MS)) as connection:
        try:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        except psycopg.errors.UndefinedTable:
            return None
        return row and row[0]
