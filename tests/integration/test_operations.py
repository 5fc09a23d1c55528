"""The data layer's operations on clients, staff, services, the company and dialogues."""

import inspect
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from app.data_layer import DataLayer, Result
from tests.factories import (
    BookingRow,
    ClientRow,
    NewBookingRow,
    NewClientRow,
    ServiceRow,
    StaffRow,
    StaffScheduleRow,
)
from tests.factories.booking import NOON

DAY = date(2026, 12, 1)
DELETED = {"deleted_at": datetime(2026, 1, 1, tzinfo=UTC)}


def ids(records: list[Any]) -> list[int]:
    return [record.yclients_id for record in records]


class TestMissingRows:
    @pytest.mark.parametrize(
        ("name", "arguments", "answer"),
        [
            ("get_dialog_context", ["unknown"], None),
            ("get_client_by_phone", ["+79686484488"], None),
            ("get_client_by_id", [1], None),
            ("get_clients_by_ids", [[1, 2]], [None, None]),
            ("get_clients_by_ids", [[]], []),
            ("get_clients", [], []),
            ("search_clients_by_name", ["Анна"], []),
            ("get_client_appointments", ["+79686484488"], []),
            ("get_upcoming_appointments", ["+79686484488"], []),
            ("get_staff", [], []),
            ("get_staff_by_id", [1], None),
            ("get_staff_by_ids", [[1]], [None]),
            ("get_staff_schedules", [DAY, DAY], []),
            ("get_staff_schedule", [1, DAY], None),
            ("get_services", [], []),
            ("get_service_by_id", [1], None),
            ("get_services_by_ids", [[1]], [None]),
            ("get_services_by_category", [1], []),
            ("get_bookings", [NOON, NOON + timedelta(days=1)], []),
            ("get_booking", [1], None),
            ("get_booking_by_id", [1], None),
            ("get_bookings_by_ids", [[1]], [None]),
            ("find_free_slots", [DAY, 3600], []),
        ],
    )
    def test_a_missing_row_is_a_success_without_data(
        self, salon: DataLayer, name: str, arguments: list[Any], answer: Any
    ) -> None:
        result = getattr(salon, name)(*arguments)
        assert (result.success, result.data, result.error) == (True, answer, None)

    def test_a_missing_company_is_a_success_without_data(self, desk: Any, company_id: int) -> None:
        assert desk.company(company_id).get_company() == Result(None)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("upsert_dialog_context", ["u", {}]),
        ("upsert_client", [ClientRow()]),
        ("upsert_clients", [[ClientRow()]]),
        ("upsert_clients", [[ClientRow() for _ in range(100)]]),
        ("upsert_staff", [[StaffRow()]]),
        ("upsert_staff_schedules", [[StaffScheduleRow()]]),
        ("upsert_service", [ServiceRow()]),
        ("upsert_services", [[ServiceRow(staff=[{"staff_id": 1}])]]),
        ("upsert_booking", [BookingRow()]),
        ("upsert_bookings", [[BookingRow(services=[1])]]),
        ("create_booking", [NewClientRow(), NewBookingRow()]),
    ],
)
def test_a_write_of_an_unknown_company_is_refused(
    desk: Any, company_id: int, name: str, arguments: list[Any]
) -> None:
    result = getattr(desk.company(company_id), name)(*arguments)
    assert result.error is not None
    assert (result.error.code, result.error.retryable) == ("unknown_company", False)


def test_unwrap_returns_the_data_or_raises_the_error(salon: DataLayer) -> None:
    company = salon.get_company().unwrap()
    assert company is not None
    assert company.title == "Salon"
    failure = salon.get_client_by_id(0)
    with pytest.raises(type(failure.error)):  # type: ignore[arg-type] # an id of 0 is an error
        failure.unwrap()


def test_the_signatures_are_the_documented_ones() -> None:
    def arguments(name: str) -> dict[str, Any]:
        parameters = list(inspect.signature(getattr(DataLayer, name)).parameters.values())[1:]
        return {p.name: None if p.default is p.empty else (p.default,) for p in parameters}

    contract: dict[str, dict[str, Any]] = {
        "get_bookings": {"start": None, "end": None, "staff_id": (None,)},
        "get_bookings_by_ids": {"ids": None},
        "get_staff_schedules": {"date_from": None, "date_to": None, "staff_id": (None,)},
        "get_services": {"include_inactive": (False,)},
        "get_staff": {"include_inactive": (False,)},
        "get_clients": {"limit": (100,), "after": (None,)},
        "search_clients_by_name": {"text": None, "limit": (20,)},
        "get_client_appointments": {"phone": None, "start": (None,), "end": (None,)},
        "get_upcoming_appointments": {"phone": None, "now": (None,)},
        "find_free_slots": {"date": None, "duration": None, "staff_id": (None,), "step": (900,)},
        "create_booking": {"client": None, "booking": None},
        "reschedule_booking": {"id": None, "starts_at": None, "staff_id": (None,), "duration": (None,)},
        "cancel_booking": {"id": None},
        "get_booking": {"id": None},
    }
    assert {name: arguments(name) for name in contract} == contract


