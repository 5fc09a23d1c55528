"""Mapping of payloads to rows: one complete example of each kind, then special cases."""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from app.errors import InvalidInputError
from app.yclients.mapping.countries import country_code
from app.yclients.mapping.entities import (
    BOOKINGS,
    CLIENTS,
    COMPANY,
    KINDS_BY_NAME,
    SCHEDULES,
    SERVICE_CATEGORIES,
    SERVICES,
    STAFF,
    EntityKind,
)
from app.yclients.mapping.fields import MappingContext

COMPANY_ID = 4564
RECORD = {
    "id": 2820023,
    "company_id": 4564,
    "staff_id": 9,
    "staff": {"id": 9, "name": "Оксана", "position": {"id": 1, "title": "Администратор"}},
    "client": {"id": 1, "name": "Иван", "phone": "+79161502239", "email": ""},
    "services": [
        {
            "id": 1,
            "title": "Наращивание волос",
            "cost": "90.00",
            "cost_to_pay": 85,
            "first_cost": 100,
            "manual_cost": 90,
            "discount": 10,
            "amount": 1,
        },
        {"id": "2", "title": "Укладка", "cost": 50, "discount": 0, "amount": "2"},
    ],
    "date": "2019-01-16 16:00:00",
    "datetime": "2019-01-16T16:00:00+09:00",
    "create_date": "2019-01-16T20:35:11+0900",
    "last_change_date": "2019-01-16T20:35:15+0900",
    "comment": "не записывать",
    "attendance": 1,
    "visit_attendance": 1,
    "confirmed": 1,
    "seance_length": 5400,
    "length": 5400,
    "visit_id": "8262996",
    "api_id": "",
    "activity_id": 0,
    "deleted": False,
    "record_labels": [],
    "custom_fields": {},
}


def read(
    kind: EntityKind, payload: Any, staff_id: int | None = None
) -> tuple[dict[str, Any], dict[str, str]]:
    """The row as it would be stored, and the warnings."""
    context = MappingContext(COMPANY_ID, ZoneInfo("Europe/Moscow"), staff_id)
    mapped = kind.map_payload(payload, context)
    values, reasons = kind.validate(mapped.row, COMPANY_ID, "RU")
    return values, mapped.warnings | reasons


def row(kind: EntityKind, payload: Any, staff_id: int | None = None) -> dict[str, Any]:
    values, warnings = read(kind, payload, staff_id)
    assert warnings == {}
    return values


