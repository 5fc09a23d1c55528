"""What belongs to a dump: where it comes from, what is in it, and the checksums of the dump and of itself."""

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
    """Rows of a table, and the root of their SHA-256 (see app/database/checksum.py)."""

    name: str  # with its schema, quoted where SQL needs it
    rows: int
    sha256: str


class Manifest(_Part):
    """One backup. `taken_at` is the moment of the snapshot that dump and checksums were made from."""

    format: Literal[1] = FORMAT
    name: str
    taken_at: datetime
    database: str
    revision: str | None  # Alembic's
    server_version: str
    server_major: int
    tool: str  # pg_dump's version
    tool_major: int
    dump_bytes: int
    dump_sha256: str
    tables: tuple[TableContent, ...]
    sequences: dict[str, int]  # the last number that was given out
    roles: tuple[str, ...]  # owners, and who was granted something
    of_extensions: tuple[str, ...] = ()  # tables whose rows the dump may hold, and `tables` does not

    @property
    def rows(self) -> int:
        return sum(table.rows for table in self.tables)

    def to_bytes(self) -> bytes:
        """The file: JSON with the SHA-256 of itself in it."""
        document = self.model_dump(mode="json")
        return _serialised(document | {"sha256": hashlib.sha256(_serialised(document)).hexdigest()})

    @classmethod
    def from_bytes(cls, content: bytes) -> "Manifest":
        """Read the file. Raises DamagedBackup when a single byte is not as `to_bytes` wrote it."""
        try:
            document: dict[str, Any] = json.loads(content)
            checksum = document.pop("sha256")
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
            raise DamagedBackup("the manifest cannot be read") from None
        expected = hashlib.sha256(_serialised(document)).hexdigest()
        # Blanks and escapes could be written otherwise: the whole file is compared, not what it means.
        if checksum != expected or content != _serialised(document | {"sha256": expected}):
            raise DamagedBackup("the manifest is not as it was written (SHA-256)")
        try:
            return cls.model_validate(document)
        except ValidationError:
            raise DamagedBackup("the manifest is of another version of Frontdesk") from None


def _serialised(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode("ascii")
