"""Archive of the rows that migrations and de-duplication removed from their tables."""

from sqlalchemy import BigInteger, Identity, func
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, BigInt, Json, TimestampTz


class ArchivedRow(Base):
    """A row that its table could not keep, or only in part. Normal operations never read this table.

    The table belongs to the installation, not to a tenant: a row may be archived *because* its company id
    is unreadable. `row` is the complete original row. `kept_id` is the id of the row that it was merged
    into, or its own id if the row stays in its table.
    """

    __tablename__ = "archived_rows"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=False), primary_key=True)
    table_name: Mapped[str]
    row: Mapped[Json]
    reason: Mapped[str]
    kept_id: Mapped[BigInt | None]
    archived_at: Mapped[TimestampTz] = mapped_column(server_default=func.now())
