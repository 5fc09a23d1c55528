"""Running the Alembic chain: one deploy at a time, with lock retries, and where a database stands."""

import argparse
import logging
import random
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
from app.database.connection import CLIENT_ENCODING, append_connection_options, disable_transaction_timeout

ALEMBIC_INI = Path(__file__).resolve().parents[2] / "alembic.ini"

# Logged under Alembic's own name, so that an operator reads one stream of lines.
log = logging.getLogger("alembic.frontdesk")

# Behind a long reader, DDL queues and every writer queues behind it. So no statement waits longer than
# this for a lock, and the revision is tried again from its last commit.
LOCK_TIMEOUT_MS = 100
LOCK_ATTEMPTS = 40
LOCK_NOT_AVAILABLE = "55P03"
DEADLOCK_DETECTED = "40P01"
MAX_RETRY_PAUSE_SECONDS = 2.0  # seconds

LOCK_POLL_SECONDS = 0.2  # seconds

# Nothing that a server or a role sets by default may cut a long build short or change a meaning.
CONNECTION_OPTIONS = (
    f"-c lock_timeout={LOCK_TIMEOUT_MS} -c statement_timeout=0 -c idle_in_transaction_session_timeout=0"
    " -c idle_session_timeout=0 -c timezone=UTC"
)


class MigrationRefused(CommandError):
    """The chain stopped on purpose; the database stays as the last finished revision left it.

    `report` holds a line for each row or group in the way: table, company and id, no personal data.
    """

    def __init__(self, summary: str, report: tuple[str, ...] = ()) -> None:
        self.summary = summary
        self.report = report
        super().__init__("\n".join((summary, *report)))


class SchemaState(Enum):
    """Where a database stands on the chain of this code."""

    EMPTY = "empty"  # no revision at all: new, or never under Alembic
    BEHIND = "behind"
    AT_HEAD = "at head"
    UNKNOWN = "unknown"  # a revision that this code does not have: newer than the code, or foreign


@dataclass(frozen=True)
class UpgradeResult:
    """What `upgrade` did: the revisions before and after."""

    before: str | None
    after: str | None

    @property
    def changed(self) -> bool:
        return self.before != self.after


def alembic_config(url: str | None = None, options: Mapping[str, str] | None = None) -> Config:
    """Return Alembic's configuration; `url` (libpq) instead of the environment's, `options` as `-x`."""
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
        raise CommandError("The chain of migrations is empty.")
    return revision


def current_revision(connection: Connection) -> str | None:
    """Return the revision that the database is at; None where Alembic has not been."""
    if connection.exec_driver_sql("SELECT to_regclass('alembic_version')").scalar() is None:
        return None
    revision: str | None = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    return revision


def schema_state(connection: Connection) -> SchemaState:
    """Compare the database's revision with the chain. Raises what the driver raises."""
    return schema_state_at(current_revision(connection))


def schema_state_at(revision: str | None) -> SchemaState:
    """Tell where a database at `revision` stands."""
    if revision is None:
        return SchemaState.EMPTY
    if revision not in revisions():
        return SchemaState.UNKNOWN
    return SchemaState.AT_HEAD if revision == revisions()[0] else SchemaState.BEHIND


@cache
def revisions() -> tuple[str, ...]:
    """Return every revision that this code knows, the newest first; read from the files once."""
    return tuple(each.revision for each in script_directory().walk_revisions())


def is_known_revision(scripts: ScriptDirectory, revision: str) -> bool:
    return any(each.revision == revision for each in scripts.walk_revisions())


def upgrade(url: str, revision: str = "head", options: Mapping[str, str] | None = None) -> UpgradeResult:
    """Bring the database at `url` (libpq) to `revision`; `options` as on the command line after `-x`.

    Raises MigrationRefused where rows or an unknown revision stand in the way, CommandError where
    the database cannot be reached or a statement failed.
    """
    before = _revision_at(url)
    command.upgrade(alembic_config(url, options), revision)
    return UpgradeResult(before, _revision_at(url))


def _revision_at(url: str) -> str | None:
    with migration_engine(url) as engine, engine.connect() as connection:
        return current_revision(connection)


@contextmanager
def migration_engine(url: str) -> Iterator[Engine]:
    """Yield an engine whose connections carry the options of a migration, one connection per use.

    libpq reads the URL itself: nothing to convert, every form that it knows works.
    """

    def connect() -> psycopg.Connection:
        options = append_connection_options(url, CONNECTION_OPTIONS)
        try:
            connection = psycopg.connect(
                url, options=options, client_encoding=CLIENT_ENCODING, application_name="frontdesk-migrations"
            )
        except psycopg.OperationalError as error:
            # libpq's text names host, user and reason, never the password.
            raise CommandError(f"The database cannot be reached: {' '.join(str(error).split())}") from None
        disable_transaction_timeout(connection)
        return connection

    engine = create_engine("postgresql+psycopg://", creator=connect, poolclass=NullPool, hide_parameters=True)
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def migration_lock(engine: Engine, *, wait: bool = True) -> Iterator[Connection]:
    """Hold the advisory lock of migrations on an autocommit connection, and yield that connection.

    It polls: a session that *waits* inside `pg_advisory_lock` holds a snapshot that the holder's
    concurrent index build waits for, and that ends in a deadlock. Without `wait`, raises CommandError
    when another holds the lock.
    """
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        said = False
        while not connection.exec_driver_sql(f"SELECT pg_try_advisory_lock({AdvisoryLock.MIGRATIONS})").scalar():
            if not wait:
                raise CommandError(
                    "Another deploy or de-duplication is at work on this database; try again when it is done."
                )
            if not said:
                log.info("Another deploy is migrating this database; waiting for it to finish")
                said = True
            time.sleep(LOCK_POLL_SECONDS)
        yield connection  # closing the connection frees the lock, kill -9 as well


def retry_on_lock_timeout(
    attempt: Callable[[], None],
    read_revision: Callable[[], str | None],
    before_retry: Callable[[], None] = lambda: None,
) -> None:
    """Call `attempt` until no lock stands in its way; finished revisions are not repeated.

    The count starts again whenever `read_revision` (the database's revision) has moved. Other errors of
    the database become one line without the values that PostgreSQL adds to its messages.
    """
    tried, at = 0, read_revision()
    while True:
        try:
            return attempt()
        except PendingRollbackError as error:  # what remains to be seen of a connection lost in autocommit
            raise CommandError(f"The connection was lost. {_resume_message(read_revision())}") from error
        except DBAPIError as error:
            sqlstate = getattr(error.orig, "sqlstate", None)
            primary = getattr(getattr(error.orig, "diag", None), "message_primary", None)
            if sqlstate not in (LOCK_NOT_AVAILABLE, DEADLOCK_DETECTED):
                reason = (
                    f"A statement failed ({sqlstate}): {primary}" if primary else "The connection was lost"
                )
                raise CommandError(f"{reason}. {_resume_message(read_revision())}") from error
            now_at = read_revision()
            tried, at = (tried + 1, at) if now_at == at else (1, now_at)
            if tried >= LOCK_ATTEMPTS:
                raise CommandError(
                    f"Other sessions hold locks and do not let go (tried {tried} times). {_resume_message(at)}"
                ) from error
            pause = min(MAX_RETRY_PAUSE_SECONDS, 0.05 * 2**tried) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
            log.info("A lock is taken (%s); trying again in %.1f s", primary, pause)
            time.sleep(pause)
            before_retry()


def _resume_message(revision: str | None) -> str:
    return f"The database stands at revision {revision}; the same command goes on from there."
