"""The backups that lie at a place, by name: each is a dump and a manifest."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from app.backup.errors import DamagedBackup, NoSuchBackup
from app.backup.manifest import Manifest
from app.backup.storage import UNFINISHED, Place

DUMP, MANIFEST = ".dump", ".json"
_FILE = re.compile(
    rf"(?P<name>frontdesk-(?P<time>\d{{8}}T\d{{6}}Z)-[0-9a-f]{{4}})(?P<kind>\.(?:dump|json)(?:{re.escape(UNFINISHED)})?)"
)
_TIME = "%Y%m%dT%H%M%SZ"


class State(StrEnum):
    """What a look at the files says of a backup; `frontdesk backup verify` reads every byte."""

    COMPLETE = "complete"
    UNFINISHED = "unfinished"  # under way, or its process was killed
    DAMAGED = "damaged"


@dataclass(frozen=True)
class Entry:
    """One backup as its files tell it. `manifest` is None where it is missing or damaged."""

    name: str
    begun_at: datetime
    state: State
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


def entries(place: Place) -> list[Entry]:
    """Every backup at the place, the newest first. Other files are not ours. Raises BackupError."""
    files: dict[str, dict[str, int]] = {}
    for file, size in place.sizes().items():
        if found := _FILE.fullmatch(file):
            files.setdefault(found["name"], {})[file] = size
    return [_entry(place, name, files[name]) for name in sorted(files, reverse=True)]


def entry(place: Place, name: str | None, *, complete: bool = False) -> Entry:
    """The backup of that name, or else the newest (with `complete`, of those). Raises NoSuchBackup."""
    found = entries(place)
    if name is not None:
        fitting = [each for each in found if each.name == name]
    else:
        fitting = [each for each in found if each.state is State.COMPLETE or not complete]
    if not fitting:
        which = name or ("that is complete" if complete else "yet")
        raise NoSuchBackup(f"There is no backup {which} at {place}.")
    return fitting[0]


def _entry(place: Place, name: str, files: dict[str, int]) -> Entry:
    begun_at = datetime.strptime(name.split("-")[1], _TIME).replace(tzinfo=UTC)
    manifest, state, problem = None, State.COMPLETE, ""
    dump, described = files.get(name + DUMP), name + MANIFEST in files
    if described:
        try:
            manifest = read_manifest(place, name)
        except DamagedBackup as error:
            state, problem = State.DAMAGED, error.message
    if not described:
        state, problem = State.UNFINISHED, "it has no manifest: it is under way, was killed, or lost it"
    elif dump is None:
        state, problem = State.DAMAGED, "the dump is missing"
    elif manifest is not None and dump != manifest.dump_bytes:
        state, problem = State.DAMAGED, f"the dump has {dump:,} bytes instead of {manifest.dump_bytes:,}"
    return Entry(name, begun_at, state, problem, manifest, files)


def read_manifest(place: Place, name: str) -> Manifest:
    """Raises DamagedBackup when it is not the manifest that was written for this backup."""
    with place.reading(name + MANIFEST) as file:
        manifest = Manifest.from_bytes(file.read())
    if manifest.name != name:
        raise DamagedBackup(f"the manifest is that of {manifest.name}")
    return manifest
