"""Rows are checked before the database sees them; the reasons name fields and never values."""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest

from app.errors import InvalidInputError
from app.models import Base
from app.schemas import rows
from app.schemas.schema import RowSchema
from tests import factories

COMPANY = 7
NAIVE = datetime(2026, 1, 1)  # noqa: DTZ001 - to be refused
SCHEMAS: dict[str, tuple[RowSchema, type]] = {
    "companies": (rows.COMPANY, factories.CompanyRow),
    "clients": (rows.CLIENT, factories.ClientRow),
    "service_categories": (rows.SERVICE_CATEGORY, factories.ServiceCategoryRow),
    "services": (rows.SERVICE, factories.ServiceRow),
    "staff": (rows.STAFF, factories.StaffRow),
    "staff_schedules": (rows.STAFF_SCHEDULE, factories.StaffScheduleRow),
    "bookings": (rows.BOOKING, factories.BookingRow),
    "dialog_contexts": (rows.DIALOG, factories.DialogRow),
    "whatsapp_auth": (rows.WHATSAPP_AUTH, factories.WhatsAppAuthRow),
    "whatsapp_keys": (rows.WHATSAPP_KEY, factories.WhatsAppKeyRow),
}
# Columns that no caller writes, and keys of rows that are no columns.
OURS = {"id", "company_id", "created_at", "updated_at", "search_name", "pending_since"}
CHILDREN = {"services": {"staff"}, "bookings": {"services", "id"}}


def errors_of(schema: RowSchema, row: Any, country: str = "RU") -> dict[str, str]:
    with pytest.raises(InvalidInputError) as error:
        schema.validate(row, COMPANY, country)
    return error.value.fields


@pytest.mark.parametrize("table", SCHEMAS)
def test_the_keys_of_a_row_are_the_columns_of_its_table(table: str) -> None:
    schema, _ = SCHEMAS[table]
    columns = {column.key for column in Base.metadata.tables[table].columns}
    assert schema.fields - CHILDREN.get(table, set()) == columns - OURS


@pytest.mark.parametrize("table", SCHEMAS)
def test_the_smallest_row_is_accepted_and_an_unknown_key_is_refused(table: str) -> None:
    schema, factory = SCHEMAS[table]
    row = factory()
    schema.validate(row, COMPANY)
    schema.validate({key: row[key] for key in schema.required}, COMPANY)
    assert errors_of(schema, {**row, "colour": "blue"}) == {"colour": "unknown field"}
    for key in schema.required:
        without = {name: value for name, value in row.items() if name != key}
        assert errors_of(schema, without) == {key: "required"}


@pytest.mark.parametrize(
    ("field", "value", "stored"),
    [
        ("name", "  Анна  ", "Анна"),
        ("name", "И" * 255, "И" * 255),
        ("phone", "8 (968) 648-44-88", "+79686484488"),
        ("phone", None, None),
        ("birth_date", "1990-02-28", date(1990, 2, 28)),
        ("discount", "5.5", Decimal("5.5")),
        ("total_spent", "1300.00", Decimal("1300.00")),
        ("balance", -100, Decimal(-100)),
        ("last_visit_at", "2026-01-01T12:00:00+03:00", datetime(2026, 1, 1, 9, tzinfo=UTC)),
        ("yclients_id", "83169", 83169),
        ("yclients_id", 2**63 - 2, 2**63 - 2),
    ],
)
def test_a_valid_value_is_converted(field: str, value: Any, stored: Any) -> None:
    assert rows.CLIENT.validate({**factories.ClientRow(), field: value}, COMPANY)[field] == stored


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("yclients_id", value) for value in (0, -1, 2**63, 2**63 - 1, "abc", None, True, 1.5, "", [1])),
        *(
            ("name", value)
            for value in ("", "   ", "\u00a0", None, "a\x00b", "x" * 256, "x" * 10_000, "\ud800", [])
        ),
        *(("phone", value) for value in ("", "abc", "12", [], "+7 968 648 44 88 ext. 1")),
        *(("email", value) for value in ("", "a", "a@", "a b@c", "a@b\x00")),
        *(
            ("birth_date", value)
            for value in ("0000-01-01", "9999-12-31", "1990-02-30", "yesterday", 0, True)
        ),
        *(("discount", value) for value in (-1, 101, "NaN", "1.001", "five")),
        *(("total_spent", value) for value in (-1, "Infinity", 10**12, "1.999", True)),
        *(("visit_count", value) for value in (-1, 2**31, None, True, 1.5)),
        *(("last_visit_at", value) for value in (NAIVE, "2026-01-01 12:00", 0, "0", "9999-12-31T23:59Z")),
        *(("source", value) for value in (None, "me", "")),
    ],
)
def test_an_invalid_value_is_refused_with_the_name_of_its_field(field: str, value: Any) -> None:
    errors = errors_of(rows.CLIENT, {**factories.ClientRow(), field: value})
    assert list(errors) == [field]
    if isinstance(value, str) and len(value.strip()) > 3:
        assert value not in errors[field]


