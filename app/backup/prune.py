"""Deletion of old backups. The newest good one and the newest successfully restored one always stay."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from app.backup.catalogue import BackupState, Entry, list_backups
from app.backup.dump_stream import OnProgress
from app.backup.errors import BackupError
from app.backup.storage import Storage
from app.backup.verify import verify

ABANDONED_AFTER = timedelta(days=1)  # an unfinished backup of this age is no longer being written


@dataclass(frozen=True)
class Pruning:
    """Backups to delete and to keep. `proven` is the newest backup that was read and found good."""

    deleted: list[Entry]
    kept: list[Entry]
    proven: Entry | None


def plan_prune(
    storage: Storage,
    keep_newest: int | None,
    keep_days: int | None,
    on_progress: OnProgress,
    *,
    restored: Collection[str] = (),
    bad: Collection[str] = (),
) -> Pruning:
    """Decide which backups to delete: those kept by neither `keep_newest` nor `keep_days`.

    Backups are read, newest first, until one is good; that one always stays. A readable backup may still
    fail to restore, so the newest one in `restored` stays too.

    Args:
        keep_newest: Number of the newest complete backups to keep.
        keep_days: Age in days up to which backups are kept.
        restored: Names of backups that a drill or a restore found good.
        bad: Names of backups that a check found bad; they are not considered good.

    Raises BackupError if no backup is good, so that nothing is deleted.
    """
    now = datetime.now(UTC)
    backups = list_backups(storage)
    complete = [entry for entry in backups if entry.state is BackupState.COMPLETE]
    candidates = (entry for entry in complete if entry.name not in bad)
    proven = next((entry for entry in candidates if not verify(storage, entry, on_progress)), None)
    if backups and proven is None:
        raise BackupError(f"None of the backups at {storage} is good: nothing is deleted.")
    recent = complete[:keep_newest] if keep_newest is not None else []
    kept = {entry.name for entry in [*recent, *([proven] if proven else [])]}
    kept |= set([entry.name for entry in complete if entry.name in restored][:1])
    if keep_days is not None:
        kept |= {entry.name for entry in backups if now - entry.begun_at <= timedelta(days=keep_days)}
    # Keep incomplete backups that are newer than the proven one: they may still be running.
    kept |= {
        entry.name
        for entry in backups
        if entry.state is not BackupState.COMPLETE
        and ((proven is not None and entry.name > proven.name) or now - entry.begun_at < ABANDONED_AFTER)
    }
    return Pruning(
        deleted=[entry for entry in backups if entry.name not in kept],
        kept=[entry for entry in backups if entry.name in kept],
        proven=proven,
    )


def delete_backup(storage: Storage, entry: Entry) -> None:
    """Delete the files of a backup, manifest first: after a kill in between it counts as unfinished."""
    for file in sorted(entry.files, key=lambda name: ".json" not in name):
        storage.delete(file)
