"""The WhatsApp worker's authentication state: opaque values, compact JSON or its encryption."""

from typing import Any

from sqlalchemy import BigInteger, Index, LargeBinary, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, TenantMixin, TimestampTz


class WhatsAppAuth(TenantMixin, Base):
    """A salon's credentials. `version` grows with every write: changes are compare-and-swap."""

    __tablename__ = "whatsapp_auth"

    creds: Mapped[bytes] = mapped_column(LargeBinary)
    version: Mapped[int] = mapped_column(BigInteger, server_default=text("1"))

    @classmethod
    def constraints(cls) -> tuple[Any, ...]:
        return (UniqueConstraint("company_id"),)


class WhatsAppKey(TenantMixin, Base):
    """One Signal key. BYTEA because JSONB refuses NUL, lone surrogates and reorders keys."""

    __tablename__ = "whatsapp_keys"

    key_type: Mapped[str]
    key_id: Mapped[str]
    value: Mapped[bytes] = mapped_column(LargeBinary)
    expires_at: Mapped[TimestampTz | None]

    @classmethod
    def constraints(cls) -> tuple[Any, ...]:
        return (
            UniqueConstraint("company_id", "key_type", "key_id"),
            # All that health asks for: it never reads the values, which are ten times as large.
            Index(None, "company_id", "key_type", "expires_at", "updated_at"),
        )


class WhatsAppState(TenantMixin, Base):
    """What is remembered of a salon's session beside its values."""

    __tablename__ = "whatsapp_states"

    owner: Mapped[str | None]  # the worker that holds the session
    held_until: Mapped[TimestampTz | None]
    contested_at: Mapped[TimestampTz | None]  # another worker tried to write while it was held
    contested_by: Mapped[str | None]
    most_sessions: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    critical_since: Mapped[TimestampTz | None]  # so that an episode is reported once

    @classmethod
    def constraints(cls) -> tuple[Any, ...]:
        return (UniqueConstraint("company_id"),)
