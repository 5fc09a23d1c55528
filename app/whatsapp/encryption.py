"""Encryption at rest. The values are private keys: whoever has them can read and write as the salon."""

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from app.config import Settings
from app.whatsapp.errors import UnreadableValueError

# Every Fernet token begins with its version (0x80) and the high bytes of a time, in base64. No JSON does.
FERNET_PREFIX = b"gAAAAA"


class Cipher:
    """Encrypts with the first key, decrypts with any. Without keys values are stored as they are.

    Values that were stored before there was a key stay readable.
    """

    def __init__(self, keys: list[str]) -> None:
        """`keys` as Fernet makes them, the newest first."""
        self._newest = Fernet(keys[0]) if keys else None
        self._any = MultiFernet([Fernet(key) for key in keys]) if keys else None

    @classmethod
    def from_settings(cls, settings: Settings) -> "Cipher":
        """With WHATSAPP_ENCRYPTION_KEYS."""
        secret = settings.whatsapp_encryption_keys
        return cls([key.strip() for key in secret.get_secret_value().split(",")] if secret else [])

    @property
    def is_disabled(self) -> bool:
        """Whether values are stored unencrypted, for lack of a key."""
        return self._newest is None

    def encrypt(self, value: bytes) -> bytes:
        """What is to be stored."""
        return self._newest.encrypt(value) if self._newest else value

    def decrypt(self, stored: bytes) -> bytes:
        """The value. Raises UnreadableValueError: a value that cannot be read is not one that is missing."""
        if not stored.startswith(FERNET_PREFIX):
            return stored
        if self._any is None:
            raise UnreadableValueError
        try:
            return self._any.decrypt(stored)
        except InvalidToken:
            raise UnreadableValueError from None

    def is_current(self, stored: bytes) -> bool:
        """Whether it is stored as `encrypt` would: with the first key, or as it is where there is none."""
        if self._newest is None:
            return not stored.startswith(FERNET_PREFIX)
        try:
            self._newest.decrypt(stored)
        except InvalidToken:
            return False
        return True
