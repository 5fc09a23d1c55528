"""Runs of the sync with YClients, and the request budget that all processes share."""

from datetime import datetime

from sqlalchemy import ARRAY, DateTime, func, text
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, BigInt, Json, TenantMixin, TimestampTz


class SyncRun(TenantMixin, Base):
    """One sync run of one company.

    If `finished_at` is NULL, the run is in progress or its process was killed. The next incremental run
    starts at `complete_until`: every booking that changed in YClients before this time is stored here.
    """

    __tablename__ = "sync_runs"

    mode: Mapped[str]  # full, incremental, since
    kinds: Mapped[Json]  # names of the requested kinds of rows
    changed_after: Mapped[TimestampTz | None]  # only bookings changed since then are synced; NULL: all
    started_at: Mapped[TimestampTz] = mapped_column(server_default=func.now())
    finished_at: Mapped[TimestampTz | None]
    complete_until: Mapped[TimestampTz | None]
    counts: Mapped[Json] = mapped_column(server_default=text("'{}'"))  # row counts by kind
    requests: Mapped[BigInt] = mapped_column(server_default=text("0"))
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]


class RequestBudget(Base):
    """The times at which requests to one API were allowed, newest first.

    The table belongs to the installation, not to a tenant: an API limits the requests of an IP address,
    so the requests of all companies count together.
    """

    __tablename__ = "request_budgets"

    api: Mapped[str] = mapped_column(primary_key=True)  # host and port
    granted: Mapped[list[datetime]] = mapped_column(
        ARRAY(DateTime(timezone=True)), server_default=text("'{}'")
    )
    paused_until: Mapped[
        TimestampTz | None
    ]  # no requests before this time, because the API asked for a pause
