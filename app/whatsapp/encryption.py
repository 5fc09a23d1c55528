"""Encryption at rest. The values are private keys, which allow reading and writing messages of the salon."""

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from app.config import Settings
from app.whatsapp.errors import UnreadableValueError

# Every Fernet token begins with its version (0x80) and the high bytes of a timestamp, in base64. JSON text
# never begins like this.
FERNET_PREFIX = b"gAAAAA"


class Cipher:
    """Encrypts with the first key and decrypts with any key. Without keys, values are stored unencrypted.

    Unencrypted values stay readable after a key is configured.
    """

    def __init__(self, keys: list[str]) -> None:
        """Use these Fernet keys, the newest first."""
        self._newest = Fernet(keys[0]) if keys else None
        self._any = MultiFernet([Fernet(key) for key in keys]) if keys else None

    @classmethod
    def from_settings(cls, settings: Settings) -> "Cipher":
        """Use the keys of WHATSAPP_ENCRYPTION_KEYS."""
        secret = settings.whatsapp_encryption_keys
        return cls([key.strip() for key in secret.get_secret_value().split(",")] if secret else [])

    @property
    def is_disabled(self) -> bool:
        """True if no key is configured, so that values are stored unencrypted."""
        return self._newest is None

    def encrypt(self, value: bytes) -> bytes:
        """Return the value as it is stored: encrypted, or unchanged without keys."""
        return self._newest.encrypt(value) if self._newest else value

    def decrypt(self, stored: bytes) -> bytes:
        """Return the decrypted value. Raises UnreadableValueError if no key decrypts it."""
        if not stored.startswith(FERNET_PREFIX):
            return stored
        if self._any is None:
            raise UnreadableValueError
        try:
            return self._any.decrypt(stored)
        except InvalidToken:
            raise UnreadableValueError from None

    def is_current(self, stored: bytes) -> bool:
        """Return True if the value is encrypted with the first key, or unencrypted when there is no key."""
        if self._newest is None:
            return not stored.startswith(FERNET_PREFIX)
        try:
            self._newest.decrypt(stored)
        except InvalidToken:
            return False
        return True
