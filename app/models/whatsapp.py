"""The WhatsApp worker's authentication state: opaque values, compact JSON or its encryption."""

from typing import Any

from sqlalchemy import BigInteger, Index, LargeBinary, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, Instant, Tenant


class WhatsAppAuth(Tenant, Base):
    """A salon's credentials. `version` grows with every write: changes are compare-and-swap."""

    __tablename__ = "whatsapp_auth"

    creds: Mapped[bytes] = mapped_column(LargeBinary)
    version: Mapped[int] = mapped_column(BigInteger, server_default=text("1"))

    @classmethod
    def constraints(cls) -> tuple[Any, ...]:
        return (UniqueConstraint("company_id"),)


class WhatsAppKey(Tenant, Base):
    """One Signal key. BYTEA because JSONB refuses NUL, lone surrogates and reorders keys."""

    __tablename__ = "whatsapp_keys"

    key_type: Mapped[str]
    key_id: Mapped[str]
    value: Mapped[bytes] = mapped_column(LargeBinary)
    expires_at: Mapped[Instant | None]

    @classmethod
    def constraints(cls) -> tuple[Any, ...]:
        return (
            UniqueConstraint("company_id", "key_type", "key_id"),
            Index(None, "company_id", "expires_at"),
        )
