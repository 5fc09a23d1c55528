"""How long keys are kept, by type.

Age says little about a key: a pre-key waits for a customer who has not written yet, and the rows of
identities and LID mappings are not rewritten while in use. Deleting one of those loses messages ("Invalid
PreKey ID", "No session record"). Only what Baileys rebuilds by itself expires in the profile `safe`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from app.config import Settings

DELETION_GRACE_PERIOD = timedelta(days=7)  # between the expiry of a key and its deletion
IDLE_PERIOD = timedelta(days=180)  # unused for so long, a conversation is over; it is deleted on request only

# Idleness tells something about these, because every message rewrites them.
REWRITTEN_IN_USE = frozenset({"session", "sender-key"})

# Never deleted unless the operator names the type.
PROTECTED_TYPES = REWRITTEN_IN_USE | {
    "pre-key",
    "identity-key",
    "app-state-sync-key",
    "app-state-sync-version",
    "lid-mapping",
}

# Days by type, and for all other types; None is never.
SAFE_DAYS: Mapping[str, int | None] = {"tctoken": 28, "device-list": 14, "sender-key-memory": 14}
CLASSIC_DAYS: Mapping[str, int | None] = {"lid-mapping": 7, "pre-key": 7, "session": 7}
_PROFILES: Mapping[str, tuple[Mapping[str, int | None], int | None]] = {
    "safe": (SAFE_DAYS, None),
    "classic": (CLASSIC_DAYS, 14),
}


@dataclass(frozen=True)
class Retention:
    """The profile with the installation's own settings over it."""

    profile: str
    overrides: Mapping[str, int | None]

    @classmethod
    def from_settings(cls, settings: Settings) -> "Retention":
        """By WHATSAPP_RETENTION and WHATSAPP_RETENTION_DAYS."""
        return cls(settings.whatsapp_retention, settings.whatsapp_retention_days)

    def days(self, key_type: str) -> int | None:
        """After how many days a key of this type expires; None is never."""
        if key_type in self.overrides:
            return self.overrides[key_type]
        by_type, otherwise = _PROFILES[self.profile]
        return by_type.get(key_type, otherwise)

    def has_expiry(self, key_type: str) -> bool:
        """Whether age means anything for this type. The first system gave every row an expiry."""
        return self.days(key_type) is not None

    def expires_at(self, key_type: str, now: datetime) -> datetime | None:
        """When a key that is written now expires."""
        days = self.days(key_type)
        return None if days is None else now + timedelta(days=days)

    def is_deletable(self, key_type: str, requested_types: frozenset[str]) -> bool:
        """Whether clean-up may delete keys of this type; `requested_types` are those that the operator
        asked for."""
        return (
            key_type in requested_types
            if requested_types
            else key_type not in PROTECTED_TYPES and self.has_expiry(key_type)
        )

    def is_deleted_by_idleness(self, key_type: str) -> bool:
        """Whether clean-up goes by the time since the last use and not by the expiry."""
        return key_type in REWRITTEN_IN_USE and not self.has_expiry(key_type)
