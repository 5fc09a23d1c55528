"""Bookings from YClients: overlaps with local bookings, confirmations, pending changes."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from app import Settings
from app.data_layer import DataLayer
from app.models import Booking
from tests.factories import BookingRow, ClientRow, NewBookingRow, NewClientRow
from tests.factories.booking import NOON
from tests.integration.bookings.test_create import HOUR, code

DAY = timedelta(days=1)


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def local_booking(salon: DataLayer) -> Booking:
    """A booking made here: one hour from noon with staff member 7."""
    return salon.create_booking(NewClientRow(), NewBookingRow()).unwrap()


class TestOverlaps:
    def test_an_upstream_booking_over_a_local_one_is_stored_and_both_block(
        self, salon: DataLayer, local_booking: Booking
    ) -> None:
        report = salon.upsert_bookings([BookingRow(starts_at=NOON + HOUR / 2)]).unwrap()
        assert report.inserted == 1
        for start in (NOON - HOUR / 2, NOON + HOUR):
            assert code(salon.create_booking(NewClientRow(), NewBookingRow(starts_at=start))) == "slot_taken"

    def test_upstream_bookings_may_overlap_each_other(self, salon: DataLayer) -> None:
        rows = [BookingRow(starts_at=NOON + HOUR / 4 * n) for n in range(4)]
        assert salon.upsert_bookings(rows).unwrap().inserted == 4
        assert code(salon.create_booking(NewClientRow(), NewBookingRow())) == "slot_taken"

    def test_a_local_booking_under_an_upstream_one_can_be_cancelled_and_moved(
        self, salon: DataLayer, local_booking: Booking
    ) -> None:
        salon.upsert_bookings([BookingRow(starts_at=NOON)]).unwrap()
        assert code(salon.reschedule_booking(local_booking.id, NOON + HOUR / 2)) == "slot_taken"
        assert salon.reschedule_booking(local_booking.id, NOON + HOUR).success
        assert salon.cancel_booking(local_booking.id).success
        assert salon.create_booking(NewClientRow(), NewBookingRow(starts_at=NOON + HOUR)).success

    def test_the_slot_of_a_record_moved_upstream_is_moved(self, salon: DataLayer) -> None:
        row = BookingRow(starts_at=NOON)
        salon.upsert_bookings([row]).unwrap()
        moved = {**row, "staff_id": 8, "starts_at": NOON + HOUR, "ends_at": NOON + 2 * HOUR}
        assert salon.upsert_bookings([moved]).unwrap().updated == 1
        assert salon.create_booking(NewClientRow(), NewBookingRow()).success
        taken = NewBookingRow(staff_id=8, starts_at=NOON + HOUR)
        assert code(salon.create_booking(NewClientRow(), taken)) == "slot_taken"

    def test_a_record_without_staff_has_no_slot(
        self, salon: DataLayer, count_rows: Callable[[], dict[str, int]]
    ) -> None:
        salon.upsert_bookings([BookingRow(staff_id=None)]).unwrap()
        assert count_rows()["booking_slots"] == 0

    def test_every_active_booking_and_no_other_has_a_slot(self, salon: DataLayer, settings: Settings) -> None:
        rows = [
            BookingRow(starts_at=NOON + HOUR / 3 * n, ends_at=NOON + HOUR / 3 * n + HOUR) for n in range(200)
        ]
        assert salon.upsert_bookings(rows).unwrap().inserted == 200
        for row in rows[::3]:
            row["status"] = "cancelled"
        for row in rows[::5]:
            row["starts_at"] -= HOUR
        assert salon.upsert_bookings(rows).unwrap().updated == 93
        assert settings.database_url is not None
        with psycopg.connect(settings.database_url.get_secret_value()) as connection:
            wrong = connection.execute(
                """
                SELECT b.id FROM bookings AS b
                FULL JOIN booking_slots AS s ON s.company_id = b.company_id AND s.booking = b.id
                WHERE coalesce(b.company_id, s.company_id) = %s
                  AND (b.status = 'active') IS DISTINCT FROM (
                      (s.staff_id = b.staff_id AND s.during = tstzrange(b.starts_at, b.ends_at)) IS TRUE)
                """,
                (salon.company_id,),
            ).fetchall()
        assert wrong == []


class TestLocalIdInARecord:
    def test_confirms_the_local_booking_and_inserts_no_second_row(
        self, salon: DataLayer, local_booking: Booking, count_rows: Callable[[], dict[str, int]]
    ) -> None:
        row = BookingRow(id=local_booking.id, yclients_record_id=55, starts_at=NOON, price="500")
        report = salon.upsert_bookings([row]).unwrap()
        assert (report.inserted, report.updated) == (0, 1)
        booking = salon.get_booking_by_id(55).unwrap()
        assert booking is not None
        assert (booking.id, booking.source, booking.pending_since) == (local_booking.id, "assistant", None)
        assert count_rows()["bookings"] == 1
        assert salon.upsert_bookings([row]).unwrap().unchanged == 1

    def test_of_an_unknown_or_upstream_booking_is_ignored(
        self, salon: DataLayer, new_company: Callable[..., DataLayer]
    ) -> None:
        foreign = new_company().create_booking(NewClientRow(), NewBookingRow()).unwrap()
        upstream = salon.upsert_booking(BookingRow(yclients_record_id=1)).unwrap()
        rows = [
            BookingRow(id=10**15, yclients_record_id=2),
            BookingRow(id=foreign.id, yclients_record_id=3),
            BookingRow(id=upstream.id, yclients_record_id=4),
        ]
        assert salon.upsert_bookings(rows).unwrap().inserted == 3

    def test_of_a_record_of_another_local_booking_rejects_no_other_row(
        self, salon: DataLayer, local_booking: Booking
    ) -> None:
        other = salon.create_booking(NewClientRow(), NewBookingRow(staff_id=8)).unwrap()
        salon.confirm_booking(other.id, 55).unwrap()
        rows = [
            BookingRow(id=local_booking.id, yclients_record_id=55, staff_id=8, starts_at=NOON),
            BookingRow(),
        ]
        report = salon.upsert_bookings(rows).unwrap()
        assert report.total == 2
        assert report.inserted == 1
        still_open = salon.get_booking(local_booking.id).unwrap()
        assert still_open is not None
        assert still_open.yclients_record_id is None

    def test_confirms_a_cancelled_booking_and_leaves_it_cancelled(
        self, salon: DataLayer, local_booking: Booking
    ) -> None:
        salon.cancel_booking(local_booking.id).unwrap()
        salon.upsert_bookings(
            [BookingRow(id=local_booking.id, yclients_record_id=55, starts_at=NOON)]
        ).unwrap()
        booking = salon.get_booking(local_booking.id).unwrap()
        assert booking is not None
        assert (booking.yclients_record_id, booking.status) == (55, "cancelled")
        assert booking.pending_since is not None


class TestPendingChanges:
    @pytest.fixture
    def record(self, salon: DataLayer) -> dict[str, object]:
        """A record from YClients that was mirrored and then moved here by one hour."""
        row = BookingRow(yclients_record_id=55, starts_at=NOON, source_changed_at=now() - DAY)
        booking = salon.upsert_booking(row).unwrap()
        salon.reschedule_booking(booking.id, NOON + HOUR).unwrap()
        return row

    def start(self, salon: DataLayer) -> datetime:
        booking = salon.get_booking_by_id(55).unwrap()
        assert booking is not None
        return booking.starts_at

    @pytest.mark.parametrize("change", [{}, {"source_changed_at": None}, {"comment": "x"}])
    def test_a_full_sync_does_not_undo_a_pending_move(
        self, salon: DataLayer, record: dict[str, object], change: dict[str, object]
    ) -> None:
        report = salon.upsert_bookings([{**record, **change}]).unwrap()
        assert report.stale == 1
        assert self.start(salon) == NOON + HOUR

    def test_a_record_without_a_change_time_does_not_undo_a_pending_move(
        self, salon: DataLayer, record: dict[str, object]
    ) -> None:
        del record["source_changed_at"]
        assert salon.upsert_bookings([record]).unwrap().stale == 1
        assert self.start(salon) == NOON + HOUR

    def test_a_newer_record_wins_and_clears_pending_since(
        self, salon: DataLayer, record: dict[str, object]
    ) -> None:
        newer = {**record, "source_changed_at": now() + HOUR}
        assert salon.upsert_bookings([newer]).unwrap().updated == 1
        assert self.start(salon) == NOON
        booking = salon.get_booking_by_id(55).unwrap()
        assert booking is not None
        assert booking.pending_since is None
        assert salon.upsert_bookings([newer]).unwrap().unchanged == 1

    def test_a_pending_cancellation_is_not_undone(self, salon: DataLayer) -> None:
        row = BookingRow(yclients_record_id=55, source_changed_at=now() - DAY, services=[1])
        booking = salon.upsert_booking(row).unwrap()
        salon.cancel_booking(booking.id).unwrap()
        assert salon.upsert_bookings([{**row, "services": [2]}]).unwrap().stale == 1
        kept = salon.get_booking_by_id(55).unwrap()
        assert kept is not None
        assert kept.status == "cancelled"
        assert [service.service_id for service in kept.services] == [1]

    def test_an_older_record_loses_and_a_record_of_the_same_time_wins(self, salon: DataLayer) -> None:
        row = BookingRow(yclients_record_id=55, source_changed_at=now(), comment="stored")
        salon.upsert_booking(row).unwrap()
        older = {**row, "source_changed_at": now() - DAY, "comment": "older"}
        assert salon.upsert_bookings([older]).unwrap().stale == 1
        assert salon.upsert_bookings([{**row, "comment": "same time"}]).unwrap().updated == 1


class TestClientsMadeHere:
    def test_keep_their_row_when_yclients_sends_them_with_an_id(
        self, salon: DataLayer, local_booking: Booking
    ) -> None:
        assert local_booking.client_phone is not None
        made = salon.get_client_by_phone(local_booking.client_phone).unwrap()
        assert made is not None
        salon.upsert_clients(
            [ClientRow(yclients_id=31, phone=local_booking.client_phone, name="Анна")]
        ).unwrap()
        (client,) = salon.get_clients().unwrap()
        assert (client.id, client.yclients_id, client.name) == (made.id, 31, "Анна")
        assert [b.id for b in salon.get_client_appointments(local_booking.client_phone).unwrap()] == [
            local_booking.id
        ]

    def test_are_not_confused_with_clients_without_a_phone(
        self, salon: DataLayer, local_booking: Booking
    ) -> None:
        salon.upsert_clients([ClientRow(yclients_id=31, phone=None)]).unwrap()
        assert len(salon.get_clients().unwrap()) == 2

    def test_get_the_id_of_the_first_of_two_clients_with_their_phone(
        self, salon: DataLayer, local_booking: Booking
    ) -> None:
        rows = [ClientRow(yclients_id=n, phone=local_booking.client_phone) for n in (31, 32)]
        assert salon.upsert_clients(rows).unwrap().total == 2
        assert sorted(c.yclients_id or 0 for c in salon.get_clients().unwrap()) == [31, 32]
        assert salon.upsert_clients(rows).unwrap().unchanged == 2


class TestAppointments:
    def test_are_found_by_the_phone_of_the_booking_or_of_its_client(self, salon: DataLayer) -> None:
        salon.upsert_client(ClientRow(yclients_id=31, phone="+79686484488")).unwrap()
        soon = now() + DAY
        salon.upsert_bookings(
            [
                BookingRow(yclients_record_id=1, starts_at=soon, client_id=31),
                BookingRow(yclients_record_id=2, starts_at=soon + DAY, client_phone="8 968 648-44-88"),
                BookingRow(yclients_record_id=3, starts_at=soon + 2 * DAY, client_id=31, status="cancelled"),
                BookingRow(yclients_record_id=4, starts_at=soon, client_id=32, client_phone="+79680000000"),
                BookingRow(yclients_record_id=5, starts_at=soon, client_id=31, deleted_at=now()),
            ]
        ).unwrap()

        def records(bookings: list[Booking]) -> list[int | None]:
            return [booking.yclients_record_id for booking in bookings]

        phone = "9686484488"
        assert records(salon.get_client_appointments(phone).unwrap()) == [1, 2, 3]
        assert records(salon.get_client_appointments(phone, start=soon + DAY).unwrap()) == [2, 3]
        assert records(salon.get_client_appointments(phone, soon, soon + DAY).unwrap()) == [1]
        assert records(salon.get_upcoming_appointments(phone, now=soon + HOUR).unwrap()) == [2]
        assert records(salon.get_upcoming_appointments(phone).unwrap()) == [1, 2]
        assert salon.get_client_appointments("+79680000001").unwrap() == []

    def test_of_a_day_are_sorted_by_start_and_filtered_by_staff(self, salon: DataLayer) -> None:
        salon.upsert_bookings(
            [
                BookingRow(yclients_record_id=2, starts_at=NOON + HOUR, services=[2, 1]),
                BookingRow(yclients_record_id=1, starts_at=NOON, staff_id=8),
                BookingRow(yclients_record_id=3, starts_at=NOON + DAY),
            ]
        ).unwrap()
        bookings = salon.get_bookings(NOON, NOON + DAY).unwrap()
        assert [(b.yclients_record_id, [s.service_id for s in b.services]) for b in bookings] == [
            (1, []),
            (2, [2, 1]),
        ]
        assert [b.yclients_record_id for b in salon.get_bookings(NOON, NOON + DAY, staff_id=8).unwrap()] == [
            1
        ]
        assert code(salon.get_bookings(NOON, NOON - DAY)) == "invalid"
