"""Storage of backups: a directory, or any address that fsspec supports, such as `s3://bucket/folder`."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import fsspec.core
from fsspec.implementations.local import LocalFileSystem

from app.backup.errors import BackupError, NoSuchBackup
from app.errors import ConfigurationError, FrontdeskError

PARTIAL_SUFFIX = ".part"


class Storage:
    """A folder of backups. A file appears in it when it is complete."""

    def __init__(self, location: str) -> None:
        """Open the folder at `location`.

        Raises ConfigurationError if fsspec does not support the address, or lacks a package for it.
        """
        try:
            if "://" in location:
                self._fs, self._root = fsspec.core.url_to_fs(location)
            else:  # not parsed by fsspec, which would split a directory name like `a::b` into two addresses
                self._fs, self._root = LocalFileSystem(), str(Path(location).expanduser().absolute())
        except (ImportError, ValueError) as error:
            raise ConfigurationError(
                f"The address of the backups (BACKUP_ADDRESS or --at) is invalid: {error}"
            ) from None
        self._root = self._root.rstrip("/")
        user = re.match(r"[a-z0-9+]+://([^/]*)@", location)
        self._secret = user[1] if user else ""
        if self._secret and self._secret in self._root:
            raise ConfigurationError(
                "The address of the backups contains a user and password, but its file system does not read"
                " them from there. For S3, set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead."
            )
        self.is_local = isinstance(self._fs, LocalFileSystem)

    def __str__(self) -> str:
        """Return the address without user and password."""
        return str(self._root if self.is_local else self._fs.unstrip_protocol(self._root))

    def file_sizes(self) -> dict[str, int]:
        """Return the size in bytes of each file by name. Raises NoSuchBackup if the folder does not exist."""
        with self._translate_errors():
            self._fs.invalidate_cache()
            try:
                files = self._fs.ls(self._root, detail=True)
            except FileNotFoundError:
                raise NoSuchBackup(f"{self} does not exist; `frontdesk backup create` creates it.") from None
        return {
            file["name"].rsplit("/", 1)[-1]: int(file["size"]) for file in files if file["type"] == "file"
        }

    @contextmanager
    def open_for_writing(self, name: str) -> Iterator[IO[bytes]]:
        """Open a new file for writing. It gets its name, synced to disk, when the block succeeds."""
        if self.is_local:
            with self._translate_errors(name), self._write_local(name) as file:
                yield file
            return
        with self._translate_errors(name):
            file = self._fs.open(f"{self._root}/{name}", "wb", autocommit=False)
            try:
                yield file
                file.close()
            except BaseException:  # including Ctrl-C: an incomplete file must not appear
                file.closed = True  # otherwise the garbage collector would close it, which uploads the rest
                file.discard()
                raise
            file.commit()

    @contextmanager
    def _write_local(self, name: str) -> Iterator[IO[bytes]]:
        path = Path(self._root, name)
        part = path.with_name(name + PARTIAL_SUFFIX)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A backup holds every client of every salon: only the owner of the file may read it.
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
                yield file
                file.flush()
                os.fsync(descriptor)
        except BaseException:  # including Ctrl-C, as above
            part.unlink(missing_ok=True)
            raise
        part.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    @contextmanager
    def open_for_reading(self, name: str) -> Iterator[IO[bytes]]:
        """Open a file for reading. Raises BackupError."""
        with self._translate_errors(name), self._fs.open(f"{self._root}/{name}", "rb") as file:
            yield file

    def delete(self, name: str) -> None:
        """Delete a file if it exists. Raises BackupError."""
        with self._translate_errors(name), suppress(FileNotFoundError):  # another prune deleted it first
            self._fs.rm_file(f"{self._root}/{name}")

    @contextmanager
    def _translate_errors(self, name: str = "") -> Iterator[None]:
        """Raise errors of the file system as BackupError, with a message of one line."""
        try:
            yield
        except FrontdeskError:
            raise
        except Exception as error:  # the errors of fsspec's file systems have no common base class
            text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            text = text.replace(self._secret, "") if self._secret else text
            where = f"{self}/{name}" if name else str(self)
            raise BackupError(f"{where}: {' '.join(text.split()) or type(error).__name__}.") from error