@pytest.mark.parametrize("row", [None, 5, "row", [], [("name", "A")], {5: 5}, {None: 1}])
def test_a_value_that_is_not_a_row_is_refused(row: Any) -> None:
    assert errors_of(rows.CLIENT, row)


def test_a_national_phone_number_is_read_with_the_country() -> None:
    row = factories.ClientRow(phone="(212) 736-5000")
    assert rows.CLIENT.validate(row, COMPANY, "US")["phone"] == "+12127365000"
    assert "phone" in errors_of(rows.CLIENT, row, "RU")


class TestRelatedFields:
    def test_an_end_must_be_after_its_start(self) -> None:
        row = factories.BookingRow()
        for end in (row["starts_at"], row["starts_at"].replace(year=2029)):
            assert errors_of(rows.BOOKING, {**row, "ends_at": end}) == {"ends_at": "is not after starts_at"}

    def test_the_highest_price_must_not_be_below_the_lowest(self) -> None:
        row = factories.ServiceRow(price_min=100, price_max=50)
        assert errors_of(rows.SERVICE, row) == {"price_max": "is less than price_min"}
        rows.SERVICE.validate({**row, "price_max": 0}, COMPANY)  # YClients writes a missing maximum as 0

    @pytest.mark.parametrize(
        "interval",
        [
            {"from": "18:00", "to": "10:00"},
            {"from": "10:00", "to": "10:00"},
            {"from": "24:00", "to": "24:00"},
            {"from": "9:00", "to": "10:00"},
            {"from": "10:60", "to": "11:00"},
            {"from": "10:00"},
            "10:00-11:00",
        ],
    )
    def test_an_interval_needs_a_start_and_a_later_end(self, interval: Any) -> None:
        assert errors_of(rows.STAFF_SCHEDULE, factories.StaffScheduleRow(intervals=[interval]))

    def test_intervals_are_stored_in_order(self) -> None:
        given = [{"from": "14:00", "to": "24:00"}, {"from": "00:00", "to": "12:00"}]
        row = rows.STAFF_SCHEDULE.validate(factories.StaffScheduleRow(intervals=given), COMPANY)
        assert row["intervals"] == given[::-1]


@pytest.mark.parametrize(
    "context",
    [
        {"a": float("nan")},
        {"a": "\x00"},
        {"\x00": 1},
        {"a": "\ud800"},
        {"a": object()},
        [],
        "x",
        None,
        {"a": 10**5000},
    ],
)
def test_a_context_that_jsonb_cannot_hold_is_refused(context: Any) -> None:
    assert errors_of(rows.DIALOG, factories.DialogRow(context=context))


def test_an_escaped_backslash_before_u0000_is_not_a_nul_character() -> None:
    rows.DIALOG.validate(factories.DialogRow(context={"a": "\\u0000"}), COMPANY)
