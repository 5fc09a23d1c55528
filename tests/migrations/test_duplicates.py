"""Merges of duplicate groups: the kept row, filled fields, changed references, archived rows."""

import pytest

from app.migrations.runner import MigrationRefused
from tests.migrations.databases import Database


def merged(old: Database) -> None:
    old.upgrade(dedupe="keep-earliest")
    old.check()


def test_the_earliest_row_by_time_and_then_by_id_is_kept(old: Database) -> None:
    old.insert(
        "staff",
        {"name": "late", "created_at": "2026-03-01"},
        {"name": "early", "created_at": "2026-01-01"},
        {"name": "as early", "created_at": "2026-01-01"},
        {"name": "other company", "company_id": 2},
        {"name": "other id", "yclients_id": 2},
    )
    merged(old)
    assert old.values("SELECT name FROM staff ORDER BY id") == ["early", "other company", "other id"]
    assert [(entry["row"]["name"], entry["kept_id"]) for entry in old.archived("staff")] == [
        ("as early", 2),
        ("late", 2),
    ]


def test_empty_fields_are_filled_from_the_earliest_row_with_a_value(old: Database) -> None:
    old.insert(
        "bookings",
        {"client_name": " ", "client_phone": None, "price": 0, "service_ids": [], "comment": "first"},
        {"client_name": None, "price": 5, "service_ids": [1], "comment": "second", "duration": 60},
        {"client_name": "Anna", "client_phone": "+79686484488", "service_ids": [2], "duration": 90},
    )
    merged(old)
    (booking,) = old.rows("SELECT *, ends_at - starts_at AS lasts FROM bookings")
    assert (booking["client_name"], booking["client_phone"]) == ("Anna", "+79686484488")
    assert (booking["price"], booking["comment"]) == (0, "first")
    assert booking["lasts"].total_seconds() == 60
    assert old.values("SELECT service_id FROM booking_services") == [1]


def test_a_unique_phone_is_taken_over_from_a_removed_row(old: Database) -> None:
    old.execute("DROP INDEX clients_yclients_id_key")
    old.insert("clients", {"phone": ""}, {"phone": "+79686484488", "email": "a@example.org"})
    merged(old)
    (client,) = old.rows("SELECT phone, email FROM clients")
    assert client == {"phone": "+79686484488", "email": "a@example.org"}


def test_a_day_off_is_not_filled_with_working_hours(old: Database) -> None:
    hours = [{"from": "10:00", "to": "18:00"}]
    old.insert(
        "staff_schedules",
        {"is_working": False, "slots": []},
        {"is_working": True, "slots": hours},
        {"staff_id": 2, "slots": []},
        {"staff_id": 2, "slots": hours},
    )
    merged(old)
    rows = old.rows("SELECT is_working, intervals FROM staff_schedules ORDER BY staff_id")
    assert [tuple(row.values()) for row in rows] == [(False, []), (True, hours)]


def test_a_title_is_taken_over_only_with_its_category(old: Database) -> None:
    old.execute("DROP INDEX services_yclients_id_key")
    old.insert(
        "services",
        {"category_id": 5},
        {"category_id": 6, "category_title": "Nails"},
        {"category_id": 5, "category_title": "Hair"},
    )
    merged(old)
    assert old.values("SELECT title FROM service_categories") == ["Hair"]


def test_values_of_two_sessions_are_never_mixed(old: Database) -> None:
    old.insert("whatsapp_auth", {"company_id": "7", "creds": {}}, {"company_id": "07", "creds": {"noise": 1}})
    old.insert(
        "whatsapp_keys",
        {"company_id": "7", "value": {"a": 1}},
        {"company_id": "7 ", "value": {"a": 2}, "expires_at": "2026-01-01"},
    )
    merged(old)
    assert old.values("SELECT creds FROM whatsapp_auth") == [b"{}"]
    (key,) = old.rows("SELECT value, expires_at FROM whatsapp_keys")
    assert key == {"value": b'{"a":1}', "expires_at": None}
    assert [entry["row"]["creds"] for entry in old.archived("whatsapp_auth")] == [{"noise": 1}]


def test_rows_with_values_that_python_cannot_represent_are_merged(old: Database) -> None:
    for _ in range(2):
        old.execute(
            "INSERT INTO staff_schedules (staff_id, company_id, date) VALUES (1, 1, 'infinity');"
            "INSERT INTO bookings (yclients_id, company_id, datetime, created_at)"
            " VALUES (1, 1, '-infinity', 'infinity')"
        )
    merged(old)
    assert old.values("SELECT date::text FROM staff_schedules") == ["infinity"]
    assert [entry["reason"] for entry in old.archived("bookings")] == ["duplicate", "datetime is not a time"]


def test_references_to_a_removed_row_are_changed_to_the_kept_row(old: Database) -> None:
    old.insert("staff", {}, {}, {"yclients_id": 2})
    old.execute("CREATE TABLE photos (id int, member int REFERENCES staff (id))")
    old.execute("INSERT INTO photos VALUES (1, 1), (2, 2), (3, 3)")
    old.upgrade("composite_uniqueness", dedupe="keep-earliest")
    assert old.values("SELECT member FROM photos ORDER BY id") == [1, 1, 3]


def test_a_refusal_lists_every_group_of_every_table_without_personal_data(old: Database) -> None:
    old.insert("staff", {}, {}, {"yclients_id": 2})
    old.insert("staff_schedules", {}, {})
    old.insert("bookings", {"company_id": 2}, {"company_id": 2})
    old.insert("dialog_contexts", {"user_id": "79686484488"}, {"user_id": "79686484488"})
    old.insert("whatsapp_auth", {"company_id": "1"}, {"company_id": " 1"}, {"company_id": "x"})
    old.insert("whatsapp_keys", {"key_id": "79686484488"}, {"key_id": "79686484488", "company_id": "01"})
    with pytest.raises(MigrationRefused) as refusal:
        old.upgrade()
    assert refusal.value.report == (
        "staff (yclients_id 1, company_id 1): ids 1, 2",
        "bookings (yclients_id 1, company_id 2): ids 1, 2",
        "staff_schedules (staff_id 1, date 2026-12-01, company_id 1): ids 1, 2",
        "dialog_contexts (company_id 1): ids 1, 2",
        "whatsapp_auth (company_id 1): ids 1, 2",
        "whatsapp_keys (company_id 1, key_type session): ids 1, 2",
    )
    assert old.revision == "baseline"
