"""Rows of bookings."""

from datetime import UTC, datetime, timedelta

import factory

NOON = datetime(2030, 5, 14, 12, tzinfo=UTC)


class NewBookingRow(factory.DictFactory):
    """Argument of `create_booking`: one hour with staff member 7."""

    staff_id = 7
    starts_at = NOON
    duration = 3600


class BookingRow(factory.DictFactory):
    """A booking from YClients of one hour. Bookings from one sequence do not overlap."""

    yclients_record_id = factory.Sequence(lambda n: n + 1)
    staff_id = 7
    starts_at = factory.Sequence(lambda n: NOON + timedelta(hours=n))
    ends_at = factory.LazyAttribute(lambda row: row.starts_at + timedelta(hours=1))
