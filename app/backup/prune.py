"""Delete old backups, but never the last good one, nor the last that is known to come back."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from app.backup.catalogue import BackupState, Entry, list_backups
from app.backup.dump_stream import OnProgress
from app.backup.errors import BackupError
from app.backup.storage import Storage
from app.backup.verify import verify

ABANDONED_AFTER = timedelta(days=1)  # after that, nobody is still writing an unfinished backup


@dataclass(frozen=True)
class Pruning:
    """What is deleted and what stays; `proven` is the newest one that was read and found good."""

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
    """What `keep_newest` (the newest so many) and `keep_days` (those not older) leave to be deleted.

    A backup goes when neither rule keeps it; only complete ones count. The newest ones are read until one
    is found good, and that one stays whatever the rules say; where none is good, nothing is deleted.
    `restored` and `bad` are names from the log: the newest that a drill or a restore found good stays, too
    (what cannot be restored may well be readable), and a bad one proves nothing. Raises BackupError.
    """
    now = datetime.now(UTC)
    found = list_backups(storage)
    complete = [entry for entry in found if entry.state is BackupState.COMPLETE]
    candidates = (entry for entry in complete if entry.name not in bad)
    proven = next((entry for entry in candidates if not verify(storage, entry, on_progress)), None)
    if found and proven is None:
        raise BackupError(f"None of the backups at {storage} is good: nothing is deleted.")
    recent = complete[:keep_newest] if keep_newest is not None else []
    kept = {entry.name for entry in [*recent, *([proven] if proven else [])]}
    kept |= {entry.name for entry in [each for each in complete if each.name in restored][:1]}
    if keep_days is not None:
        kept |= {entry.name for entry in found if now - entry.begun_at <= timedelta(days=keep_days)}
    # What is newer and not complete is under way, or somebody should look at it.
    kept |= {
        entry.name
        for entry in found
        if entry.state is not BackupState.COMPLETE
        and ((proven is not None and entry.name > proven.name) or now - entry.begun_at < ABANDONED_AFTER)
    }
    return Pruning(
        deleted=[entry for entry in found if entry.name not in kept],
        kept=[entry for entry in found if entry.name in kept],
        proven=proven,
    )


def delete_backup(storage: Storage, entry: Entry) -> None:
    """Delete a backup, its manifest first: what a kill leaves of it is no backup."""
    for file in sorted(entry.files, key=lambda name: ".json" not in name):
        storage.delete(file)
