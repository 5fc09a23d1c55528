"""Restore of a backup into an empty database, and comparison of the result with its manifest."""

import time
from dataclasses import dataclass

from app.backup import fingerprint, pg_programs
from app.backup.catalogue import Entry
from app.backup.dump_stream import OnProgress, read_dump, verify_checksum
from app.backup.errors import BackupError, NotEmpty
from app.backup.manifest import Manifest
from app.backup.storage import Storage
from app.config import Settings
from app.database.connection import Connection

# From this version on, pg_restore sets transaction_timeout, which older servers reject.
TRANSACTION_TIMEOUT_MIN_MAJOR = 17


@dataclass(frozen=True)
class BackupRestoreResult:
    """The restored backup, its differences from the manifest, and the durations of restore and comparison.

    `missing_roles` are owners and grantees that the server lacks, or that the connecting role is not a member
    of. If there are any, the connecting role owns everything, and grants are left out.
    """

    manifest: Manifest
    differences: tuple[str, ...]
    recovery_seconds: float
    comparison_seconds: float
    missing_roles: tuple[str, ...]


def restore(
    settings: Settings,
    storage: Storage,
    entry: Entry,
    url: str,
    on_progress: OnProgress,
    *,
    keep_owners: bool = True,
) -> BackupRestoreResult:
    """Restore a backup into the empty database at `url` (libpq) in one transaction, and compare the result.

    `keep_owners` keeps owners and grants if the server has all the roles. Raises DamagedBackup before
    anything is written, other errors of BackupError, and the errors of psycopg.
    """
    begun = time.monotonic()
    manifest = verify_checksum(storage, entry, on_progress)
    with fingerprint.open_connection(settings, url) as connection:
        program = _program(connection, manifest)
        check_empty(connection)
        missing = _missing_roles(connection, manifest)
        arguments = ["--single-transaction", "--exit-on-error"]
        if missing or not keep_owners:
            arguments += ["--no-owner", "--no-privileges"]
        with pg_programs.run_program(program, *arguments, url=url) as process:
            read_dump(storage, manifest, process.stdin, on_progress)
        connection.execute("ANALYZE")
        recovered = time.monotonic()
        with connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            contents = fingerprint.read_contents(
                connection, lambda done, of: on_progress("comparing", done, of)
            )
    return BackupRestoreResult(
        manifest=manifest,
        differences=tuple(contents.differences(manifest)),
        recovery_seconds=recovered - begun,
        comparison_seconds=time.monotonic() - recovered,
        missing_roles=missing if keep_owners else (),
    )


def check_empty(connection: Connection) -> None:
    """Raise NotEmpty if the database contains any object that a user created."""
    objects = fingerprint.query_user_objects(connection)
    if objects:
        database = connection.info.dbname
        names = ", ".join(objects[:5]) + (", …" if len(objects) > 5 else "")
        raise NotEmpty(
            f"The database {database} is not empty ({names}). Create an empty one with CREATE DATABASE,"
            " and pass its URL as --into."
        )


def compatibility_warning(manifest: Manifest) -> str | None:
    """Return a warning when the dump needs a newer server than the one it was taken from, else None."""
    if manifest.server_major < TRANSACTION_TIMEOUT_MIN_MAJOR <= manifest.tool_major:
        return (
            f"this backup of PostgreSQL {manifest.server_version} was made by pg_dump {manifest.tool}, and"
            f" can be restored into PostgreSQL {TRANSACTION_TIMEOUT_MIN_MAJOR} or newer only. Install"
            f" postgresql-client-{manifest.server_major} on this machine, and make another backup."
        )
    return None


def _program(connection: Connection, manifest: Manifest) -> pg_programs.Program:
    server = connection.info.server_version // 10_000
    if server < manifest.server_major:
        raise BackupError(
            f"The backup is from PostgreSQL {manifest.server_version}, and this server is {server}:"
            f" restore into PostgreSQL {manifest.server_major} or newer."
        )
    program = pg_programs.find_program("pg_restore", min_major=manifest.tool_major)
    if server < TRANSACTION_TIMEOUT_MIN_MAJOR <= program.major:
        raise BackupError(
            f"The dump of pg_dump {manifest.tool} needs pg_restore {program.version}, which cannot write to"
            f" PostgreSQL {server}. Restore into PostgreSQL {TRANSACTION_TIMEOUT_MIN_MAJOR} or newer. To make"
            f" backups for PostgreSQL {server}, install postgresql-client-{server} on the machine that makes"
            " them."
        )
    return program


def _missing_roles(connection: Connection, manifest: Manifest) -> tuple[str, ...]:
    rows = connection.execute(
        "SELECT name FROM unnest(%s::text[]) AS wanted (name)"
        " LEFT JOIN pg_roles ON rolname = name"
        " WHERE oid IS NULL OR NOT pg_has_role(oid, 'MEMBER') ORDER BY name",
        (list(manifest.roles),),
    )
    return tuple(name for (name,) in rows)
