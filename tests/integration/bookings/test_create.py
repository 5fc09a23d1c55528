"""Creation of bookings: slot, client and booking are stored together, or not at all."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from app.data_layer import DataLayer
from app.models import Booking
from tests.factories import BookingRow, ClientRow, NewBookingRow, NewClientRow
from tests.factories.booking import NOON
from tests.threads import at_once

HOUR = timedelta(hours=1)


def code(result: object) -> str | None:
    error = getattr(result, "error", None)
    return error.code if error else None


class TestNewClients:
    def test_gets_a_client_and_a_booking_without_yclients_ids(self, salon: DataLayer) -> None:
        booking = salon.create_booking(
            {"name": "Anna", "phone": "8 (968) 648-44-88"},
            {
                "staff_id": 7,
                "starts_at": NOON,
                "duration": 5400,
                "comment": "window seat",
                "services": [5, 6],
            },
        ).unwrap()
        assert (booking.yclients_record_id, booking.client_id, booking.source) == (None, None, "assistant")
        assert (booking.client_phone, booking.client_name) == ("+79686484488", "Anna")
        assert (booking.starts_at, booking.ends_at) == (NOON, NOON + timedelta(seconds=5400))
        assert (booking.status, booking.comment) == ("active", "window seat")
        assert booking.pending_since is not None
        assert [service.service_id for service in booking.services] == [5, 6]
        client = salon.get_client_by_phone("+79686484488").unwrap()
        assert client is not None
        assert (client.name, client.yclients_id, client.source) == ("Anna", None, "assistant")

    def test_can_be_found_by_name(self, salon: DataLayer) -> None:
        salon.create_booking(NewClientRow(name="Ёлка", surname="Ким"), NewBookingRow()).unwrap()
        assert [c.name for c in salon.search_clients_by_name("ЁЛКА К").unwrap()] == ["Ёлка"]

    def test_with_concurrent_bookings_becomes_one_client(
        self, salon: DataLayer, count_rows: Callable[[], dict[str, int]]
    ) -> None:
        customer = NewClientRow()
        results = at_once(
            lambda n=n: salon.create_booking(customer, NewBookingRow(starts_at=NOON + n * HOUR))
            for n in range(8)
        )
        assert [code(result) for result in results] == [None] * 8
        assert count_rows() == {"clients": 1, "bookings": 8, "booking_services": 0, "booking_slots": 8}


class TestKnownClients:
    def test_is_found_by_phone_and_not_changed(self, salon: DataLayer) -> None:
        salon.upsert_client(ClientRow(yclients_id=31, name="Анна Ким", phone="+79686484488")).unwrap()
        booking = salon.create_booking({"name": "Аня", "phone": "968 648 44 88"}, NewBookingRow()).unwrap()
        assert booking.client_id == 31
        assert [c.name for c in salon.get_clients().unwrap()] == ["Анна Ким"]

    def test_is_found_by_yclients_id_before_phone(self, salon: DataLayer) -> None:
        salon.upsert_clients(
            [ClientRow(yclients_id=1, phone="+79686484488"), ClientRow(yclients_id=2)]
        ).unwrap()
        booking = salon.create_booking(
            NewClientRow(yclients_id=2, phone="+79686484488"), NewBookingRow()
        ).unwrap()
        assert booking.client_id == 2

    def test_with_an_unknown_yclients_id_is_inserted_with_that_id(self, salon: DataLayer) -> None:
        salon.upsert_client(ClientRow(yclients_id=1, phone="+79686484488")).unwrap()
        booking = salon.create_booking(
            NewClientRow(yclients_id=2, phone="+79686484488"), NewBookingRow()
        ).unwrap()
        assert booking.client_id == 2
        assert salon.get_client_by_id(2).unwrap() is not None

    def test_made_here_gets_the_yclients_id_of_a_later_booking(self, salon: DataLayer) -> None:
        customer = NewClientRow()
        salon.create_booking(customer, NewBookingRow()).unwrap()
        booking = salon.create_booking(
            {**customer, "yclients_id": 77}, NewBookingRow(starts_at=NOON + HOUR)
        ).unwrap()
        assert booking.client_id == 77
        assert [c.yclients_id for c in salon.get_clients().unwrap()] == [77]


class TestTakenSlots:
    @pytest.mark.parametrize(("minutes", "length"), [(0, 60), (30, 60), (-30, 60), (15, 30), (-60, 180)])
    def test_is_refused_and_leaves_nothing_behind(
        self, salon: DataLayer, count_rows: Callable[[], dict[str, int]], minutes: int, length: int
    ) -> None:
        salon.create_booking(NewClientRow(), NewBookingRow()).unwrap()
        before = count_rows()
        result = salon.create_booking(
            NewClientRow(),
            NewBookingRow(starts_at=NOON + timedelta(minutes=minutes), duration=length * 60, services=[1, 2]),
        )
        assert code(result) == "slot_taken"
        assert result.error is not None
        assert not result.error.retryable
        assert count_rows() == before

    def test_does_not_conflict_with_other_staff_or_adjacent_times(self, salon: DataLayer) -> None:
        salon.create_booking(NewClientRow(), NewBookingRow()).unwrap()
        for free in ({"staff_id": 8}, {"starts_at": NOON + HOUR}, {"starts_at": NOON - HOUR}):
            assert salon.create_booking(NewClientRow(), NewBookingRow(**free)).success

    def test_of_a_booking_from_yclients_is_refused_too(self, salon: DataLayer) -> None:
        salon.upsert_booking(BookingRow(starts_at=NOON)).unwrap()
        assert code(salon.create_booking(NewClientRow(), NewBookingRow())) == "slot_taken"

    @pytest.mark.parametrize(
        "gone", [{"status": "cancelled"}, {"deleted_at": datetime(2026, 1, 1, tzinfo=UTC)}]
    )
    def test_is_free_again_when_yclients_cancels_or_deletes(
        self, salon: DataLayer, gone: dict[str, object]
    ) -> None:
        row = BookingRow(starts_at=NOON)
        salon.upsert_bookings([row]).unwrap()
        salon.upsert_bookings([{**row, **gone}]).unwrap()
        assert salon.create_booking(NewClientRow(), NewBookingRow()).success

    def test_does_not_conflict_with_another_company(
        self, salon: DataLayer, new_company: Callable[..., DataLayer]
    ) -> None:
        assert salon.create_booking(NewClientRow(), NewBookingRow()).success
        assert new_company().create_booking(NewClientRow(), NewBookingRow()).success


class TestBookingsWithYClientsId:
    def test_nothing_is_pending(self, salon: DataLayer) -> None:
        booking = salon.create_booking(NewClientRow(), NewBookingRow(yclients_record_id=9)).unwrap()
        assert (booking.yclients_record_id, booking.pending_since) == (9, None)

    def test_repeated_calls_return_the_existing_booking(self, salon: DataLayer) -> None:
        client, booking = NewClientRow(), NewBookingRow(yclients_record_id=9)
        results = at_once([lambda: salon.create_booking(client, booking)] * 6)
        assert [code(result) for result in results] == [None] * 6
        assert len({result.unwrap().id for result in results}) == 1


class TestInvalidInput:
    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"starts_at": datetime(2030, 1, 1)}, "booking.starts_at"),  # noqa: DTZ001 - naive on purpose
            ({"ends_at": NOON + HOUR}, "booking.duration"),
            ({"duration": None}, "booking.duration"),
            ({"duration": 0}, "booking.duration"),
            ({"duration": -60}, "booking.duration"),
            ({"staff_id": None}, "booking.staff_id"),
            ({"staff_id": 0}, "booking.staff_id"),
            ({"services": [{"service_id": 0}]}, "booking.services.0.service_id"),
            ({"services": 5}, "booking.services"),
            ({"client_id": 5}, "booking.client_id"),
            ({"status": "cancelled"}, "booking.status"),
        ],
    )
    def test_the_error_names_the_field(self, salon: DataLayer, change: dict[str, object], field: str) -> None:
        result = salon.create_booking(NewClientRow(), NewBookingRow(**change))
        assert code(result) == "invalid"
        assert result.error is not None
        assert field in result.error.message

    @pytest.mark.parametrize("ends_at", [NOON, NOON - HOUR])
    def test_an_end_before_the_start_is_refused(self, salon: DataLayer, ends_at: datetime) -> None:
        row = {"staff_id": 7, "starts_at": NOON, "ends_at": ends_at}
        assert code(salon.create_booking(NewClientRow(), row)) == "invalid"

    @pytest.mark.parametrize(
        "client", [{"name": "A"}, {"phone": "+79686484488"}, {"name": "A", "phone": None}]
    )
    def test_a_client_needs_a_name_and_a_phone(self, salon: DataLayer, client: dict[str, object]) -> None:
        assert code(salon.create_booking(client, NewBookingRow())) == "invalid"


def test_a_time_in_any_zone_is_stored_in_utc(salon: DataLayer) -> None:
    booking = salon.create_booking(
        NewClientRow(), NewBookingRow(starts_at="2030-05-14T15:00:00+03:00")
    ).unwrap()
    assert (booking.starts_at, booking.starts_at.utcoffset()) == (NOON, timedelta(0))


def test_the_record_stays_usable_and_its_repr_has_no_personal_data(salon: DataLayer) -> None:
    booking: Booking = salon.create_booking(NewClientRow(name="Zaphod"), NewBookingRow()).unwrap()
    assert booking.client_name == "Zaphod"
    assert "Zaphod" not in repr(booking)
