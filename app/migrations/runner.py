"""Runner of the Alembic migrations: one deploy at a time, retries after lock timeouts, database state."""

import argparse
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.exc import DBAPIError, PendingRollbackError
from sqlalchemy.pool import NullPool

from app.database.advisory_locks import AdvisoryLock
from app.database.alembic_revision import read_revision
from app.database.connection import UNLIMITED, connect
from app.database.lock_retries import lock_error, with_lock_retries

ALEMBIC_INI = Path(__file__).resolve().parents[2] / "alembic.ini"

# A child of Alembic's logger, so that its messages appear in Alembic's log output.
log = logging.getLogger("alembic.frontdesk")

# While DDL waits for a long-running reader, all writers queue behind the DDL. So no statement waits longer
# than this for a lock; the revision is then retried from its last commit.
LOCK_TIMEOUT_MS = 100
LOCK_ATTEMPTS = 40
MAX_RETRY_PAUSE_SECONDS = 2.0

LOCK_POLL_SECONDS = 0.2

# Defaults of the server or of the role must not abort a long build or change the meaning of timestamps.
SESSION_SETTINGS = UNLIMITED | {"lock_timeout": str(LOCK_TIMEOUT_MS), "TimeZone": "UTC"}


class MigrationRefused(CommandError):
    """A migration was refused; the database remains at the last finished revision.

    `report` has one line for each row, group or object that prevents the migration: table, company and id,
    no personal data.
    """

    def __init__(self, summary: str, report: tuple[str, ...] = ()) -> None:
        self.summary = summary
        self.report = report
        super().__init__("\n".join((summary, *report)))


class SchemaState(Enum):
    """The state of a database relative to the migrations of this code."""

    EMPTY = "empty"  # no revision: a new database, or one never managed by Alembic
    BEHIND = "behind"
    AT_HEAD = "at head"
    UNKNOWN = "unknown"  # a revision that this code does not have: from newer code, or from another program


@dataclass(frozen=True)
class UpgradeResult:
    """The revisions before and after `upgrade`."""

    before: str | None
    after: str | None

    @property
    def changed(self) -> bool:
        return self.before != self.after


def alembic_config(url: str | None = None, options: Mapping[str, str] | None = None) -> Config:
    """Return Alembic's configuration.

    `url` (libpq) replaces DATABASE_URL; `options` are the `-x` options of the command line.
    """
    result = Config(ALEMBIC_INI, cmd_opts=None)
    if url is not None:
        result.attributes["url"] = url
    if options:
        result.cmd_opts = argparse.Namespace(x=[f"{key}={value}" for key, value in options.items()])
    return result


def script_directory() -> ScriptDirectory:
    return ScriptDirectory.from_config(alembic_config())


def head() -> str:
    """Return the newest revision that this code knows."""
    revision = script_directory().get_current_head()
    if revision is None:
        raise CommandError("There are no migrations.")
    return revision


def schema_state(connection: Connection) -> SchemaState:
    """Return the state of the database's revision. Passes on the driver's exceptions."""
    return schema_state_at(read_revision(connection.exec_driver_sql))


def schema_state_at(revision: str | None) -> SchemaState:
    """Return the state of a database at `revision`; None means no revision."""
    if revision is None:
        return SchemaState.EMPTY
    if revision not in revisions():
        return SchemaState.UNKNOWN
    return SchemaState.AT_HEAD if revision == revisions()[0] else SchemaState.BEHIND


@cache
def revisions() -> tuple[str, ...]:
    """Return all revisions of this code, newest first. The files are read once."""
    return tuple(script.revision for script in script_directory().walk_revisions())


def is_known_revision(scripts: ScriptDirectory, revision: str) -> bool:
    return any(script.revision == revision for script in scripts.walk_revisions())


def upgrade(url: str, revision: str = "head", options: Mapping[str, str] | None = None) -> UpgradeResult:
    """Upgrade the database at `url` (libpq) to `revision`; `options` are the `-x` options.

    Raises:
        MigrationRefused: rows, other objects or an unknown revision prevent the upgrade.
        CommandError: the database cannot be reached, or a statement failed.
    """
    before = _revision_at(url)
    command.upgrade(alembic_config(url, options), revision)
    return UpgradeResult(before, _revision_at(url))


def _revision_at(url: str) -> str | None:
    with migration_engine(url) as engine, engine.connect() as connection:
        return read_revision(connection.exec_driver_sql)


@contextmanager
def migration_engine(url: str) -> Iterator[Engine]:
    """Yield an engine whose connections have the session options of a migration; connections are not pooled.

    libpq parses the URL, so that every form that libpq accepts works.
    """

    def open_connection() -> psycopg.Connection:
        try:
            return connect(url, "frontdesk-migrations", SESSION_SETTINGS, autocommit=False)
        except psycopg.OperationalError as error:
            # libpq's message contains host, user and reason, but never the password.
            raise CommandError(f"The database cannot be reached: {' '.join(str(error).split())}") from None

    engine = create_engine(
        "postgresql+psycopg://", creator=open_connection, poolclass=NullPool, hide_parameters=True
    )
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def migration_lock(engine: Engine, *, wait: bool = True) -> Iterator[Connection]:
    """Acquire the advisory lock of migrations on an autocommit connection, and yield that connection.

    The lock is polled: a session that waits inside `pg_advisory_lock` holds a snapshot, and a concurrent
    index build of the lock's holder would wait for that snapshot, which is a deadlock. Raises CommandError
    if another session holds the lock and `wait` is False.
    """
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        is_logged = False
        while not connection.exec_driver_sql(
            f"SELECT pg_try_advisory_lock({AdvisoryLock.MIGRATIONS})"
        ).scalar():
            if not wait:
                raise CommandError(
                    "Another deploy or de-duplication is running on this database;"
                    " try again when it has finished."
                )
            if not is_logged:
                log.info("Another deploy is migrating this database; waiting for it to finish")
                is_logged = True
            time.sleep(LOCK_POLL_SECONDS)
        yield connection  # the lock is released when the connection closes, also after a kill -9


def retry_on_lock_timeout(
    attempt: Callable[[], None],
    read_revision: Callable[[], str | None],
    before_retry: Callable[[], None] = lambda: None,
) -> None:
    """Call `attempt` until it does not fail because of a lock timeout or deadlock.

    At most LOCK_ATTEMPTS attempts are made per revision: the count restarts when `read_revision`, which
    returns the database's revision, returns a new value. `before_retry` is called after each pause.

    Raises CommandError if all attempts fail, and for other database errors. Its message has no detail lines
    of PostgreSQL, because they may contain values of rows.
    """
    try:
        with_lock_retries(
            attempt,
            attempts=LOCK_ATTEMPTS,
            max_pause=MAX_RETRY_PAUSE_SECONDS,
            before_retry=before_retry,
            progress=read_revision,
            logger=log,
        )
    except (DBAPIError, PendingRollbackError) as error:
        raise CommandError(
            f"{_failure_reason(error)}. The database is at revision {read_revision()};"
            " run the same command again to continue."
        ) from error


def _failure_reason(error: DBAPIError | PendingRollbackError) -> str:
    if lock_error(error):
        return f"Other sessions hold locks and do not release them ({LOCK_ATTEMPTS} attempts)"
    if isinstance(error, DBAPIError) and isinstance(error.orig, psycopg.Error) and error.orig.sqlstate:
        return f"A statement failed ({error.orig.sqlstate}): {error.orig.diag.message_primary}"
    return "The connection was lost"  # in autocommit mode, SQLAlchemy raises PendingRollbackError for this