class TestClients:
    def test_clients_are_found_by_a_phone_in_any_notation(self, salon: DataLayer) -> None:
        salon.upsert_clients([ClientRow(yclients_id=1, phone="8 (968) 648-44-88")]).unwrap()
        for writing in ("+7 968 648 44 88", "968 648 44 88", "89686484488", "7 (968) 6484488"):
            client = salon.get_client_by_phone(writing).unwrap()
            assert client is not None
            assert client.yclients_id == 1

    def test_a_shared_phone_finds_the_oldest_client(self, salon: DataLayer) -> None:
        rows = [ClientRow(yclients_id=n, phone="+79686484488") for n in (5, 3)]
        for row in rows:
            salon.upsert_client(row).unwrap()
        first = salon.get_client_by_phone("+79686484488").unwrap()
        assert first is not None
        assert first.yclients_id == 5
        salon.upsert_client({**rows[0], **DELETED}).unwrap()
        second = salon.get_client_by_phone("+79686484488").unwrap()
        assert second is not None
        assert second.yclients_id == 3

    def test_clients_are_returned_in_pages(self, salon: DataLayer) -> None:
        salon.upsert_clients([ClientRow(yclients_id=n) for n in range(1, 8)]).unwrap()
        seen: list[int] = []
        after = None
        while page := salon.get_clients(limit=3, after=after).unwrap():
            seen += ids(page)
            after = page[-1].id
        assert seen == list(range(1, 8))

    def test_clients_are_returned_in_the_order_of_the_requested_ids(self, salon: DataLayer) -> None:
        salon.upsert_clients([ClientRow(yclients_id=n) for n in (1, 2)]).unwrap()
        found = salon.get_clients_by_ids([2, 7, 1, 2]).unwrap()
        assert [client and client.yclients_id for client in found] == [2, None, 1, 2]

    @pytest.mark.parametrize(
        ("text", "found"),
        [
            ("АННА", [1]),
            ("нн", [1]),
            ("петр", [1, 2]),
            ("Анна Петрова", [1]),
            ("ёж", [3]),
            ("100%", [4]),
            ("%", [4]),
            ("_", [5]),
            ("\\", [6]),
            (" анна ", [1]),
            ("strasse", [7]),
        ],
    )
    def test_clients_are_found_by_a_part_of_the_name_in_any_case(
        self, salon: DataLayer, text: str, found: list[int]
    ) -> None:
        names = ["Анна", "Иван", "ЁЖИК", "100% Олег", "a_b", "back\\slash", "Straße"]
        rows = [ClientRow(yclients_id=n, name=name) for n, name in enumerate(names, 1)]
        rows[0]["surname"], rows[1]["patronymic"] = "Петрова", "Петрович"
        salon.upsert_clients(rows).unwrap()
        assert sorted(ids(salon.search_clients_by_name(text).unwrap())) == found

    def test_clients_are_found_by_a_name_of_which_one_part_was_updated(self, salon: DataLayer) -> None:
        salon.upsert_client(ClientRow(yclients_id=1, name="Анна", surname="Ким")).unwrap()
        salon.upsert_client({"yclients_id": 1, "name": "Инна"}).unwrap()
        assert ids(salon.search_clients_by_name("инна ким").unwrap()) == [1]
        salon.upsert_client({"yclients_id": 1, "name": "Инна", "surname": None}).unwrap()
        assert salon.search_clients_by_name("ким").unwrap() == []

    def test_clients_deleted_upstream_are_found_by_id_only(self, salon: DataLayer) -> None:
        salon.upsert_client(ClientRow(yclients_id=1, name="Анна", **DELETED)).unwrap()
        assert salon.get_clients().unwrap() == salon.search_clients_by_name("Анна").unwrap() == []
        client = salon.get_client_by_id(1).unwrap()
        assert client is not None
        assert client.deleted_at == DELETED["deleted_at"]


class TestStaff:
    def test_dismissed_and_deleted_staff_are_not_listed(self, salon: DataLayer) -> None:
        salon.upsert_staff(
            [
                StaffRow(yclients_id=1, weight=1),
                StaffRow(yclients_id=2, weight=5),
                StaffRow(yclients_id=3, is_active=False),
                StaffRow(yclients_id=4, **DELETED),
            ]
        ).unwrap()
        assert ids(salon.get_staff().unwrap()) == [2, 1]
        assert ids(salon.get_staff(include_inactive=True).unwrap()) == [2, 1, 3]
        assert [m and m.yclients_id for m in salon.get_staff_by_ids([4, 9]).unwrap()] == [4, None]

    def test_schedules_are_returned_by_date(self, salon: DataLayer) -> None:
        days = [DAY + timedelta(days=n) for n in range(4)]
        salon.upsert_staff_schedules(
            [StaffScheduleRow(staff_id=staff, date=day) for staff in (7, 8) for day in days]
        ).unwrap()
        found = salon.get_staff_schedules(days[1], days[2]).unwrap()
        assert [(s.date, s.staff_id) for s in found] == [(d, s) for d in days[1:3] for s in (7, 8)]
        assert len(salon.get_staff_schedules(days[0], days[3], staff_id=8).unwrap()) == 4
        one = salon.get_staff_schedule(7, days[0]).unwrap()
        assert one is not None
        assert one.intervals == [{"from": "10:00", "to": "18:00"}]


