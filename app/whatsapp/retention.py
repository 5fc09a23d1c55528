"""Retention of keys, by type.

The age of a key does not show whether it is still needed: a pre-key is unused until a customer writes for the
first time, and identities and LID mappings are not rewritten while in use. Deleting them loses messages
("Invalid PreKey ID", "No session record"). So in the profile `safe`, only keys that Baileys recreates expire.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from app.config import Settings

DELETION_GRACE_PERIOD = timedelta(days=7)  # between the expiry of a key and its deletion
IDLE_PERIOD = timedelta(days=180)  # since the last message of a conversation; deleted on request only

# Every message rewrites keys of these types, so the last write shows whether they are in use.
REWRITTEN_IN_USE = frozenset({"session", "sender-key"})

# Never deleted unless the operator names the type.
PROTECTED_TYPES = REWRITTEN_IN_USE | {
    "pre-key",
    "identity-key",
    "app-state-sync-key",
    "app-state-sync-version",
    "lid-mapping",
}

# Days until expiry by type; None means never.
SAFE_DAYS: Mapping[str, int | None] = {"tctoken": 28, "device-list": 14, "sender-key-memory": 14}
CLASSIC_DAYS: Mapping[str, int | None] = {"lid-mapping": 7, "pre-key": 7, "session": 7}
# Each profile has days by type, and days for all other types.
_PROFILES: Mapping[str, tuple[Mapping[str, int | None], int | None]] = {
    "safe": (SAFE_DAYS, None),
    "classic": (CLASSIC_DAYS, 14),
}


@dataclass(frozen=True)
class Retention:
    """A retention profile and the overrides of the installation, both in days."""

    profile: str
    overrides: Mapping[str, int | None]

    @classmethod
    def from_settings(cls, settings: Settings) -> "Retention":
        """Return the retention of WHATSAPP_RETENTION and WHATSAPP_RETENTION_DAYS."""
        return cls(settings.whatsapp_retention, settings.whatsapp_retention_days)

    def days(self, key_type: str) -> int | None:
        """Return the days until a key of this type expires; None means never."""
        if key_type in self.overrides:
            return self.overrides[key_type]
        by_type, otherwise = _PROFILES[self.profile]
        return by_type.get(key_type, otherwise)

    def has_expiry(self, key_type: str) -> bool:
        """Return True if keys of this type expire. The legacy system stored an expiry for every type."""
        return self.days(key_type) is not None

    def expires_at(self, key_type: str, now: datetime) -> datetime | None:
        """Return the expiry of a key that is written now; None means never."""
        days = self.days(key_type)
        return None if days is None else now + timedelta(days=days)

    def is_deletable(self, key_type: str, requested_types: frozenset[str]) -> bool:
        """Return True if clean-up may delete keys of this type.

        `requested_types` are the types that the operator named, or empty.
        """
        return (
            key_type in requested_types
            if requested_types
            else key_type not in PROTECTED_TYPES and self.has_expiry(key_type)
        )

    def is_deleted_by_idleness(self, key_type: str) -> bool:
        """Return True if clean-up uses the time since the last write instead of the expiry."""
        return key_type in REWRITTEN_IN_USE and not self.has_expiry(key_type)
