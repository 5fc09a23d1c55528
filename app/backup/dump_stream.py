"""Streaming of a dump out of its storage, to compute its checksum and to feed pg_restore."""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from typing import IO

from app.backup.catalogue import DUMP_SUFFIX, Entry
from app.backup.errors import DamagedBackup
from app.backup.manifest import Manifest
from app.backup.storage import Storage

READ_SIZE_BYTES = 1 << 20
OnProgress = Callable[[str, int, int | None], None]  # step, amount done, total (None if unknown)


def read_dump(storage: Storage, manifest: Manifest, pipe: IO[bytes] | None, on_progress: OnProgress) -> str:
    """Read the whole dump, write it to the pipe if there is one, and return its SHA-256.

    If the program that reads the pipe exits early, the rest is read for the checksum only, and the program's
    own error message gives the reason. Raises BackupError if the dump cannot be read.
    """
    digest, done = hashlib.sha256(), 0
    step = "checking" if pipe is None else "reading"
    with storage.open_for_reading(manifest.name + DUMP_SUFFIX) as file:
        while block := file.read(READ_SIZE_BYTES):
            digest.update(block)
            done += len(block)
            on_progress(step, done, manifest.dump_bytes)
            if pipe is not None:
                try:
                    pipe.write(block)
                except BrokenPipeError:
                    _close(pipe)
                    pipe = None
    if pipe is not None:
        _close(pipe)
    return digest.hexdigest()


def verify_checksum(storage: Storage, entry: Entry, on_progress: OnProgress) -> Manifest:
    """Check the SHA-256 of a backup's dump and return its manifest. Raises DamagedBackup if it differs."""
    manifest = entry.manifest
    if entry.problem or manifest is None:
        raise DamagedBackup(f"{entry.name} is {entry.state}: {entry.problem}.")
    if read_dump(storage, manifest, None, on_progress) != manifest.dump_sha256:
        raise DamagedBackup(f"{entry.name}: the dump differs from what was written (SHA-256).")
    return manifest


def _close(pipe: IO[bytes]) -> None:
    """Close the pipe. Data in its buffer is lost if the reading program has exited."""
    with suppress(BrokenPipeError):
        pipe.close()
