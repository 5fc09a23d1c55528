"""The proof of a backup: restore it into a scratch database, compare, measure, and drop the scratch."""

import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any
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

EMBEDDED = "embedded"
_PREFIX = "frontdesk_drill_"
_DROP = sql.SQL("DROP DATABASE IF EXISTS {}")


@dataclass(frozen=True)
class DrillResult:
    """What a drill has shown. `restored` is None where the backup was damaged and nothing was restored."""

    location: str
    restored: BackupRestoreResult | None
    problems: tuple[str, ...]

    @property
    def is_good(self) -> bool:
        return not self.problems


def drill(
    settings: Settings, storage: Storage, entry: Entry, server: str | None, on_progress: OnProgress
) -> DrillResult:
    """Restore a backup and compare it with its manifest.

    `server`: the libpq URL of a database on the server that gets the scratch, or "embedded"; None: the
    configured database's server, or an embedded one where we may not create a database. The scratch is
    dropped whatever happens; one that a `kill -9` left behind goes with the next drill on that server.
    Raises BackupError and psycopg's errors where that was not possible.
    """
    if server is None:
        server = embedded_server.resolve_migration_url(settings)
        server = server if _can_create_database(settings, server) else EMBEDDED
    with ExitStack() as stack:
        where = "a scratch database of the server"
        if server == EMBEDDED:
            server, where = stack.enter_context(embedded_server.temporary_server()), "an embedded server"
        url = stack.enter_context(_scratch(settings, server))
        try:
            restored = restore(settings, storage, entry, url, on_progress, keep_owners=False)
        except DamagedBackup as error:
            return DrillResult(where, None, (error.message,))
        return DrillResult(where, restored, restored.differences)


def _can_create_database(settings: Settings, server: str) -> bool:
    with fingerprint.open_connection(settings, server) as connection:
        row = connection.execute(
            "SELECT rolsuper OR rolcreatedb FROM pg_roles WHERE rolname = current_user"
        ).fetchone()
    return row == (True,)


@contextmanager
def _scratch(settings: Settings, server: str) -> Iterator[str]:
    """An empty database on the server while the block runs; yields its libpq URL."""
    name = _PREFIX + secrets.token_hex(6)
    url = _url_of(server, name)
    with fingerprint.open_connection(settings, server) as connection:
        _drop_abandoned(connection)
        connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
        try:
            # By this session another drill tells ours from one that was abandoned.
            with fingerprint.open_connection(settings, url):
                yield url
        finally:
            connection.execute(_DROP.format(sql.Identifier(name)) + sql.SQL(" WITH (FORCE)"))


def _drop_abandoned(connection: psycopg.Connection[Any]) -> None:
    rows = connection.execute(
        "SELECT datname::text FROM pg_database WHERE datname ~ %s AND pg_has_role(datdba, 'MEMBER')"
        " AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE datid = pg_database.oid)",
        (f"^{_PREFIX}[0-9a-f]{{12}}$",),
    ).fetchall()
    for (name,) in rows:
        with suppress(psycopg.errors.ObjectInUse):  # somebody has just begun
            connection.execute(_DROP.format(sql.Identifier(name)))


def _url_of(server: str, database: str) -> str:
    """The libpq URL of another database of the same server."""
    parts = conninfo_to_dict(server) | {"dbname": database}
    given = {key: value for key, value in parts.items() if value is not None}
    return "postgresql://?" + urlencode(given, quote_via=quote)  # libpq reads no plus as a blank
