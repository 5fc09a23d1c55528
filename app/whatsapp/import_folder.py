"""Sessions in the format of Baileys' useMultiFileAuthState: a folder with one file per value."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.errors import InvalidInputError
from app.whatsapp import baileys_json

# Longer names come first, because some names are prefixes of others.
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
    """A complete session. `skipped` is the number of unreadable values by type."""

    creds: dict[str, Any]
    keys: dict[str, dict[str, Any]] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)

    def add(self, key_type: str, key_id: str, text: bytes) -> None:
        """Add a key from its JSON text, or count it as skipped if the text is invalid."""
        try:
            self.keys.setdefault(key_type, {})[key_id] = baileys_json.decode(text)
        except InvalidInputError:
            self.skipped[key_type] = self.skipped.get(key_type, 0) + 1


def read_folder(folder: Path) -> ImportedSession:
    """Read a session from a folder. Files with other names are ignored.

    Raises InvalidInputError if there are no readable credentials. The error contains no file name of a key,
    because these contain phone numbers.
    """
    try:
        creds = baileys_json.decode((folder / CREDS).read_bytes())
    except FileNotFoundError:
        raise InvalidInputError(f"The folder has no {CREDS}: it is not a Baileys session.") from None
    except InvalidInputError as error:
        raise InvalidInputError(f"{CREDS}: {error.message}") from None
    if not isinstance(creds, dict):
        raise InvalidInputError(f"{CREDS} is not an object with fields.")
    session = ImportedSession(creds)
    for file in sorted(folder.glob("*.json")):
        key = parse_key_name(file.stem)
        if key is not None:
            session.add(*key, file.read_bytes())
    return session


def parse_key_name(stem: str) -> tuple[str, str] | None:
    """Return type and id of a key from its file name without `.json`, or None for other files.

    In file names, Baileys writes `/` as `__` and `:` as `-`.
    """
    for key_type in KEY_TYPES:
        name = stem.removeprefix(f"{key_type}-")
        if name == stem:
            continue
        if key_type == "sender-key":  # group::user::device
            name = re.sub(r"--(.+)--(\d+)$", r"::\1::\2", name)
        # An address with a device, user:1@server. Group ids contain "-" too, but not before these servers.
        name = re.sub(r"-(\d+)@(s\.whatsapp\.net|lid|hosted|hosted\.lid)$", r":\1@\2", name)
        return key_type, name.replace("__", "/")
    return None
