"""Clients of a salon."""

from datetime import date
from typing import Any

from sqlalchemy import CheckConstraint, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, BigInt, Int, MirroredMixin, Money, Percent, TenantMixin, TimestampTz

# Only rows made by the assistant may lack a YClients id: YClients does not have them yet.
YCLIENTS_ID_CHECK = "source = 'assistant' OR {column} IS NOT NULL"
KNOWN_SOURCE = "source IN ('yclients', 'assistant')"


class Client(TenantMixin, MirroredMixin, Base):
    """A client. Clients may share a phone. A client made here has no `yclients_id` until YClients has it."""

    __tablename__ = "clients"

    yclients_id: Mapped[BigInt | None]
    name: Mapped[str]
    surname: Mapped[str | None]
    patronymic: Mapped[str | None]
    phone: Mapped[str | None]  # E.164
    email: Mapped[str | None]
    birth_date: Mapped[date | None]
    importance: Mapped[str | None]
    discount: Mapped[Percent | None]
    comment: Mapped[str | None]
    visit_count: Mapped[Int] = mapped_column(server_default=text("0"))
    total_spent: Mapped[Money | None]
    balance: Mapped[Money | None]
    last_visit_at: Mapped[TimestampTz | None]
    source: Mapped[str] = mapped_column(server_default="yclients")
    # Python folds the case: under the C locale, ILIKE does not fold Cyrillic letters.
    search_name: Mapped[str] = mapped_column(server_default="")

    @classmethod
    def constraints(cls) -> tuple[Any, ...]:
        return (
            UniqueConstraint("yclients_id", "company_id", name="clients_yclients_company_unique"),
            CheckConstraint(YCLIENTS_ID_CHECK.format(column="yclients_id"), name="id_unless_assistant"),
            CheckConstraint(KNOWN_SOURCE, name="source"),
            Index(None, "company_id", "phone"),
        )
