"""The kind of a file is detected by its first rows, and otherwise by its name."""

from pathlib import Path
from typing import Any

import pytest

from app.yclients.importing.detect_entity import detect_entity, staff_id_from_filename


@pytest.mark.parametrize(
    ("row", "name", "kind"),
    [
        ({"id": 1, "title": "Салон", "timezone": "Europe/Moscow", "phone": "1"}, "a.json", "company"),
        ({"id": 1, "title": "Волосы", "weight": 1}, "a.json", "service_categories"),
        ({"id": 1, "title": "Стрижка", "price_min": 1, "weight": 1}, "a.json", "services"),
        ({"id": 1, "title": "Стрижка"}, "services_2.json", "services"),
        ({"id": 1, "title": "Волосы"}, "service_categories.json", "service_categories"),
        ({"id": 1, "name": "Оксана", "fired": 0}, "a.json", "staff"),
        ({"id": 1, "name": "Оксана"}, "staff.json", "staff"),
        ({"id": 1, "name": "Иван"}, "Clients 1.json", "clients"),
        ({"id": 1, "name": "Иван", "phone": "1"}, "a.json", "clients"),
        ({"id": 1, "surname": "И", "name": "Иван"}, "staff.json", "clients"),
        ({"date": "2026-11-21", "is_working": 1, "slots": []}, "a.json", "schedules"),
        ({"id": 1, "staff": {}, "services": [], "datetime": "x", "client": None}, "a.json", "bookings"),
    ],
)
def test_the_kind_of_a_payload_is_recognised(row: Any, name: str, kind: str) -> None:
    shape = detect_entity([row], Path(name))
    assert shape is not None
    assert (shape.kind.name, shape.has_frontdesk_columns) == (kind, False)


@pytest.mark.parametrize(
    ("row", "name", "kind"),
    [
        ({"title": "Салон", "country": "RU"}, "a.ndjson", "company"),
        ({"yclients_id": 1, "title": "Волосы"}, "categories.ndjson", "service_categories"),
        ({"yclients_id": 1, "title": "Стрижка", "price_min": 1}, "a.ndjson", "services"),
        ({"yclients_id": 1, "name": "Оксана", "is_bookable": True}, "a.ndjson", "staff"),
        ({"yclients_id": 1, "name": "Иван", "phone": "1", "unheard": 1}, "a.ndjson", "clients"),
        ({"staff_id": 1, "date": "2026-11-21", "intervals": []}, "a.ndjson", "schedules"),
        ({"yclients_record_id": 1, "starts_at": "x", "ends_at": "y"}, "a.ndjson", "bookings"),
    ],
)
def test_the_kind_of_a_row_in_our_format_is_recognised(row: Any, name: str, kind: str) -> None:
    shape = detect_entity([row], Path(name))
    assert shape is not None
    assert (shape.kind.name, shape.has_frontdesk_columns) == (kind, True)


@pytest.mark.parametrize(
    "row", [{"id": 1, "name": "?"}, {"yclients_id": 1, "name": "?"}, {"id": 1}, {}, 7, None]
)
def test_an_ambiguous_row_is_not_recognised(row: Any) -> None:
    assert detect_entity([row], Path("a.json")) is None


def test_the_first_recognised_row_decides() -> None:
    shape = detect_entity([None, {}, {"id": 1}, {"id": 1, "fired": 1}], Path("a.json"))
    assert shape is not None
    assert shape.kind.name == "staff"


@pytest.mark.parametrize(
    ("name", "staff_id"),
    [
        ("schedule_83169.json", 83169),
        ("schedule-83169-2026-11.json", 83169),
        ("2026-11 staff 83169 schedule.json", 83169),
        ("schedules.83169.json", 83169),
        ("schedule-2026-11-83169.json", None),
        ("schedule-2026-11.json", None),
        ("schedule.json", None),
        ("83169.json", None),
    ],
)
def test_the_staff_member_of_a_schedule_is_read_from_the_file_name(name: str, staff_id: int | None) -> None:
    assert staff_id_from_filename(Path(name)) == staff_id
