"""History of the backups of this installation."""

from sqlalchemy import BigInteger, CheckConstraint, Double, Identity, Index, func
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, BigInt, TimestampTz


class BackupRun(Base):
    """One run that created, verified or restored a backup, or that drilled its restore.

    The table belongs to the installation, not to a tenant: a backup contains all companies. `outcome` is
    `good`, `bad` (the backup is damaged or incomplete) or `failed` (the run could not be carried out; the
    state of the backup is unknown).
    """

    __tablename__ = "backup_runs"
    __table_args__ = (
        CheckConstraint("kind IN ('create', 'verify', 'drill', 'restore')", name="kind"),
        CheckConstraint("outcome IN ('good', 'bad', 'failed')", name="outcome"),
        Index(None, "backup"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=False), primary_key=True)
    kind: Mapped[str]
    backup: Mapped[str | None]  # name; NULL if no backup was created
    taken_at: Mapped[TimestampTz | None]  # time of the backup's snapshot
    outcome: Mapped[str]
    problem: Mapped[str | None]
    seconds: Mapped[float] = mapped_column(
        Double
    )  # duration; for a drill or a restore, until the data were restored
    rows: Mapped[BigInt | None]
    bytes: Mapped[BigInt | None]  # size of the dump
    finished_at: Mapped[TimestampTz] = mapped_column(server_default=func.now())
