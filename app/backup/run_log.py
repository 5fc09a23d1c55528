"""Log of backup runs in the table `backup_runs`: the outcome of each run, and the last good ones."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from app.backup import fingerprint
from app.backup.manifest import Manifest
from app.config import Settings
from app.database.connection import Connection


class RunKind(StrEnum):
    """Kind of a run, named after its command."""

    CREATE = "create"
    VERIFY = "verify"
    DRILL = "drill"
    RESTORE = "restore"


class RunOutcome(StrEnum):
    """Outcome of a run."""

    GOOD = "good"
    BAD = "bad"  # the backup is damaged, or differs from its manifest
    FAILED = "failed"  # the run could not finish; the backup may be good or bad


@dataclass(frozen=True)
class Run:
    """One finished run. For a drill or a restore, `seconds` ends when the data are restored."""

    kind: RunKind
    outcome: RunOutcome
    seconds: float
    backup: str | None = None
    manifest: Manifest | None = None
    problem: str | None = None


class BackupSummary(NamedTuple):
    """Time of the newest backup that no check found bad, and the last good drill with its recovery time.

    `taken_at` is the time of the backup's snapshot.
    """

    taken_at: datetime | None
    drilled_at: datetime | None
    recovery_seconds: float | None


def record(settings: Settings, url: str, run: Run) -> None:
    """Insert the run into the log of the database at `url` (libpq). Raises the errors of psycopg."""
    with fingerprint.open_connection(settings, url) as connection:
        connection.execute(
            "INSERT INTO backup_runs (kind, backup, taken_at, outcome, problem, seconds, rows, bytes)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
            (
                run.kind,
                run.backup,
                run.manifest and run.manifest.taken_at,
                run.outcome,
                run.problem,
                run.seconds,
                run.manifest and run.manifest.rows,
                run.manifest and run.manifest.dump_bytes,
            ),
        )


def query_summary(connection: Connection) -> BackupSummary:
    """Return the newest backup and the last good drill, ignoring backups whose last check found them bad."""
    (row,) = connection.execute(
        "SELECT (SELECT max(taken_at) FROM backup_runs AS made WHERE kind = 'create' AND outcome = 'good'"
        " AND 'bad' IS DISTINCT FROM (SELECT outcome FROM backup_runs AS later"
        " WHERE later.backup = made.backup AND kind IN ('verify', 'drill', 'restore')"
        " AND outcome <> 'failed' ORDER BY id DESC LIMIT 1)), drill.finished_at, drill.seconds"
        " FROM (SELECT) AS one LEFT JOIN LATERAL (SELECT finished_at, seconds FROM backup_runs"
        " WHERE kind = 'drill' AND outcome = 'good' ORDER BY id DESC LIMIT 1) AS drill ON true"
    )
    return BackupSummary(*row)


def query_last_checks(connection: Connection) -> dict[str, tuple[str, str, datetime]]:
    """Return kind, outcome and time of the last check of each backup, keyed by its name."""
    rows = connection.execute(
        "SELECT DISTINCT ON (backup) backup, kind, outcome, finished_at FROM backup_runs"
        " WHERE kind <> 'create' AND outcome <> 'failed' AND backup IS NOT NULL ORDER BY backup, id DESC"
    )
    return {backup: (kind, outcome, at) for backup, kind, outcome, at in rows}


def query_restored_names(connection: Connection) -> set[str]:
    """Return the names of backups that a drill or a restore found good, and no later run found bad."""
    rows = connection.execute(
        "SELECT DISTINCT backup FROM backup_runs AS run"
        " WHERE kind IN ('drill', 'restore') AND outcome = 'good' AND backup IS NOT NULL"
        " AND NOT EXISTS (SELECT FROM backup_runs AS later"
        " WHERE later.backup = run.backup AND later.id > run.id AND later.outcome = 'bad')"
    )
    return {backup for (backup,) in rows}
