"""Errors of WhatsApp sessions, in addition to the errors of all operations."""

from app.errors import ConflictError, FrontdeskError


class StaleCredentialsError(ConflictError):
    """The credentials have changed since the version that this change is based on: read them again."""


class SessionHeldError(ConflictError):
    """Another worker holds this company's session. Two workers at once break its conversations: stop one."""


class UnreadableValueError(FrontdeskError):
    """A stored WhatsApp value cannot be decrypted: its key is not among WHATSAPP_ENCRYPTION_KEYS."""
