"""Creation of a backup: checksums and dump come from the same snapshot."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import IO, Any, LiteralString

import psycopg

from app.backup import fingerprint, pg_programs
from app.backup.catalogue import DUMP_SUFFIX, MANIFEST_SUFFIX, new_name
from app.backup.dump_stream import READ_SIZE_BYTES, OnProgress
from app.backup.errors import BackupError
from app.backup.fingerprint import Contents
from app.backup.manifest import Manifest
from app.backup.pg_programs import Program
from app.backup.storage import Storage
from app.config import Settings
from app.database import embedded_server
from app.database.alembic_revision import read_revision
from app.database.connection import Connection

_ROLES = """
    SELECT rolname::text FROM pg_roles WHERE oid IN (
        SELECT refobjid FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass
            AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
        UNION SELECT relowner FROM pg_class WHERE relkind = 'r' AND relnamespace NOT IN (
            'pg_catalog'::regnamespace, 'information_schema'::regnamespace)
    ) AND rolname NOT LIKE 'pg\\_%' ORDER BY 1
"""


@dataclass(frozen=True)
class _Source:
    """Properties of the database, read in the snapshot that is dumped."""

    database: str
    taken_at: datetime
    version: str
    major: int
    revision: str | None
    roles: tuple[str, ...]
    extension_tables: tuple[str, ...]
    contents: Contents


def create(settings: Settings, storage: Storage, on_progress: OnProgress) -> Manifest:
    """Back up the configured database to `storage` and return the manifest.

    A failed backup leaves no files behind. Concurrent writes are not blocked; schema changes wait until the
    backup ends. Raises BackupError and the errors of psycopg.
    """
    url = embedded_server.resolve_migration_url(settings)
    with fingerprint.open_connection(settings, url) as connection:
        major = connection.info.server_version // 10_000
        program = pg_programs.find_program("pg_dump", min_major=major)
        name = new_name()
        with _snapshot(connection) as snapshot:
            try:
                source = _read_snapshot_info(connection, lambda done, of: on_progress("hashing", done, of))
            except psycopg.errors.InsufficientPrivilege as error:
                raise BackupError(
                    f"The role {connection.info.user} may not read every table:"
                    f" {error.diag.message_primary}."
                    " Back up as the owner of the tables, or GRANT pg_read_all_data to this role."
                ) from None
            with storage.open_for_writing(name + DUMP_SUFFIX) as file:
                size, digest = _dump(program, url, snapshot, file, on_progress)
    manifest = Manifest(
        name=name,
        taken_at=source.taken_at,
        database=source.database,
        revision=source.revision,
        server_version=source.version,
        server_major=source.major,
        tool=program.version,
        tool_major=program.major,
        dump_bytes=size,
        dump_sha256=digest,
        tables=source.contents.tables,
        sequences=source.contents.sequences,
        roles=source.roles,
        of_extensions=source.extension_tables,
    )
    # The manifest is written last: a dump counts as a backup only when it has a manifest.
    try:
        with storage.open_for_writing(name + MANIFEST_SUFFIX) as file:
            file.write(manifest.to_bytes())
    except BaseException:  # including Ctrl-C: a dump without a manifest is useless
        storage.delete(name + DUMP_SUFFIX)
        raise
    return manifest


@contextmanager
def _snapshot(connection: Connection) -> Iterator[str]:
    """Open a read-only transaction on one snapshot; yield the snapshot's id, for pg_dump to share it."""
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield _one(connection, "SELECT pg_export_snapshot()")


def _read_snapshot_info(connection: Connection, on_table: fingerprint.OnTable) -> _Source:
    return _Source(
        database=_one(connection, "SELECT current_database()"),
        taken_at=_one(connection, "SELECT now()"),
        version=_one(connection, "SELECT current_setting('server_version')"),
        major=connection.info.server_version // 10_000,
        revision=read_revision(connection.execute),
        roles=tuple(role for (role,) in connection.execute(_ROLES)),
        extension_tables=tuple(fingerprint.query_extension_tables(connection)),
        # Last, because it changes the output formats of the session.
        contents=fingerprint.read_contents(connection, on_table),
    )


def _one(connection: Connection, query: LiteralString) -> Any:
    ((value,),) = connection.execute(query)
    return value


def _dump(
    program: Program, url: str, snapshot: str, file: IO[bytes], on_progress: OnProgress
) -> tuple[int, str]:
    """Run pg_dump, write its output to the file, and return its size in bytes and its SHA-256."""
    digest, size = hashlib.sha256(), 0
    arguments = ("--format=custom", f"--snapshot={snapshot}")
    with pg_programs.run_program(program, *arguments, url=url) as process:
        assert process.stdout is not None, "stdout is a pipe"  # noqa: S101
        while block := process.stdout.read(READ_SIZE_BYTES):
            file.write(block)
            digest.update(block)
            size += len(block)
            on_progress("dumping", size, None)
    return size, digest.hexdigest()
