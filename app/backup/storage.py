"""Where backups lie: a directory, or whatever fsspec has an address for (`s3://bucket/folder`)."""

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
    """A folder of backups. Files appear in it whole, or not at all."""

    def __init__(self, location: str) -> None:
        """Raises ConfigurationError where fsspec knows no such address or lacks its package."""
        try:
            if "://" in location:
                self._fs, self._root = fsspec.core.url_to_fs(location)
            else:  # a directory may have any name, and fsspec would take `a::b` for two addresses
                self._fs, self._root = LocalFileSystem(), str(Path(location).expanduser().absolute())
        except (ImportError, ValueError) as error:
            raise ConfigurationError(f"The address of the backups cannot be used: {error}") from None
        self._root = self._root.rstrip("/")
        user = re.match(r"[a-z0-9+]+://([^/]*)@", location)
        self._secret = user[1] if user else ""
        if self._secret and self._secret in self._root:
            raise ConfigurationError(
                "The address of the backups holds a user and password that its file system does not read"
                " from there; S3 takes them from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
            )
        self.is_local = isinstance(self._fs, LocalFileSystem)

    def __str__(self) -> str:
        """The address without the user and password that it may hold."""
        return str(self._root if self.is_local else self._fs.unstrip_protocol(self._root))

    def file_sizes(self) -> dict[str, int]:
        """Names of the files, and their bytes. Raises NoSuchBackup where there is no such folder."""
        with self._translate_errors():
            self._fs.invalidate_cache()
            try:
                found = self._fs.ls(self._root, detail=True)
            except FileNotFoundError:
                raise NoSuchBackup(f"{self} does not exist; `frontdesk backup create` makes it.") from None
        return {
            each["name"].rsplit("/", 1)[-1]: int(each["size"]) for each in found if each["type"] == "file"
        }

    @contextmanager
    def open_for_writing(self, name: str) -> Iterator[IO[bytes]]:
        """A new file that takes its place when the block ends well, and is on the disk then."""
        if self.is_local:
            with self._translate_errors(name), self._write_local(name) as file:
                yield file
            return
        with self._translate_errors(name):
            file = self._fs.open(f"{self._root}/{name}", "wb", autocommit=False)
            try:
                yield file
                file.close()
            except BaseException:  # whatever ends it, Ctrl-C too: half a file must not appear
                file.closed = True  # or it uploads what it has when it is collected
                file.discard()
                raise
            file.commit()

    @contextmanager
    def _write_local(self, name: str) -> Iterator[IO[bytes]]:
        path = Path(self._root, name)
        part = path.with_name(name + PARTIAL_SUFFIX)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # It holds every client of every salon: for nobody else on this machine.
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
                yield file
                file.flush()
                os.fsync(descriptor)
        except BaseException:  # the same
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
        with self._translate_errors(name), self._fs.open(f"{self._root}/{name}", "rb") as file:
            yield file

    def delete(self, name: str) -> None:
        with self._translate_errors(name), suppress(FileNotFoundError):  # another prune was faster
            self._fs.rm_file(f"{self._root}/{name}")

    @contextmanager
    def _translate_errors(self, name: str = "") -> Iterator[None]:
        """What a file system raises, in one line. Each has errors of its own, with no base in common."""
        try:
            yield
        except FrontdeskError:
            raise
        except Exception as error:  # translated and raised: s3 and others have no base in common
            text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            text = text.replace(self._secret, "") if self._secret else text
            where = f"{self}/{name}" if name else str(self)
            raise BackupError(f"{where}: {' '.join(text.split()) or type(error).__name__}.") from error