class TestGoldenExamples:
    def test_company(self) -> None:
        payload = {
            "id": "4564",
            "title": " Ромашка ",
            "country": "Россия",
            "city": "Москва",
            "timezone": "Europe/Moscow",
            "address": "ул. Лесная, 5",
            "phone": "+7 495 123-45-67",
            "coordinate_lat": 55.7,
            "coordinate_lon": 37.5,
        }
        assert row(COMPANY, payload) == {
            "title": "Ромашка",
            "country": "RU",
            "timezone": "Europe/Moscow",
            "address": "ул. Лесная, 5",
            "phone": "+7 495 123-45-67",
        }

    def test_service_category(self) -> None:
        assert row(SERVICE_CATEGORIES, {"id": 83169, "title": "Волосы", "weight": "5", "api_id": ""}) == {
            "yclients_id": 83169,
            "title": "Волосы",
            "weight": 5,
            "deleted_at": None,
        }

    def test_service(self) -> None:
        payload = {
            "id": "331",
            "salon_service_id": 5331,
            "title": "Стрижка",
            "category_id": "83169",
            "price_min": "1300.00",
            "price_max": 2000,
            "discount": 0,
            "comment": "",
            "weight": 0,
            "active": "1",
            "api_id": "00042",
            "staff": [{"id": 9, "seance_length": 3600}, {"id": "10", "seance_length": "4500"}],
        }
        assert row(SERVICES, payload) == {
            "yclients_id": 331,
            "title": "Стрижка",
            "category_id": 83169,
            "price_min": Decimal(1300),
            "price_max": Decimal(2000),
            "duration": 4500,
            "comment": None,
            "weight": 0,
            "is_active": True,
            "deleted_at": None,
            "staff": [{"staff_id": 9, "duration": 3600}, {"staff_id": 10, "duration": 4500}],
        }

    def test_staff_member(self) -> None:
        payload = {
            "id": 9,
            "company_id": 4564,
            "name": "Оксана",
            "specialization": "Стилист",
            "position": {"id": 1, "title": "Топ-мастер"},
            "weight": 10,
            "rating": 4.666,
            "votes_count": 3,
            "show_rating": 1,
            "avatar": "https://example.com/a.png",
            "fired": 0,
            "hidden": "1",
            "status": 0,
        }
        assert row(STAFF, payload) == {
            "yclients_id": 9,
            "name": "Оксана",
            "specialization": "Стилист",
            "position": "Топ-мастер",
            "weight": 10,
            "rating": Decimal("4.67"),
            "is_active": True,
            "is_bookable": False,
            "deleted_at": None,
        }

    def test_client(self) -> None:
        payload = {
            "id": 1,
            "name": "Иван",
            "surname": "Иванов",
            "patronymic": "",
            "phone": "8 (968) 648-44-88",
            "email": "ivan@example.com",
            "categories": [],
            "sex": 2,
            "discount": "5",
            "importance": "",
            "card": "",
            "birth_date": "1970-01-01",
            "comment": "любит кофе",
            "spent": "1300.50",
            "balance": -200,
            "visits": "7",
            "last_change_date": "2026-01-02T12:00:00+0300",
            "custom_fields": {},
        }
        assert row(CLIENTS, payload) == {
            "yclients_id": 1,
            "name": "Иван",
            "surname": "Иванов",
            "patronymic": None,
            "phone": "+79686484488",
            "email": "ivan@example.com",
            "discount": Decimal(5),
            "importance": None,
            "birth_date": None,
            "comment": "любит кофе",
            "total_spent": Decimal("1300.50"),
            "balance": Decimal(-200),
            "visit_count": 7,
            "source_changed_at": datetime(2026, 1, 2, 9, tzinfo=UTC),
            "deleted_at": None,
        }

    def test_schedule(self) -> None:
        payload = {
            "date": "2026-11-21",
            "is_working": 1,
            "slots": [{"from": "15:00", "to": "00:00"}, {"from": "9:00", "to": "14:30:00"}],
        }
        assert row(SCHEDULES, payload, staff_id=9) == {
            "staff_id": 9,
            "date": date(2026, 11, 21),
            "is_working": True,
            "intervals": [{"from": "09:00", "to": "14:30"}, {"from": "15:00", "to": "24:00"}],
            "deleted_at": None,
        }

    def test_booking(self) -> None:
        assert row(BOOKINGS, RECORD) == {
            "yclients_record_id": 2820023,
            "staff_id": 9,
            "client_id": 1,
            "client_phone": "+79161502239",
            "client_name": "Иван",
            "starts_at": datetime(2019, 1, 16, 7, tzinfo=UTC),
            "ends_at": datetime(2019, 1, 16, 8, 30, tzinfo=UTC),
            "attendance": 1,
            "status": "active",
            "comment": "не записывать",
            "price": Decimal(140),
            "source_changed_at": datetime(2019, 1, 16, 11, 35, 15, tzinfo=UTC),
            "deleted_at": None,
            "services": [
                {
                    "service_id": 1,
                    "title": "Наращивание волос",
                    "amount": 1,
                    "discount": Decimal(10),
                    "cost": Decimal(90),
                },
                {
                    "service_id": 2,
                    "title": "Укладка",
                    "amount": 2,
                    "discount": Decimal(0),
                    "cost": Decimal(50),
                },
            ],
        }


class TestCompanies:
    @pytest.mark.parametrize(
        ("name", "code"),
        [
            ("Россия", "RU"),
            ("РОССИЯ ", "RU"),
            ("Российская Федерация", "RU"),
            ("Қазақстан", "KZ"),
            ("Беларусь", "BY"),
            ("Белоруссия", "BY"),
            ("Україна", "UA"),
            ("Latvija", "LV"),
            ("Eesti", "EE"),
            ("საქართველო", "GE"),
            ("United Arab Emirates", "AE"),
            ("ОАЭ", "AE"),
            ("de", "DE"),
            ("Нарния", None),
            ("", None),
        ],
    )
    def test_countries_are_recognised_by_their_localised_names(self, name: str, code: str | None) -> None:
        assert country_code(name) == code

    def test_an_unknown_country_or_time_zone_is_stored_with_a_warning(self) -> None:
        payload = {"id": 4564, "title": "Салон", "country": "Нарния", "timezone": "Narnia/Lamp Post"}
        values, warnings = read(COMPANY, payload)
        assert (values["country"], values["timezone"]) == ("Нарния", "Narnia/Lamp Post")
        assert warnings.keys() == {"country", "timezone"}

    def test_country_and_time_zone_may_be_missing(self) -> None:
        assert row(COMPANY, {"id": 4564, "title": "Салон", "country": "", "timezone": None}) == {
            "title": "Салон"
        }

    @pytest.mark.parametrize("company_id", [4565, "abc", None, 0])
    def test_another_company_is_refused(self, company_id: Any) -> None:
        with pytest.raises(InvalidInputError, match="another company"):
            read(COMPANY, {"id": company_id, "title": "Салон"})


