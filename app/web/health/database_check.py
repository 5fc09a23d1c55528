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

PATIENCE = 1_000  # milliseconds for a statement; callers wait less, see single_flight.py


class Verdict(Enum):
    """What a check found; the value is all that a caller over HTTP learns of it."""

    READY = "ready"
    UNREACHABLE = "database_unreachable"
    BEHIND = "schema_behind"
    UNKNOWN = "schema_unknown"  # newer than the code, not Frontdesk's, or not readable


_BY_STATE = {
    SchemaState.AT_HEAD: Verdict.READY,
    SchemaState.EMPTY: Verdict.BEHIND,
    SchemaState.BEHIND: Verdict.BEHIND,
    SchemaState.UNKNOWN: Verdict.UNKNOWN,
}


class DatabaseCheck:
    """Looks at the database over a connection of its own, made anew each time.

    The pool may be exhausted, and a connection that was kept may be stale: neither says anything about
    the database.
    """

    def __init__(self, database: AnyDatabase) -> None:
        self._database = database
        self._last = Verdict.READY
        self._single_flight = SingleFlight(self._look, too_late=Verdict.UNREACHABLE)
        self.start = self._single_flight.start
        runner.revisions()  # reading the chain of files takes a moment that no probe should wait for

    def __call__(self) -> Verdict:
        """The verdict, at most a second old, within the deadline of a probe."""
        return self._single_flight()

    def _look(self) -> Verdict:
        try:
            verdict, reason = _BY_STATE[runner.standing(_revision(self._database))], ""
        except psycopg.OperationalError as error:
            # libpq's words name host, user and reason, never the password.
            verdict, reason = Verdict.UNREACHABLE, " ".join(str(error).split())
        except FrontdeskError as error:  # of two databases, which one is live cannot be told
            verdict, reason = Verdict.UNREACHABLE, error.message
        except psycopg.Error as error:
            verdict, reason = Verdict.UNKNOWN, f"SQLSTATE {error.sqlstate}"
        self._log(verdict, reason)
        return verdict

    def _log(self, verdict: Verdict, reason: str) -> None:
        """Say it once when it changes, not with every probe."""
        if verdict is not self._last:
            level = logging.INFO if verdict is Verdict.READY else logging.WARNING
            log.log(level, "Database check: %s %s", verdict.value, reason)
        self._last = verdict


def _revision(database: AnyDatabase) -> str | None:
    with closing(database.connect_alone(PATIENCE)) as connection:
        try:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        except psycopg.errors.UndefinedTable:
            return None
        return row and row[0]
