"""Bring a backup back into an empty database, and compare what is there with its manifest."""

import time
from dataclasses import dataclass
from typing import Any

import psycopg

from app.backup import fingerprint, pg_programs
from app.backup.catalogue import Entry
from app.backup.dump_stream import OnProgress, read_dump, verify_checksum
from app.backup.errors import BackupError, NotEmpty
from app.backup.manifest import Manifest
from app.backup.storage import Storage
from app.config import Settings

# From this version on pg_restore sets a timeout that older servers do not know.
TRANSACTION_TIMEOUT_MIN_MAJOR = 17


@dataclass(frozen=True)
class BackupRestoreResult:
    """What was restored, how it differs from the manifest, and seconds: to have it back, and to compare.

    `missing_roles`: owners and grantees that the server does not have, or that we may not act for;
    everything belongs to the connecting role then, and grants are left out.
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
    """Restore into the empty database at `url` (libpq): all of it in one transaction, or nothing.

    `keep_owners` keeps owners and grants where the server has all the roles. Raises BackupError (DamagedBackup
    before anything is written), and psycopg's errors.
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
            found = fingerprint.read_contents(connection, lambda done, of: on_progress("comparing", done, of))
    return BackupRestoreResult(
        manifest=manifest,
        differences=tuple(found.differences(manifest)),
        recovery_seconds=recovered - begun,
        comparison_seconds=time.monotonic() - recovered,
        missing_roles=missing if keep_owners else (),
    )


def check_empty(connection: psycopg.Connection[Any]) -> None:
    """Raises NotEmpty where anything of somebody's is in the database."""
    found = fingerprint.query_user_objects(connection)
    if found:
        database = connection.info.dbname
        names = ", ".join(found[:5]) + (", …" if len(found) > 5 else "")
        raise NotEmpty(
            f"The database {database} is not empty ({names}). Restore into an empty one:"
            " CREATE DATABASE …, and name it with --into."
        )


def compatibility_warning(manifest: Manifest) -> str | None:
    """Where the backup cannot be restored, if that is not as one expects."""
    if manifest.server_major < TRANSACTION_TIMEOUT_MIN_MAJOR <= manifest.tool_major:
        return (
            f"this backup of PostgreSQL {manifest.server_version} was made by pg_dump {manifest.tool}, and"
            f" can be restored into PostgreSQL {TRANSACTION_TIMEOUT_MIN_MAJOR} or newer only. Install"
            f" postgresql-client-{manifest.server_major} here, and make another."
        )
    return None


def _program(connection: psycopg.Connection[Any], manifest: Manifest) -> pg_programs.Program:
    server = connection.info.server_version // 10_000
    if server < manifest.server_major:
        raise BackupError(
            f"The backup is from PostgreSQL {manifest.server_version}, and this server is {server}:"
            f" restore into PostgreSQL {manifest.server_major} or newer."
        )
    program = pg_programs.find_program("pg_restore", min_major=manifest.tool_major)
    if server < TRANSACTION_TIMEOUT_MIN_MAJOR <= program.major:
        raise BackupError(
            f"pg_restore {program.version}, which the dump of pg_dump {manifest.tool} needs, cannot write to"
            f" PostgreSQL {server}. Restore into PostgreSQL {TRANSACTION_TIMEOUT_MIN_MAJOR} or newer; to have backups"
            f" for {server}, install postgresql-client-{server} where they are made."
        )
    return program


def _missing_roles(connection: psycopg.Connection[Any], manifest: Manifest) -> tuple[str, ...]:
    rows = connection.execute(
        "SELECT name FROM unnest(%s::text[]) AS wanted (name)"
        " LEFT JOIN pg_roles ON rolname = name"
        " WHERE oid IS NULL OR NOT pg_has_role(oid, 'MEMBER') ORDER BY name",
        (list(manifest.roles),),
    )
    return tuple(name for (name,) in rows)
