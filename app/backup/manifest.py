"""Manifest of a dump: its origin, its contents, and the checksums of the dump and of the manifest itself."""

import hashlib
import json
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from app.backup.errors import DamagedBackup

FORMAT: Literal[1] = 1


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TableContent(_Part):
    """Number of rows of a table, and one SHA-256 over all of them (see app/database/checksum.py)."""

    name: str  # schema-qualified, quoted if SQL requires it
    rows: int
    sha256: str


class Manifest(_Part):
    """Manifest of one backup. `taken_at` is the time of the snapshot of both the dump and the checksums."""

    format: Literal[1] = FORMAT
    name: str
    taken_at: datetime
    database: str
    revision: str | None  # Alembic revision of the schema
    server_version: str
    server_major: int
    tool: str  # version of pg_dump
    tool_major: int
    dump_bytes: int
    dump_sha256: str
    tables: tuple[TableContent, ...]
    sequences: dict[str, int]  # sequence name -> its last value
    roles: tuple[str, ...]  # owners and grantees
    of_extensions: tuple[str, ...] = ()  # tables whose rows may be in the dump, but that `tables` omits

    @property
    def rows(self) -> int:
        """Total number of rows of all tables."""
        return sum(table.rows for table in self.tables)

    def to_bytes(self) -> bytes:
        """Return the content of the file: JSON that includes a SHA-256 of the other fields."""
        document = self.model_dump(mode="json")
        return _serialised(document | {"sha256": hashlib.sha256(_serialised(document)).hexdigest()})

    @classmethod
    def from_bytes(cls, content: bytes) -> "Manifest":
        """Parse the content of the file. Raises DamagedBackup if any byte differs from `to_bytes`."""
        try:
            document: dict[str, Any] = json.loads(content)
            checksum = document.pop("sha256")
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
            raise DamagedBackup("the manifest cannot be read") from None
        expected = hashlib.sha256(_serialised(document)).hexdigest()
        # Compare the bytes too: JSON with other whitespace or escapes would parse to the same document.
        if checksum != expected or content != _serialised(document | {"sha256": expected}):
            raise DamagedBackup("the manifest differs from what was written (SHA-256)")
        try:
            return cls.model_validate(document)
        except ValidationError:
            raise DamagedBackup("the manifest was written by another version of Frontdesk") from None


def _serialised(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode("ascii")
