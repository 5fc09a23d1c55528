"""State of the assistant's conversations."""

from typing import Any

from sqlalchemy import UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, Json, TenantMixin, TimestampTz


class DialogContext(TenantMixin, Base):
    """The state of the conversation of one user with one salon."""

    __tablename__ = "dialog_contexts"

    user_id: Mapped[str]
    stage: Mapped[str | None]
    context: Mapped[Json] = mapped_column(server_default=text("'{}'"))
    last_activity_at: Mapped[TimestampTz | None]

    @classmethod
    def constraints(cls) -> tuple[Any, ...]:
        return (UniqueConstraint("user_id", "company_id"),)
