"""Catalogue of the backups in a storage. A backup is a dump file and a manifest file with one name."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from app.backup.errors import DamagedBackup, NoSuchBackup
from app.backup.manifest import Manifest
from app.backup.storage import PARTIAL_SUFFIX, Storage

DUMP_SUFFIX, MANIFEST_SUFFIX = ".dump", ".json"
_FILE = re.compile(
    rf"(?P<name>frontdesk-(?P<time>\d{{8}}T\d{{6}}Z)-[0-9a-f]{{4}})(?P<kind>\.(?:dump|json)(?:{re.escape(PARTIAL_SUFFIX)})?)"
)
_TIME = "%Y%m%dT%H%M%SZ"


class BackupState(StrEnum):
    """State of a backup, derived from its file names, file sizes and manifest.

    `frontdesk backup verify` reads every byte instead.
    """

    COMPLETE = "complete"
    UNFINISHED = "unfinished"  # still being written, or its process was killed
    DAMAGED = "damaged"


@dataclass(frozen=True)
class Entry:
    """One backup, described by its files. `manifest` is absent (None) if the file is missing or damaged."""

    name: str
    begun_at: datetime
    state: BackupState
    problem: str
    manifest: Manifest | None
    files: dict[str, int]  # file name -> size in bytes

    @property
    def bytes(self) -> int:
        """Total size of the files."""
        return sum(self.files.values())


def new_name() -> str:
    """Return a name for a backup that starts now, such as `frontdesk-20261120T023004Z-9d02`.

    Names sort by time. The last four digits are the fraction of the second, in 1/65536 s.
    """
    now = datetime.now(UTC)
    return f"frontdesk-{now.strftime(_TIME)}-{now.microsecond * 0x10000 // 1_000_000:04x}"


def list_backups(storage: Storage) -> list[Entry]:
    """Return every backup in the storage, newest first. Files with other names are ignored.

    Raises BackupError.
    """
    files: dict[str, dict[str, int]] = {}
    for file, size in storage.file_sizes().items():
        if match := _FILE.fullmatch(file):
            files.setdefault(match["name"], {})[file] = size
    return [_entry(storage, name, files[name]) for name in sorted(files, reverse=True)]


def find_backup(storage: Storage, name: str | None, *, complete_only: bool = False) -> Entry:
    """Return the backup with this name, or the newest one without a name.

    `complete_only` restricts the newest one to complete backups. Raises NoSuchBackup.
    """
    backups = list_backups(storage)
    if name is not None:
        matching = [entry for entry in backups if entry.name == name]
    else:
        matching = [entry for entry in backups if entry.state is BackupState.COMPLETE or not complete_only]
    if not matching:
        missing = f"backup {name}" if name else "complete backup" if complete_only else "backup"
        raise NoSuchBackup(f"There is no {missing} at {storage}.")
    return matching[0]


def _entry(storage: Storage, name: str, files: dict[str, int]) -> Entry:
    begun_at = datetime.strptime(name.split("-")[1], _TIME).replace(tzinfo=UTC)
    manifest, state, problem = None, BackupState.COMPLETE, ""
    dump, has_manifest = files.get(name + DUMP_SUFFIX), name + MANIFEST_SUFFIX in files
    if has_manifest:
        try:
            manifest = read_manifest(storage, name)
        except DamagedBackup as error:
            state, problem = BackupState.DAMAGED, error.message
    if not has_manifest:
        state = BackupState.UNFINISHED
        problem = (
            "it has no manifest: it is still being written, was interrupted, or the manifest was deleted"
        )
    elif dump is None:
        state, problem = BackupState.DAMAGED, "the dump is missing"
    elif manifest is not None and dump != manifest.dump_bytes:
        state, problem = (
            BackupState.DAMAGED,
            f"the dump has {dump:,} bytes instead of {manifest.dump_bytes:,}",
        )
    return Entry(name, begun_at, state, problem, manifest, files)


def read_manifest(storage: Storage, name: str) -> Manifest:
    """Return the manifest of a backup. Raises DamagedBackup if it is damaged or names another backup."""
    with storage.open_for_reading(name + MANIFEST_SUFFIX) as file:
        manifest = Manifest.from_bytes(file.read())
    if manifest.name != name:
        raise DamagedBackup(f"the manifest belongs to the backup {manifest.name}")
    return manifest