class TestBookings:
    def test_the_time_with_an_offset_is_used_and_the_local_date_replaces_a_missing_one(self) -> None:
        local = RECORD | {"datetime": None, "date": "2026-07-01 10:00:00"}
        assert row(BOOKINGS, local)["starts_at"] == datetime(2026, 7, 1, 7, tzinfo=UTC)
        values, warnings = read(BOOKINGS, local | {"datetime": "soon"})
        assert values["starts_at"] == datetime(2026, 7, 1, 7, tzinfo=UTC)
        assert warnings.keys() == {"starts_at"}

    @pytest.mark.parametrize("client", [None, {}, [], ""])
    def test_a_booking_may_have_no_client(self, client: Any) -> None:
        values = row(BOOKINGS, RECORD | {"client": client})
        assert [values[f"client_{field}"] for field in ("id", "phone", "name")] == [None, None, None]

    @pytest.mark.parametrize(
        ("lengths", "minutes", "warned"),
        [
            ({"seance_length": 1800, "length": 3600}, 30, False),
            ({"seance_length": "1800"}, 30, False),
            ({"seance_length": None, "length": 2700}, 45, False),
            ({"seance_length": "long", "length": 2700}, 45, False),
            ({"seance_length": 0, "length": 0}, 60, False),
            ({}, 60, False),
            ({"seance_length": -5}, 60, True),
            ({"seance_length": 10**12}, 60, True),
            ({"seance_length": {"a": 1}}, 60, True),
        ],
    )
    def test_a_booking_without_a_length_takes_an_hour(self, lengths: Any, minutes: int, warned: bool) -> None:
        payload = {k: v for k, v in RECORD.items() if k not in ("seance_length", "length")} | lengths
        values, warnings = read(BOOKINGS, payload)
        assert (values["ends_at"] - values["starts_at"]).total_seconds() == minutes * 60
        assert bool(warnings) == warned

    def test_a_deleted_booking_is_cancelled_at_its_last_change(self) -> None:
        values = row(BOOKINGS, RECORD | {"deleted": "1"})
        assert (values["status"], values["deleted_at"]) == ("cancelled", values["source_changed_at"])
        unchanged = {k: v for k, v in RECORD.items() if k not in ("last_change_date", "create_date")}
        first, second = (row(BOOKINGS, unchanged | {"deleted": True}) for _ in range(2))
        assert first["deleted_at"] == second["deleted_at"] == first["starts_at"]

    @pytest.mark.parametrize(
        ("api_id", "ours"), [("17", 17), (17, 17), ("", None), ("crm-17", None), (0, None), (2**70, None)]
    )
    def test_only_a_number_is_accepted_as_our_own_id(self, api_id: Any, ours: int | None) -> None:
        assert row(BOOKINGS, RECORD | {"api_id": api_id}).get("id") == ours

    def test_the_attendance_of_the_visit_replaces_a_missing_one_of_the_record(self) -> None:
        assert row(BOOKINGS, RECORD | {"attendance": None, "visit_attendance": "-1"})["attendance"] == -1

    def test_the_first_readable_cost_is_used(self) -> None:
        lines = [
            {"id": 1, "cost": None, "cost_to_pay": "80", "first_cost": 100},
            {"id": 2, "cost": "free", "manual_cost": "70.5"},
            {"id": 3},
        ]
        values = row(BOOKINGS, RECORD | {"services": lines})
        assert [line["cost"] for line in values["services"]] == [Decimal(80), Decimal("70.5"), None]
        assert values["price"] == Decimal("150.5")

    @pytest.mark.parametrize("services", [{}, [], None, ""])
    def test_a_booking_without_services_has_no_price(self, services: Any) -> None:
        values = row(BOOKINGS, RECORD | {"services": services})
        assert (values["services"], values["price"]) == ([], None)

    def test_only_the_service_without_an_id_is_dropped(self) -> None:
        values, warnings = read(BOOKINGS, RECORD | {"services": [{"title": "?"}, None, {"id": 2}]})
        assert [line["service_id"] for line in values["services"]] == [2]
        assert warnings.keys() == {"services.0.service_id", "services.1"}


