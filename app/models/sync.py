"""The sync with YClients: its runs, and the budget of requests that all processes share."""

from datetime import datetime

from sqlalchemy import ARRAY, DateTime, func, text
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, BigInt, Json, TenantMixin, TimestampTz


class SyncRun(TenantMixin, Base):
    """One run of the sync of one company.

    Without `finished_at` it is under way, or its process was killed. `complete_until` is where the next
    incremental run goes on: every booking changed upstream before it is here.
    """

    __tablename__ = "sync_runs"

    mode: Mapped[str]  # full, incremental, since
    kinds: Mapped[Json]  # names of what was asked for
    changed_after: Mapped[TimestampTz | None]  # of bookings, those changed since then; NULL: all
    started_at: Mapped[TimestampTz] = mapped_column(server_default=func.now())
    finished_at: Mapped[TimestampTz | None]
    complete_until: Mapped[TimestampTz | None]
    counts: Mapped[Json] = mapped_column(server_default=text("'{}'"))  # by kind
    requests: Mapped[BigInt] = mapped_column(server_default=text("0"))
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]


class RequestBudget(Base):
    """When requests to one API were allowed, newest first: its limits hold for the address that we share.

    It belongs to the installation, not to a tenant: every company's requests count.
    """

    __tablename__ = "request_budgets"

    api: Mapped[str] = mapped_column(primary_key=True)  # host and port
    granted: Mapped[list[datetime]] = mapped_column(
        ARRAY(DateTime(timezone=True)), server_default=text("'{}'")
    )
    paused_until: Mapped[TimestampTz | None]  # the API itself asked for a pause
