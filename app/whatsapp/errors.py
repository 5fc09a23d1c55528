"""What can go wrong with a session, beyond what can go wrong with any row."""

from app.errors import ConflictError, FrontdeskError


class StaleCredentialsError(ConflictError):
    """The credentials are not at the version that this change was made from: read them again."""


class SessionHeldError(ConflictError):
    """Another worker holds this company's session: two at once break its conversations. Stop one."""


class UnreadableValueError(FrontdeskError):
    """A stored WhatsApp value cannot be decrypted: its key is not among WHATSAPP_ENCRYPTION_KEYS."""