class TestServices:
    def test_inactive_and_deleted_services_are_not_listed(self, salon: DataLayer) -> None:
        salon.upsert_services(
            [
                ServiceRow(yclients_id=1, category_id=5, price_min="1300.00"),
                ServiceRow(yclients_id=2, category_id=5, is_active=False),
                ServiceRow(yclients_id=3, category_id=6, **DELETED),
            ]
        ).unwrap()
        assert ids(salon.get_services().unwrap()) == [1]
        assert sorted(ids(salon.get_services(include_inactive=True).unwrap())) == [1, 2]
        assert ids(salon.get_services_by_category(5).unwrap()) == [1]
        assert str(salon.get_service_by_id(1).unwrap().price_min) == "1300.00"  # type: ignore[union-attr] # it is there


class TestCompanies:
    def test_a_second_write_keeps_the_omitted_columns_of_a_company(self, salon: DataLayer) -> None:
        company = salon.upsert_company({"title": "Новый"}).unwrap()
        assert (company.title, company.timezone, company.country) == ("Новый", "Europe/Moscow", "RU")

    @pytest.mark.parametrize(
        "wrong",
        [
            {"timezone": "Moscow"},
            {"timezone": "../etc"},
            {"country": "Россия"},
            {"country": "ru"},
            {"title": " "},
        ],
    )
    def test_an_unknown_time_zone_or_country_is_refused(
        self, salon: DataLayer, wrong: dict[str, Any]
    ) -> None:
        result = salon.upsert_company({"title": "Salon", **wrong})
        assert result.error is not None
        assert result.error.code == "invalid"
        assert next(iter(wrong)) in result.error.message


class TestDialogues:
    def test_stage_and_context_of_a_dialogue_are_stored_unchanged(self, salon: DataLayer) -> None:
        context = {"Имя": ["a", 1, 2.5, None, True, {"x": {}}], "z": 1, "a": "\\u0000 \u2028"}
        before = datetime.now(UTC)
        stored = salon.upsert_dialog_context(
            "79@s.whatsapp.net", {"stage": "date", "context": context}
        ).unwrap()
        found = salon.get_dialog_context("79@s.whatsapp.net").unwrap()
        assert found is not None
        assert (found.stage, found.context, found.id) == ("date", context, stored.id)
        assert found.last_activity_at is not None
        assert before <= found.last_activity_at <= datetime.now(UTC)

    def test_a_second_write_keeps_the_omitted_columns_of_a_dialogue(self, salon: DataLayer) -> None:
        salon.upsert_dialog_context("u", {"stage": "date", "context": {"a": 1}}).unwrap()
        assert salon.upsert_dialog_context("u", {"stage": None}).unwrap().context == {"a": 1}


class TestFreeSlots:
    def test_free_slots_are_the_schedules_without_bookings_of_bookable_staff(
        self, new_company: Callable[..., DataLayer]
    ) -> None:
        salon = new_company(timezone="Asia/Kathmandu")  # 5:45 ahead of UTC
        salon.upsert_staff(
            [
                StaffRow(yclients_id=1),
                StaffRow(yclients_id=2, is_bookable=False),
                StaffRow(yclients_id=3, is_active=False),
            ]
        ).unwrap()
        hours = [{"from": "10:00", "to": "12:00"}]
        rows = [StaffScheduleRow(staff_id=n, date=DAY, intervals=hours) for n in (1, 2, 3, 4)]
        rows.append(StaffScheduleRow(staff_id=5, date=DAY, intervals=hours, is_working=False))
        salon.upsert_staff_schedules(rows).unwrap()
        ten = datetime(2026, 12, 1, 4, 15, tzinfo=UTC)
        salon.create_booking(NewClientRow(), NewBookingRow(staff_id=1, starts_at=ten, duration=1800)).unwrap()
        free = salon.find_free_slots(DAY, 3600, step=1800).unwrap()
        half = timedelta(minutes=30)
        assert [(slot.staff_id, slot.starts_at) for slot in free] == [
            (1, ten + half),
            (1, ten + 2 * half),
            (4, ten),
            (4, ten + half),
            (4, ten + 2 * half),
        ]
        assert all(slot.ends_at - slot.starts_at == timedelta(hours=1) for slot in free)
        assert len(salon.find_free_slots(DAY, 3600, staff_id=1, step=1800).unwrap()) == 2

    def test_a_free_slot_can_be_booked(self, salon: DataLayer) -> None:
        salon.upsert_staff_schedules([StaffScheduleRow(staff_id=7, date=DAY)]).unwrap()
        while free := salon.find_free_slots(DAY, 5400).unwrap():
            row = {"staff_id": 7, "starts_at": free[0].starts_at, "ends_at": free[0].ends_at}
            assert salon.create_booking(NewClientRow(), row).success
        start = datetime(2026, 12, 1, tzinfo=UTC)
        assert len(salon.get_bookings(start, start + timedelta(days=1)).unwrap()) == 5
