"""What became of the backups of this installation."""

from sqlalchemy import BigInteger, CheckConstraint, Double, Identity, Index, func
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, BigInt, TimestampTz


class BackupRun(Base):
    """One backup made, verified, restored or drilled.

    It belongs to the installation, not to a tenant: a backup holds all companies. `outcome`: `good`,
    `bad` (the backup is not what it should be) or `failed` (could not run, which says nothing about it).
    """

    __tablename__ = "backup_runs"
    __table_args__ = (
        CheckConstraint("kind IN ('create', 'verify', 'drill', 'restore')", name="kind"),
        CheckConstraint("outcome IN ('good', 'bad', 'failed')", name="outcome"),
        Index(None, "backup"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=False), primary_key=True)
    kind: Mapped[str]
    backup: Mapped[str | None]  # its name; NULL where none came to be
    taken_at: Mapped[TimestampTz | None]  # the moment that the backup shows
    outcome: Mapped[str]
    problem: Mapped[str | None]
    seconds: Mapped[float] = mapped_column(Double)  # of a drill or a restore: until the data were back
    rows: Mapped[BigInt | None]
    bytes: Mapped[BigInt | None]  # of the dump
    finished_at: Mapped[TimestampTz] = mapped_column(server_default=func.now())
