"""Restore drill: restore a backup into a scratch database, compare it with its manifest, and time it."""

import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import quote, urlencode

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from app.backup import fingerprint
from app.backup.catalogue import Entry
from app.backup.dump_stream import OnProgress
from app.backup.errors import DamagedBackup
from app.backup.restore import BackupRestoreResult, restore
from app.backup.storage import Storage
from app.config import Settings
from app.database import embedded_server
from app.database.connection import Connection

EMBEDDED = "embedded"
_PREFIX = "frontdesk_drill_"
_DROP = sql.SQL("DROP DATABASE IF EXISTS {}")


@dataclass(frozen=True)
class DrillResult:
    """Result of a drill.

    `location` describes where the scratch database was created. `restored` is absent (None) if the backup is
    damaged, because then nothing was restored.
    """

    location: str
    restored: BackupRestoreResult | None
    problems: tuple[str, ...]

    @property
    def is_good(self) -> bool:
        """True if the backup was restored without differences."""
        return not self.problems


def drill(
    settings: Settings, storage: Storage, entry: Entry, server: str | None, on_progress: OnProgress
) -> DrillResult:
    """Restore a backup into a scratch database and compare it with its manifest.

    `server` is the libpq URL of a database on the server where the scratch database is created, or
    "embedded". None means the server of the configured database, or an embedded server if the role may not
    create databases there. The scratch database is always dropped; if a `kill -9` leaves one behind, the
    next drill on that server drops it. Raises BackupError and the errors of psycopg if the drill cannot run.
    """
    if server is None:
        server = embedded_server.resolve_migration_url(settings)
        server = server if _can_create_database(settings, server) else EMBEDDED
    with ExitStack() as stack:
        location = "a scratch database on the server"
        if server == EMBEDDED:
            server = stack.enter_context(embedded_server.temporary_server())
            location = "a scratch database on an embedded server"
        url = stack.enter_context(_scratch(settings, server))
        try:
            restored = restore(settings, storage, entry, url, on_progress, keep_owners=False)
        except DamagedBackup as error:
            return DrillResult(location, None, (error.message,))
        return DrillResult(location, restored, restored.differences)


def _can_create_database(settings: Settings, server: str) -> bool:
    with fingerprint.open_connection(settings, server) as connection:
        row = connection.execute(
            "SELECT rolsuper OR rolcreatedb FROM pg_roles WHERE rolname = current_user"
        ).fetchone()
    return row == (True,)


@contextmanager
def _scratch(settings: Settings, server: str) -> Iterator[str]:
    """Create an empty database on the server for the duration of the block; yield its libpq URL."""
    with fingerprint.open_connection(settings, server) as connection:
        # The name holds the process id of this session, which stays open as long as the database is needed.
        name = f"{_PREFIX}{secrets.token_hex(6)}_{_process_id(connection)}"
        _drop_abandoned(connection)
        connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
        try:
            yield _url_of(server, name)
        finally:
            connection.execute(_DROP.format(sql.Identifier(name)) + sql.SQL(" WITH (FORCE)"))


def _process_id(connection: Connection) -> int:
    # Through a pooler, the process id that libpq reports is the pooler's own.
    ((process_id,),) = connection.execute("SELECT pg_backend_pid()")
    return int(process_id)


def _drop_abandoned(connection: Connection) -> None:
    """Drop scratch databases without a session whose drill's session has ended."""
    rows = connection.execute(
        "SELECT datname::text FROM pg_database WHERE datname ~ %s AND pg_has_role(datdba, 'MEMBER')"
        " AND NOT EXISTS (SELECT FROM pg_stat_activity"
        "  WHERE datid = pg_database.oid OR pid::text = substring(pg_database.datname FROM '_([0-9]+)$'))",
        (f"^{_PREFIX}[0-9a-f]{{12}}(_[0-9]+)?$",),
    ).fetchall()
    for (name,) in rows:
        with suppress(psycopg.errors.ObjectInUse):  # a session connected to it after the query
            connection.execute(_DROP.format(sql.Identifier(name)))


def _url_of(server: str, database: str) -> str:
    """Return the libpq URL of another database on the same server."""
    parameters = conninfo_to_dict(server) | {"dbname": database}
    given = {key: value for key, value in parameters.items() if value is not None}
    return "postgresql://?" + urlencode(given, quote_via=quote)  # libpq does not decode "+" as a space
