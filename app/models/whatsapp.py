"""Authentication state of the WhatsApp worker: opaque values, either compact JSON or encrypted JSON."""

from typing import Any

from sqlalchemy import BigInteger, Index, LargeBinary, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, TenantMixin, TimestampTz


class WhatsAppAuth(TenantMixin, Base):
    """The credentials of a salon. Every write increments `version`, for compare-and-swap updates."""

    __tablename__ = "whatsapp_auth"

    creds: Mapped[bytes] = mapped_column(LargeBinary)
    version: Mapped[int] = mapped_column(BigInteger, server_default=text("1"))

    @classmethod
    def constraints(cls) -> tuple[Any, ...]:
        return (UniqueConstraint("company_id"),)


class WhatsAppKey(TenantMixin, Base):
    """One Signal key. `value` is BYTEA because JSONB rejects NUL and lone surrogates, and reorders keys."""

    __tablename__ = "whatsapp_keys"

    key_type: Mapped[str]
    key_id: Mapped[str]
    value: Mapped[bytes] = mapped_column(LargeBinary)
    expires_at: Mapped[TimestampTz | None]

    @classmethod
    def constraints(cls) -> tuple[Any, ...]:
        return (
            UniqueConstraint("company_id", "key_type", "key_id"),
            # Health queries use this index only and never read the values, which are ten times as large.
            Index(None, "company_id", "key_type", "expires_at", "updated_at"),
        )


class WhatsAppState(TenantMixin, Base):
    """Lease and health data of a salon's session, apart from its credentials and keys."""

    __tablename__ = "whatsapp_states"

    owner: Mapped[str | None]  # the worker that holds the session
    held_until: Mapped[TimestampTz | None]
    contested_at: Mapped[TimestampTz | None]  # last time that another worker tried to write during the lease
    contested_by: Mapped[str | None]
    most_sessions: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    critical_since: Mapped[TimestampTz | None]  # set while critical, so that each incident is reported once

    @classmethod
    def constraints(cls) -> tuple[Any, ...]:
        return (UniqueConstraint("company_id"),)