class TestPartialPayloads:
    def test_a_missing_key_leaves_its_column_unchanged(self) -> None:
        assert row(CLIENTS, {"id": 1, "name": "Иван"}).keys() == {"yclients_id", "name", "deleted_at"}

    @pytest.mark.parametrize("kind", KINDS_BY_NAME.values(), ids=str)
    def test_unknown_fields_are_ignored(self, kind: EntityKind) -> None:
        known = {"id": 4564, "title": "x", "name": "x", "date": "2026-11-21 10:00:00"}
        assert row(kind, known, 9) == row(kind, known | {"unheard": {"of": [1]}, "": None}, 9)

    def test_a_row_of_another_company_is_rejected(self) -> None:
        for kind, payload in ((BOOKINGS, RECORD), (STAFF, {"id": 9, "name": "Оксана"})):
            row(kind, payload | {"company_id": "4564"})
            with pytest.raises(InvalidInputError, match="another company"):
                read(kind, payload | {"company_id": 4565})


class TestInvalidFields:
    @pytest.mark.parametrize(
        ("field", "value", "column"),
        [
            ("phone", "звоните Маше", "phone"),
            ("email", "no at sign", "email"),
            ("birth_date", "0000-00-00", "birth_date"),
            ("birth_date", 5, "birth_date"),
            ("spent", "много", "total_spent"),
            ("spent", -1, "total_spent"),
            ("discount", 101, "discount"),
            ("balance", "9" * 15, "balance"),
            ("surname", "Я" * 300, "surname"),
            ("comment", "a\0b", "comment"),
            ("last_change_date", "9999-12-31T23:59:59-1200", "source_changed_at"),
            ("last_change_date", "0000-00-00 00:00:00", "source_changed_at"),
        ],
    )
    def test_an_invalid_field_becomes_null_with_a_warning(self, field: str, value: Any, column: str) -> None:
        values, warnings = read(CLIENTS, {"id": 1, "name": "Иван", field: value})
        assert values[column] is None
        assert warnings.keys() == {column}
        assert len(str(value)) < 2 or str(value) not in warnings[column]

    def test_an_invalid_field_is_omitted_if_the_column_has_a_default(self) -> None:
        values, warnings = read(CLIENTS, {"id": 1, "name": "Иван", "visits": "often"})
        assert "visit_count" not in values
        assert warnings.keys() == {"visit_count"}
        assert "visit_count" not in row(CLIENTS, {"id": 1, "name": "Иван", "visits": None})

    def test_only_the_invalid_interval_is_dropped(self) -> None:
        slots = [{"from": "20:00", "to": "02:00"}, {"from": "10:00", "to": "12:00"}, 7, {"from": "25:00"}]
        values, warnings = read(SCHEDULES, {"date": "2026-11-21", "is_working": 1, "slots": slots}, 9)
        assert values["intervals"] == [{"from": "10:00", "to": "12:00"}]
        assert {field.split(".")[1] for field in warnings} == {"0", "2", "3"}

    @pytest.mark.parametrize("client_id", [0, -1, 2**63, "abc", None, True, 1.5, [], {"id": 1}])
    def test_a_row_without_a_valid_id_is_rejected(self, client_id: Any) -> None:
        with pytest.raises(InvalidInputError) as caught:
            read(CLIENTS, {"id": client_id, "name": "Иван"})
        assert caught.value.fields.keys() == {"yclients_id"}

    @pytest.mark.parametrize("name", ["", "   ", None, [], True, "Я" * 10_000, "a\0"])
    def test_a_row_without_a_required_field_is_rejected(self, name: Any) -> None:
        with pytest.raises(InvalidInputError) as caught:
            read(CLIENTS, {"id": 1, "name": name, "phone": "nonsense"})
        assert "name" in caught.value.fields
