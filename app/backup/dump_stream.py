"""Read a dump from its place: for its checksum, and into the program that makes something of it."""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from typing import IO

from app.backup.catalogue import DUMP_SUFFIX, Entry
from app.backup.errors import DamagedBackup
from app.backup.manifest import Manifest
from app.backup.storage import Storage

READ_SIZE_BYTES = 1 << 20  # bytes
OnProgress = Callable[[str, int, int | None], None]  # what is done, how far, of how much if that is known


def read_dump(storage: Storage, manifest: Manifest, pipe: IO[bytes] | None, on_progress: OnProgress) -> str:
    """Read the dump to its end, into the pipe if there is one; return its SHA-256. Raises BackupError.

    A program that ends early says itself why; what is left is read for the checksum alone.
    """
    digest, done = hashlib.sha256(), 0
    what = "checking" if pipe is None else "reading"
    with storage.open_for_reading(manifest.name + DUMP_SUFFIX) as file:
        while piece := file.read(READ_SIZE_BYTES):
            digest.update(piece)
            done += len(piece)
            on_progress(what, done, manifest.dump_bytes)
            if pipe is not None:
                try:
                    pipe.write(piece)
                except BrokenPipeError:
                    _close(pipe)
                    pipe = None
    if pipe is not None:
        _close(pipe)
    return digest.hexdigest()


def verify_checksum(storage: Storage, entry: Entry, on_progress: OnProgress) -> Manifest:
    """The manifest of a backup whose every byte is as it was written. Raises DamagedBackup."""
    manifest = entry.manifest
    if entry.problem or manifest is None:
        raise DamagedBackup(f"{entry.name} is {entry.state}: {entry.problem}.")
    if read_dump(storage, manifest, None, on_progress) != manifest.dump_sha256:
        raise DamagedBackup(f"{entry.name}: the dump is not as it was written (SHA-256).")
    return manifest


def _close(pipe: IO[bytes]) -> None:
    """Close it, also where nobody reads what is left in its buffer."""
    with suppress(BrokenPipeError):
        pipe.close()
