"""Sessions in a folder, as Baileys' useMultiFileAuthState writes them: a file for each value."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.errors import InvalidInputError
from app.whatsapp import baileys_json

# The longer names first: a type's name may be the beginning of another's.
KEY_TYPES = (
    "app-state-sync-version",
    "app-state-sync-key",
    "sender-key-memory",
    "identity-key",
    "lid-mapping",
    "device-list",
    "sender-key",
    "pre-key",
    "session",
    "tctoken",
)
CREDS = "creds.json"


@dataclass
class ImportedSession:
    """A whole session. `skipped` counts the values by type that cannot be read."""

    creds: dict[str, Any]
    keys: dict[str, dict[str, Any]] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)

    def add(self, key_type: str, key_id: str, text: bytes) -> None:
        """Add one value from its JSON."""
        try:
            self.keys.setdefault(key_type, {})[key_id] = baileys_json.decode(text)
        except InvalidInputError:
            self.skipped[key_type] = self.skipped.get(key_type, 0) + 1


def read_folder(folder: Path) -> ImportedSession:
    """Read all of it. Files that are no value of a session are left alone.

    Raises InvalidInputError without readable credentials. File names hold phones: no error shows them.
    """
    try:
        creds = baileys_json.decode((folder / CREDS).read_bytes())
    except FileNotFoundError:
        raise InvalidInputError(f"There is no {CREDS} in this folder: it is no session of Baileys.") from None
    except InvalidInputError as error:
        raise InvalidInputError(f"{CREDS}: {error.message}") from None
    if not isinstance(creds, dict):
        raise InvalidInputError(f"{CREDS} is not an object with fields.")
    session = ImportedSession(creds)
    for file in sorted(folder.glob("*.json")):
        found = parse_key_name(file.stem)
        if found is not None:
            session.add(*found, file.read_bytes())
    return session


def parse_key_name(stem: str) -> tuple[str, str] | None:
    """Type and id from a file's name without `.json`; Baileys writes `/` as `__` and `:` as `-` there."""
    for key_type in KEY_TYPES:
        name = stem.removeprefix(f"{key_type}-")
        if name == stem:
            continue
        if key_type == "sender-key":  # group::user::device
            name = re.sub(r"--(.+)--(\d+)$", r"::\1::\2", name)
        # A device in an address: user:1@server. A group's own "-" stands before no such server.
        name = re.sub(r"-(\d+)@(s\.whatsapp\.net|lid|hosted|hosted\.lid)$", r":\1@\2", name)
        return key_type, name.replace("__", "/")
    return None
