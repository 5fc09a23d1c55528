"""Rescheduling, cancelling and confirming bookings."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from app.data_layer import DataLayer
from app.models import Booking
from tests.factories import BookingRow, ClientRow, NewBookingRow, NewClientRow
from tests.factories.booking import NOON
from tests.integration.bookings.test_create import HOUR, code

SECOND = timedelta(seconds=1)


@pytest.fixture
def booking(salon: DataLayer) -> Booking:
    """A booking made here: one hour from noon with staff member 7."""
    return salon.create_booking(NewClientRow(), NewBookingRow(services=[5])).unwrap()


class TestReschedule:
    def test_rescheduling_moves_the_booking_and_its_slot(self, salon: DataLayer, booking: Booking) -> None:
        moved = salon.reschedule_booking(booking.id, NOON + 3 * HOUR).unwrap()
        assert (moved.starts_at, moved.ends_at, moved.staff_id) == (NOON + 3 * HOUR, NOON + 4 * HOUR, 7)
        assert [service.service_id for service in moved.services] == [5]
        assert salon.create_booking(NewClientRow(), NewBookingRow()).success
        assert (
            code(salon.create_booking(NewClientRow(), NewBookingRow(starts_at=moved.starts_at)))
            == "slot_taken"
        )

    def test_rescheduling_changes_duration_and_staff_if_given(
        self, salon: DataLayer, booking: Booking
    ) -> None:
        moved = salon.reschedule_booking(booking.id, NOON, staff_id=8, duration=7200).unwrap()
        assert (moved.staff_id, moved.ends_at) == (8, NOON + 2 * HOUR)

    def test_the_new_time_may_overlap_the_old_time(self, salon: DataLayer, booking: Booking) -> None:
        assert salon.reschedule_booking(booking.id, NOON + HOUR / 2).success

    def test_a_taken_time_moves_neither_booking_nor_slot(self, salon: DataLayer, booking: Booking) -> None:
        salon.create_booking(NewClientRow(), NewBookingRow(starts_at=NOON + 2 * HOUR)).unwrap()
        assert code(salon.reschedule_booking(booking.id, NOON + 2 * HOUR)) == "slot_taken"
        same = salon.get_booking(booking.id).unwrap()
        assert same is not None
        assert (same.starts_at, same.pending_since) == (NOON, booking.pending_since)
        assert code(salon.create_booking(NewClientRow(), NewBookingRow())) == "slot_taken"

    def test_a_cancelled_or_unknown_booking_is_refused(self, salon: DataLayer, booking: Booking) -> None:
        salon.cancel_booking(booking.id).unwrap()
        assert code(salon.reschedule_booking(booking.id, NOON)) == "conflict"
        assert code(salon.reschedule_booking(10**15, NOON)) == "not_found"

    def test_a_booking_without_staff_needs_a_staff_id(self, salon: DataLayer) -> None:
        mirrored = salon.upsert_booking(BookingRow(staff_id=None)).unwrap()
        assert code(salon.reschedule_booking(mirrored.id, NOON)) == "invalid"
        assert salon.reschedule_booking(mirrored.id, NOON, staff_id=9).success


class TestCancel:
    def test_cancelling_frees_the_time(self, salon: DataLayer, booking: Booking) -> None:
        assert salon.cancel_booking(booking.id).unwrap().status == "cancelled"
        assert salon.create_booking(NewClientRow(), NewBookingRow()).success

    def test_cancelling_again_changes_nothing(self, salon: DataLayer, booking: Booking) -> None:
        first = salon.cancel_booking(booking.id).unwrap()
        second = salon.cancel_booking(booking.id).unwrap()
        assert (first.status, first.updated_at) == (second.status, second.updated_at)

    def test_an_unknown_booking_is_not_found(self, salon: DataLayer) -> None:
        assert code(salon.cancel_booking(10**15)) == "not_found"

    def test_a_booking_of_another_company_is_not_found(
        self, booking: Booking, new_company: Callable[..., DataLayer]
    ) -> None:
        assert code(new_company().cancel_booking(booking.id)) == "not_found"


class TestConfirm:
    def test_confirming_stores_the_ids_and_clears_pending_since(
        self, salon: DataLayer, booking: Booking
    ) -> None:
        confirmed = salon.confirm_booking(booking.id, 55, client_id=66).unwrap()
        assert (confirmed.yclients_record_id, confirmed.client_id, confirmed.pending_since) == (55, 66, None)
        client = salon.get_client_by_id(66).unwrap()
        assert client is not None
        assert client.phone == booking.client_phone

    def test_confirming_again_with_the_same_id_changes_nothing(
        self, salon: DataLayer, booking: Booking
    ) -> None:
        first = salon.confirm_booking(booking.id, 55).unwrap()
        assert salon.confirm_booking(booking.id, 55).unwrap().updated_at == first.updated_at

    def test_a_second_id_or_the_id_of_another_booking_is_a_conflict(
        self, salon: DataLayer, booking: Booking
    ) -> None:
        salon.confirm_booking(booking.id, 55).unwrap()
        assert code(salon.confirm_booking(booking.id, 56)) == "conflict"
        other = salon.create_booking(NewClientRow(), NewBookingRow(staff_id=8)).unwrap()
        assert code(salon.confirm_booking(other.id, 55)) == "conflict"

    def test_a_booking_moved_before_its_confirmation_stays_pending(
        self, salon: DataLayer, booking: Booking
    ) -> None:
        salon.reschedule_booking(booking.id, NOON + HOUR).unwrap()
        assert salon.confirm_booking(booking.id, 55).unwrap().pending_since is not None

    def test_a_row_that_was_mirrored_before_is_replaced(
        self, salon: DataLayer, booking: Booking, count_rows: Callable[[], dict[str, int]]
    ) -> None:
        salon.upsert_booking(
            BookingRow(yclients_record_id=55, starts_at=NOON, client_id=66, price="1300.00", services=[5])
        ).unwrap()
        confirmed = salon.confirm_booking(booking.id, 55).unwrap()
        assert (confirmed.id, confirmed.client_id, str(confirmed.price)) == (booking.id, 66, "1300.00")
        assert count_rows() == {"clients": 1, "bookings": 1, "booking_services": 1, "booking_slots": 1}

    def test_a_client_with_a_yclients_id_keeps_it(self, salon: DataLayer) -> None:
        salon.upsert_client(ClientRow(yclients_id=1, phone="+79686484488")).unwrap()
        mine = salon.create_booking(NewClientRow(phone="+79686484488"), NewBookingRow()).unwrap()
        salon.confirm_booking(mine.id, 55, client_id=1).unwrap()
        assert [c.yclients_id for c in salon.get_clients().unwrap()] == [1]

    def test_an_unknown_booking_is_not_found(self, salon: DataLayer) -> None:
        assert code(salon.confirm_booking(10**15, 1)) == "not_found"
