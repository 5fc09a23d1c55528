"""What migrations and de-duplication took out of the live tables, so that nothing is lost."""

from sqlalchemy import BigInteger, Identity, func
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, BigInt, Json, TimestampTz


class ArchivedRow(Base):
    """A row, or the part of one, that its table could not keep. No data path reads it.

    It belongs to the installation, not to a tenant: a row may be here *because* its company is
    unreadable. `row` is the old row as it was, `kept_id` the row that it was merged into.
    """

    __tablename__ = "archived_rows"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=False), primary_key=True)
    table_name: Mapped[str]
    row: Mapped[Json]
    reason: Mapped[str]
    kept_id: Mapped[BigInt | None]
    archived_at: Mapped[TimestampTz] = mapped_column(server_default=func.now())
