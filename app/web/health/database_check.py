"""Database check for probes: is the database reachable, and does its schema match this release?"""

import logging
from contextlib import closing
from enum import Enum

import psycopg

from app.database.alembic_revision import read_revision
from app.database.live_database import AnyDatabase
from app.errors import FrontdeskError
from app.migrations import runner
from app.migrations.runner import SchemaState
from app.web.health.single_flight import SingleFlight

log = logging.getLogger(__name__)

STATEMENT_TIMEOUT_MS = 1_000  # probes wait for a shorter time: CHECK_TIMEOUT_SECONDS


class DatabaseStatus(Enum):
    """Result of a database check. HTTP responses contain the value and no details."""

    READY = "ready"
    UNREACHABLE = "database_unreachable"
    BEHIND = "schema_behind"
    UNKNOWN = "schema_unknown"  # newer than this release, not Frontdesk's schema, or not readable


_BY_STATE = {
    SchemaState.AT_HEAD: DatabaseStatus.READY,
    SchemaState.EMPTY: DatabaseStatus.BEHIND,
    SchemaState.BEHIND: DatabaseStatus.BEHIND,
    SchemaState.UNKNOWN: DatabaseStatus.UNKNOWN,
}


class DatabaseCheck:
    """Checks the database over a new connection each time.

    A connection from the pool would not do: the pool may be exhausted, and an open connection may be stale,
    while the database is fine.
    """

    def __init__(self, database: AnyDatabase) -> None:
        self._database = database
        self._last = DatabaseStatus.READY
        self._single_flight = SingleFlight(self._query_status, timeout_result=DatabaseStatus.UNREACHABLE)
        self.start = self._single_flight.start
        runner.revisions()  # reads and caches the migration files now, so that no probe waits for it

    def __call__(self) -> DatabaseStatus:
        """Return the status of the database, at most a second old.

        Returns UNREACHABLE if the check takes longer than CHECK_TIMEOUT_SECONDS.
        """
        return self._single_flight()

    def _query_status(self) -> DatabaseStatus:
        try:
            status, reason = _BY_STATE[runner.schema_state_at(self._read_revision())], ""
        except psycopg.OperationalError as error:
            # libpq's message names host, user and reason, never the password.
            status, reason = DatabaseStatus.UNREACHABLE, " ".join(str(error).split())
        except FrontdeskError as error:  # two databases are configured and the live side is unknown
            status, reason = DatabaseStatus.UNREACHABLE, error.message
        except psycopg.Error as error:
            status, reason = DatabaseStatus.UNKNOWN, f"SQLSTATE {error.sqlstate}"
        self._log(status, reason)
        return status

    def _read_revision(self) -> str | None:
        with closing(self._database.connect_outside_pool(STATEMENT_TIMEOUT_MS)) as connection:
            return read_revision(connection.execute)

    def _log(self, status: DatabaseStatus, reason: str) -> None:
        """Log a change of the status, not each check."""
        if status is not self._last:
            level = logging.INFO if status is DatabaseStatus.READY else logging.WARNING
            log.log(level, "Database check: %s %s", status.value, reason)
        self._last = status
