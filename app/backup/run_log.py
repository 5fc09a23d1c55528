"""The log of backups in `backup_runs`: what came of each run, and when the last one was good."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from app.backup import fingerprint
from app.backup.manifest import Manifest
from app.config import Settings
from app.database.database import Connection


class RunKind(StrEnum):
    CREATE = "create"
    VERIFY = "verify"
    DRILL = "drill"
    RESTORE = "restore"


class RunOutcome(StrEnum):
    GOOD = "good"
    BAD = "bad"  # the backup is not what it should be
    FAILED = "failed"  # could not run, which says nothing about the backup


@dataclass(frozen=True)
class Run:
    """One run. `seconds` of a drill or a restore: until the data were back."""

    kind: RunKind
    outcome: RunOutcome
    seconds: float
    backup: str | None = None
    manifest: Manifest | None = None
    problem: str | None = None


class BackupSummary(NamedTuple):
    """The newest backup that nothing is known against (when its data were seen), and the last good drill."""

    taken_at: datetime | None
    drilled_at: datetime | None
    recovery_seconds: float | None


def record(settings: Settings, url: str, run: Run) -> None:
    """Write the run into the log of the database at `url` (libpq). Raises psycopg's errors."""
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
    """How old the backups are, by the log; a backup whose last check found it bad is none."""
    row = connection.execute(
        "SELECT (SELECT max(taken_at) FROM backup_runs AS made WHERE kind = 'create' AND outcome = 'good'"
        " AND 'bad' IS DISTINCT FROM (SELECT outcome FROM backup_runs AS later"
        " WHERE later.backup = made.backup AND kind IN ('verify', 'drill', 'restore')"
        " AND outcome <> 'failed' ORDER BY id DESC LIMIT 1)), drill.finished_at, drill.seconds"
        " FROM (SELECT) AS one LEFT JOIN LATERAL (SELECT finished_at, seconds FROM backup_runs"
        " WHERE kind = 'drill' AND outcome = 'good' ORDER BY id DESC LIMIT 1) AS drill ON true"
    ).fetchone()
    assert row is not None, "the left side has a row"  # noqa: S101
    return BackupSummary(*row)


def query_last_checks(connection: Connection) -> dict[str, tuple[str, str, datetime]]:
    """The last check of each backup by its name: kind, outcome and time."""
    rows = connection.execute(
        "SELECT DISTINCT ON (backup) backup, kind, outcome, finished_at FROM backup_runs"
        " WHERE kind <> 'create' AND outcome <> 'failed' AND backup IS NOT NULL ORDER BY backup, id DESC"
    )
    return {backup: (kind, outcome, at) for backup, kind, outcome, at in rows}


def query_restored_names(connection: Connection) -> set[str]:
    """The names of the backups that a drill or a restore found good, and nothing since found bad."""
    rows = connection.execute(
        "SELECT DISTINCT backup FROM backup_runs AS run"
        " WHERE kind IN ('drill', 'restore') AND outcome = 'good' AND backup IS NOT NULL"
        " AND NOT EXISTS (SELECT FROM backup_runs AS later"
        " WHERE later.backup = run.backup AND later.id > run.id AND later.outcome = 'bad')"
    )
    return {backup for (backup,) in rows}
