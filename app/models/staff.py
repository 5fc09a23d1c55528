"""Staff and their schedules."""

import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Numeric, UniqueConstraint, text, true
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, BigInt, Int, Json, MirroredMixin, TenantMixin


class Staff(TenantMixin, MirroredMixin, Base):
    """A member of staff."""

    __tablename__ = "staff"

    yclients_id: Mapped[BigInt]
    name: Mapped[str]
    specialization: Mapped[str | None]
    position: Mapped[str | None]
    rating: Mapped[Decimal | None] = mapped_column(Numeric(3, 2))
    weight: Mapped[Int | None]
    is_active: Mapped[bool] = mapped_column(server_default=true())  # false: dismissed
    is_bookable: Mapped[bool] = mapped_column(server_default=true())  # false: hidden from booking

    @classmethod
    def constraints(cls) -> tuple[Any, ...]:
        return (UniqueConstraint("yclients_id", "company_id", name="staff_yclients_company_unique"),)


class StaffSchedule(TenantMixin, MirroredMixin, Base):
    """The working hours of one staff member on one date in the salon's time zone.

    `intervals` has the form `[{"from": "10:00", "to": "14:30"}, …]`, in local time.
    """

    __tablename__ = "staff_schedules"

    staff_id: Mapped[BigInt]
    date: Mapped[datetime.date]
    is_working: Mapped[bool] = mapped_column(server_default=true())
    intervals: Mapped[Json] = mapped_column(server_default=text("'[]'"))

    @classmethod
    def constraints(cls) -> tuple[Any, ...]:
        return (UniqueConstraint("staff_id", "date", "company_id"),)
