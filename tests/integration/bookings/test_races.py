"""Concurrent threads that book the same times on a real server."""

from collections import Counter
from collections.abc import Callable
from datetime import timedelta

import psycopg
import pytest

from app import Settings
from app.data_layer import DataLayer
from tests.factories import BookingRow, NewBookingRow, NewClientRow
from tests.factories.booking import NOON
from tests.integration.bookings.test_create import HOUR, code
from tests.threads import at_once


@pytest.fixture
def overlaps(settings: Settings, salon: DataLayer) -> Callable[[], int]:
    """Return a function that counts overlapping pairs of active local bookings of one staff member."""
    assert settings.database_url is not None
    url = settings.database_url.get_secret_value()

    def count() -> int:
        with psycopg.connect(url) as connection:
            row = connection.execute(
                """
                SELECT count(*) FROM bookings AS a JOIN bookings AS b
                ON a.company_id = b.company_id AND a.staff_id = b.staff_id AND a.id < b.id
                   AND tstzrange(a.starts_at, a.ends_at) && tstzrange(b.starts_at, b.ends_at)
                WHERE a.company_id = %s AND a.status = 'active' AND b.status = 'active'
                  AND (a.source, b.source) = ('assistant', 'assistant')
                """,
                (salon.company_id,),
            ).fetchone()
        assert row is not None
        return int(row[0])

    return count


def test_fifty_customers_for_one_slot_make_one_booking(
    salon: DataLayer, count_rows: Callable[[], dict[str, int]]
) -> None:
    customers = [NewClientRow() for _ in range(50)]
    results = at_once(
        lambda customer=customer: salon.create_booking(customer, NewBookingRow(services=[1]))
        for customer in customers
    )
    assert Counter(map(code, results)) == {None: 1, "slot_taken": 49}
    assert count_rows() == {"clients": 1, "bookings": 1, "booking_services": 1, "booking_slots": 1}


def test_overlapping_requests_never_create_overlapping_bookings(
    salon: DataLayer, overlaps: Callable[[], int]
) -> None:
    starts = [NOON + timedelta(minutes=20) * (n % 12) for n in range(48)]
    results = at_once(
        lambda start=start: salon.create_booking(NewClientRow(), NewBookingRow(starts_at=start))
        for start in starts
    )
    assert set(map(code, results)) == {None, "slot_taken"}
    assert overlaps() == 0


def test_two_bookings_that_swap_their_times_cause_no_server_error(
    salon: DataLayer, overlaps: Callable[[], int]
) -> None:
    pair = [
        salon.create_booking(NewClientRow(), NewBookingRow(starts_at=NOON + n * HOUR)).unwrap()
        for n in range(2)
    ]
    for _ in range(4):
        results = at_once(
            [
                lambda: salon.reschedule_booking(pair[0].id, pair[1].starts_at),
                lambda: salon.reschedule_booking(pair[1].id, pair[0].starts_at),
            ]
        )
        assert set(map(code, results)) <= {None, "slot_taken"}
        assert overlaps() == 0


def test_a_booking_moved_by_many_threads_has_one_slot(
    salon: DataLayer, count_rows: Callable[[], dict[str, int]]
) -> None:
    booking = salon.create_booking(NewClientRow(), NewBookingRow()).unwrap()
    results = at_once(lambda n=n: salon.reschedule_booking(booking.id, NOON + n * HOUR) for n in range(1, 17))
    assert set(map(code, results)) == {None}
    assert count_rows()["booking_slots"] == 1
    last = salon.get_booking(booking.id).unwrap()
    assert last is not None
    assert code(salon.create_booking(NewClientRow(), NewBookingRow(starts_at=last.starts_at))) == "slot_taken"


def test_a_cancelled_slot_is_booked_at_most_once(salon: DataLayer, overlaps: Callable[[], int]) -> None:
    booking = salon.create_booking(NewClientRow(), NewBookingRow()).unwrap()
    results = at_once(
        [
            lambda: salon.cancel_booking(booking.id),
            *[lambda: salon.create_booking(NewClientRow(), NewBookingRow())] * 12,
        ]
    )
    assert results[0].success
    codes = Counter(map(code, results[1:]))
    assert codes.keys() <= {None, "slot_taken"}
    assert codes[None] <= 1
    assert overlaps() == 0


def test_concurrent_confirmation_and_mirroring_leave_one_row(
    salon: DataLayer, count_rows: Callable[[], dict[str, int]]
) -> None:
    for n in range(6):
        start = NOON + n * HOUR
        booking = salon.create_booking(NewClientRow(), NewBookingRow(starts_at=start)).unwrap()
        row = BookingRow(id=booking.id, yclients_record_id=100 + n, starts_at=start)
        plain = {key: value for key, value in row.items() if key != "id"}
        results = at_once(
            [
                lambda b=booking, r=row: salon.confirm_booking(b.id, r["yclients_record_id"]),
                lambda r=row: salon.upsert_bookings([r]),
                lambda r=plain: salon.upsert_bookings([r]),
            ]
        )
        assert [code(result) for result in results] == [None, None, None]
        salon.upsert_bookings([row]).unwrap()
        salon.confirm_booking(booking.id, row["yclients_record_id"]).unwrap()
        assert count_rows()["bookings"] == count_rows()["booking_slots"] == n + 1


def test_concurrent_syncs_and_bookings_leave_consistent_rows(
    salon: DataLayer, overlaps: Callable[[], int]
) -> None:
    rows = [BookingRow(starts_at=NOON + HOUR / 2 * n, ends_at=NOON + HOUR / 2 * n + HOUR) for n in range(60)]
    results = at_once(
        [
            *[lambda: salon.upsert_bookings(rows)] * 3,
            lambda: salon.upsert_bookings(rows[::-1]),
            *(
                lambda n=n: salon.create_booking(NewClientRow(), NewBookingRow(starts_at=NOON + HOUR / 2 * n))
                for n in range(16)
            ),
        ]
    )
    assert [code(result) for result in results[:4]] == [None] * 4
    assert set(map(code, results[4:])) <= {None, "slot_taken"}
    assert all(result.unwrap().rejected == [] for result in results[:4])
    assert overlaps() == 0
    assert len(salon.get_bookings_by_ids([row["yclients_record_id"] for row in rows]).unwrap()) == 60
