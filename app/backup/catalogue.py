"""The backups that lie at a place, by name: each is a dump and a manifest."""

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
    """What a look at the files says of a backup; `frontdesk backup verify` reads every byte."""

    COMPLETE = "complete"
    UNFINISHED = "unfinished"  # under way, or its process was killed
    DAMAGED = "damaged"


@dataclass(frozen=True)
class Entry:
    """One backup as its files tell it. `manifest` is None where it is missing or damaged."""

    name: str
    begun_at: datetime
    state: BackupState
    problem: str
    manifest: Manifest | None
    files: dict[str, int]  # names and bytes

    @property
    def bytes(self) -> int:
        return sum(self.files.values())


def new_name() -> str:
    """The name of a backup that begins now; names sort by time, within a second by their last four digits."""
    now = datetime.now(UTC)
    return f"frontdesk-{now.strftime(_TIME)}-{now.microsecond * 0x10000 // 1_000_000:04x}"


def list_backups(storage: Storage) -> list[Entry]:
    """Every backup at the place, the newest first. Other files are not ours. Raises BackupError."""
    files: dict[str, dict[str, int]] = {}
    for file, size in storage.file_sizes().items():
        if found := _FILE.fullmatch(file):
            files.setdefault(found["name"], {})[file] = size
    return [_entry(storage, name, files[name]) for name in sorted(files, reverse=True)]


def find_backup(storage: Storage, name: str | None, *, complete_only: bool = False) -> Entry:
    """The backup of that name, or else the newest (with `complete_only`, of those). Raises NoSuchBackup."""
    found = list_backups(storage)
    if name is not None:
        fitting = [each for each in found if each.name == name]
    else:
        fitting = [each for each in found if each.state is BackupState.COMPLETE or not complete_only]
    if not fitting:
        which = name or ("that is complete" if complete_only else "yet")
        raise NoSuchBackup(f"There is no backup {which} at {storage}.")
    return fitting[0]


def _entry(storage: Storage, name: str, files: dict[str, int]) -> Entry:
    begun_at = datetime.strptime(name.split("-")[1], _TIME).replace(tzinfo=UTC)
    manifest, state, problem = None, BackupState.COMPLETE, ""
    dump, described = files.get(name + DUMP_SUFFIX), name + MANIFEST_SUFFIX in files
    if described:
        try:
            manifest = read_manifest(storage, name)
        except DamagedBackup as error:
            state, problem = BackupState.DAMAGED, error.message
    if not described:
        state, problem = BackupState.UNFINISHED, "it has no manifest: it is under way, was killed, or lost it"
    elif dump is None:
        state, problem = BackupState.DAMAGED, "the dump is missing"
    elif manifest is not None and dump != manifest.dump_bytes:
        state, problem = (
            BackupState.DAMAGED,
            f"the dump has {dump:,} bytes instead of {manifest.dump_bytes:,}",
        )
    return Entry(name, begun_at, state, problem, manifest, files)


def read_manifest(storage: Storage, name: str) -> Manifest:
    """Raises DamagedBackup when it is not the manifest that was written for this backup."""
    with storage.open_for_reading(name + MANIFEST_SUFFIX) as file:
        manifest = Manifest.from_bytes(file.read())
    if manifest.name != name:
        raise DamagedBackup(f"the manifest is that of {manifest.name}")
    return manifest
