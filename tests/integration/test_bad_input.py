"""Operations return a Result with the error `invalid` for invalid arguments; it never contains the value."""

import inspect
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from typing import Any

import pytest

from app.data_layer import DataLayer, Result
from app.schemas import rows
from tests.factories import (
    BookingRow,
    ClientRow,
    CompanyRow,
    NewBookingRow,
    NewClientRow,
    ServiceRow,
    StaffRow,
    StaffScheduleRow,
)

MARK = "Zaphod"  # part of every invalid text; no error may contain it
START, END = datetime(2030, 1, 1, tzinfo=UTC), datetime(2030, 1, 2, tzinfo=UTC)

GOOD: dict[str, dict[str, Any]] = {
    "get_dialog_context": {"user_id": "u"},
    "upsert_dialog_context": {"user_id": "u", "data": {"stage": "s"}},
    "get_client_by_phone": {"phone": "+79686484488"},
    "get_client_by_id": {"id": 1},
    "get_clients_by_ids": {"ids": [1]},
    "get_clients": {"limit": 10, "after": 1},
    "search_clients_by_name": {"text": "Анна", "limit": 10},
    "upsert_client": {"data": ClientRow()},
    "upsert_clients": {"rows": [ClientRow()]},
    "get_client_appointments": {"phone": "+79686484488", "start": START, "end": END},
    "get_upcoming_appointments": {"phone": "+79686484488", "now": START},
    "get_staff": {"include_inactive": True},
    "get_staff_by_id": {"id": 1},
    "get_staff_by_ids": {"ids": [1]},
    "upsert_staff": {"rows": [StaffRow()]},
    "get_staff_schedules": {"date_from": date(2030, 1, 1), "date_to": date(2030, 1, 2), "staff_id": 1},
    "get_staff_schedule": {"staff_id": 1, "date": date(2030, 1, 1)},
    "upsert_staff_schedules": {"rows": [StaffScheduleRow()]},
    "get_services": {"include_inactive": True},
    "get_service_by_id": {"id": 1},
    "get_services_by_ids": {"ids": [1]},
    "get_services_by_category": {"category_id": 1},
    "upsert_service": {"data": ServiceRow()},
    "upsert_services": {"rows": [ServiceRow()]},
    "get_company": {},
    "upsert_company": {"data": CompanyRow()},
    "get_bookings": {"start": START, "end": END, "staff_id": 1},
    "get_booking": {"id": 1},
    "get_booking_by_id": {"id": 1},
    "get_bookings_by_ids": {"ids": [1]},
    "upsert_booking": {"data": BookingRow()},
    "upsert_bookings": {"rows": [BookingRow()]},
    "find_free_slots": {"date": date(2030, 1, 1), "duration": 3600, "staff_id": 1, "step": 900},
    "create_booking": {"client": NewClientRow(), "booking": NewBookingRow()},
    "confirm_booking": {"id": 1, "yclients_record_id": 1, "client_id": 1},
    "reschedule_booking": {"id": 1, "starts_at": START, "staff_id": 1, "duration": 3600},
    "cancel_booking": {"id": 1},
}
NOT_FOUND = ("confirm_booking", "reschedule_booking", "cancel_booking")
NONSENSE: tuple[Any, ...] = (
    "",
    " ",
    MARK,
    f"{MARK}\x00",
    f"{MARK}\ud800",
    MARK * 2000,
    b"Zaphod\xff",
    0,
    -1,
    2**63,
    10**40,
    1.5,
    float("nan"),
    float("inf"),
    True,
    None,
    object(),
    [MARK],
    [None],
    [[]],
    {MARK: MARK},
    {1: MARK},
    datetime(2030, 1, 1),  # noqa: DTZ001 - naive on purpose
    datetime.min.replace(tzinfo=UTC),
    datetime.max.replace(tzinfo=UTC),
    date.min,
    date.max,
    "0000-01-01",
    "0000-01-01T00:00:00Z",
    "9999-12-31T23:59:59-12:00",
    "2030-01-01T00:00:00",
)


def nonsense_values() -> Iterator[Any]:
    """Yield NONSENSE, and a new generator: a shared one would be empty after its first use."""
    yield from NONSENSE
    yield (value for value in (MARK,))


def operations() -> dict[str, Callable[..., Result[Any]]]:
    return dict(inspect.getmembers(DataLayer, lambda member: hasattr(member, "__wrapped__")))


def test_every_operation_has_valid_arguments_to_start_from() -> None:
    """A new operation must be added to GOOD."""
    assert {
        name: list(inspect.signature(method).parameters)[1:] for name, method in operations().items()
    } == {name: list(arguments) for name, arguments in GOOD.items()}


@pytest.mark.parametrize("name", GOOD)
def test_valid_arguments_are_accepted(salon: DataLayer, name: str) -> None:
    result = getattr(salon, name)(**GOOD[name])
    assert result.success or (name in NOT_FOUND and result.error.code == "not_found")


@pytest.mark.parametrize(
    ("name", "argument"), [(name, argument) for name, arguments in GOOD.items() for argument in arguments]
)
def test_an_invalid_argument_never_raises_and_is_never_an_internal_error(
    salon: DataLayer, name: str, argument: str
) -> None:
    refused = 0
    for nonsense in nonsense_values():
        result = getattr(salon, name)(**{**GOOD[name], argument: nonsense})
        if result.error is not None:
            refused += 1
            assert result.error.code in ("invalid", "not_found"), (nonsense, result.error)
            assert not result.error.retryable
            if not isinstance(nonsense, dict):  # the error names unknown fields
                assert MARK not in repr(result.error) + result.error.message, nonsense
    assert refused


ROWS: dict[str, tuple[Any, Any]] = {
    "upsert_clients": (ClientRow, rows.ClientRow),
    "upsert_services": (ServiceRow, rows.ServiceRow),
    "upsert_staff": (StaffRow, rows.StaffRow),
    "upsert_staff_schedules": (StaffScheduleRow, rows.StaffScheduleRow),
    "upsert_bookings": (BookingRow, rows.BookingRow),
}


@pytest.mark.parametrize(
    ("name", "field"), [(name, field) for name, (_, row) in ROWS.items() for field in row.__annotations__]
)
def test_rows_with_invalid_values_do_not_affect_other_rows(salon: DataLayer, name: str, field: str) -> None:
    make, _ = ROWS[name]
    given = [make(), *({**make(), field: nonsense} for nonsense in nonsense_values())]
    report = getattr(salon, name)(given).unwrap()
    assert report.total == len(given)
    assert report.inserted >= 1
    assert report.rejected
    assert all(rejected.position > 0 for rejected in report.rejected)
    for rejected in report.rejected:
        assert rejected.errors
        if not isinstance(given[rejected.position][field], dict):
            assert MARK not in repr(rejected.errors), rejected.position
