"""Bookings (records in YClients), their services, and the time slots that they occupy."""

from typing import Any

from sqlalchemy import (
    CheckConstraint,
    ForeignKeyConstraint,
    Index,
    SmallInteger,
    UniqueConstraint,
    literal_column,
    text,
)
from sqlalchemy.dialects.postgresql import INT8RANGE, TSTZRANGE, ExcludeConstraint, Range
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, BigInt, Int, MirroredMixin, Money, Percent, TenantMixin, TimestampTz
from app.models.client import KNOWN_SOURCE, YCLIENTS_ID_CHECK

NO_OVERLAP = "booking_slots_no_overlap"


class Booking(TenantMixin, MirroredMixin, Base):
    """A booking.

    `client_id` and `staff_id` are YClients ids; the client or staff member may be missing in this
    database. `pending_since` is set while YClients has not yet confirmed a change made here.
    """

    __tablename__ = "bookings"

    yclients_record_id: Mapped[BigInt | None]
    client_id: Mapped[BigInt | None]
    client_phone: Mapped[str | None]  # E.164
    client_name: Mapped[str | None]
    staff_id: Mapped[BigInt | None]
    starts_at: Mapped[TimestampTz]
    ends_at: Mapped[TimestampTz]
    # 2 confirmed, 1 arrived, 0 waiting, -1 no-show
    attendance: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))
    status: Mapped[str] = mapped_column(server_default="active")
    comment: Mapped[str | None]
    price: Mapped[Money | None]
    source: Mapped[str] = mapped_column(server_default="yclients")
    pending_since: Mapped[TimestampTz | None]

    # Not a column: the repository sets the booked services (one query for all bookings).
    services: "tuple[BookingService, ...]" = ()

    @classmethod
    def constraints(cls) -> tuple[Any, ...]:
        return (
            UniqueConstraint("yclients_record_id", "company_id", name="bookings_yclients_company_unique"),
            CheckConstraint(
                YCLIENTS_ID_CHECK.format(column="yclients_record_id"), name="id_unless_assistant"
            ),
            CheckConstraint(KNOWN_SOURCE, name="source"),
            CheckConstraint("status IN ('active', 'cancelled')", name="status"),
            CheckConstraint("attendance BETWEEN -1 AND 2", name="attendance"),
            CheckConstraint("ends_at > starts_at", name="ends_after_start"),
            Index(None, "company_id", "starts_at"),
            Index(None, "company_id", "staff_id", "starts_at"),
            Index(None, "company_id", "client_phone"),
            Index(None, "company_id", "client_id"),
        )


class BookingChildMixin(TenantMixin):
    """A row that is deleted together with its booking. `booking` is `bookings.id`, not a YClients id."""

    booking: Mapped[BigInt] = mapped_column(sort_order=-9)

    @classmethod
    def constraints(cls) -> tuple[Any, ...]:
        return (
            ForeignKeyConstraint(
                ["company_id", "booking"], ["bookings.company_id", "bookings.id"], deferrable=True
            ),
        )


class BookingService(BookingChildMixin, Base):
    """One service of a booking, at its position in the booking."""

    __tablename__ = "booking_services"

    position: Mapped[Int]
    service_id: Mapped[BigInt]
    title: Mapped[str | None]
    amount: Mapped[Int] = mapped_column(server_default=text("1"))
    cost: Mapped[Money | None]
    discount: Mapped[Percent | None]

    @classmethod
    def constraints(cls) -> tuple[Any, ...]:
        return (
            *super().constraints(),
            UniqueConstraint("company_id", "booking", "position"),
            Index(None, "company_id", "service_id"),
        )


class BookingSlot(BookingChildMixin, Base):
    """The time that an active booking occupies in its staff member's schedule.

    `claim` is an unbounded range for a booking made here and `[id, id]` for a booking from YClients. One
    exclusion constraint on `claim` and `during` therefore forbids a new booking made here to overlap any
    other booking, and permits overlaps between bookings from YClients. The constraint compares ids as
    one-element ranges, so it does not need the btree_gist extension.
    """

    __tablename__ = "booking_slots"

    staff_id: Mapped[BigInt]
    claim: Mapped[Range[int]] = mapped_column(INT8RANGE)
    during: Mapped[Range[Any]] = mapped_column(TSTZRANGE)

    @classmethod
    def constraints(cls) -> tuple[Any, ...]:
        return (
            *super().constraints(),
            UniqueConstraint("company_id", "booking"),
            ExcludeConstraint(
                (literal_column("int8range(company_id, company_id, '[]')"), "="),
                (literal_column("int8range(staff_id, staff_id, '[]')"), "="),
                ("claim", "&&"),
                ("during", "&&"),
                using="gist",
                name=NO_OVERLAP,
            ),
        )
