"""Conversion of rows by the migrations, for every kind of value that the old schema could hold."""

import json
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.migrations.databases import Database


def test_flags_are_renamed_to_is_active_and_fired_is_inverted(old: Database) -> None:
    old.insert("services", {"active": False})
    old.insert("staff", {"yclients_id": 1, "fired": True}, {"yclients_id": 2, "fired": False})
    old.upgrade()
    assert old.values("SELECT is_active FROM services") == [False]
    assert old.values("SELECT is_active FROM staff ORDER BY yclients_id") == [False, True]
    old.execute("INSERT INTO staff (company_id, yclients_id, name) VALUES (1, 3, 'New')")
    assert old.value("SELECT is_active FROM staff WHERE yclients_id = 3") is True


def test_timestamps_are_read_as_utc_under_any_default_time_zone(old: Database) -> None:
    old.insert("clients", {"last_visit_date": "2026-03-29 02:30", "created_at": "2026-01-01 00:00"})
    old.insert("dialog_contexts", {"last_activity": "2026-07-01 12:00"})
    name = old.value("SELECT current_database()")
    old.execute(f"ALTER DATABASE {name} SET timezone = 'Asia/Tokyo'")
    old.upgrade()
    (client,) = old.rows("SELECT last_visit_at, created_at FROM clients")
    assert client["last_visit_at"] == datetime(2026, 3, 29, 2, 30, tzinfo=UTC)
    assert client["created_at"] == datetime(2026, 1, 1, tzinfo=UTC)
    assert old.value("SELECT last_activity_at FROM dialog_contexts") == datetime(2026, 7, 1, 12, tzinfo=UTC)


def test_missing_companies_are_inserted_and_empty_settings_get_defaults(old: Database) -> None:
    old.insert(
        "companies",
        {"company_id": 1, "timezone": None, "country": "Россия"},
        {"company_id": 2, "timezone": " ", "country": "Kazakhstan"},
        {"company_id": 3, "timezone": "Asia/Almaty", "country": "kz"},
        {"company_id": 4, "timezone": "Moscow time", "country": "Нарния"},
        {"company_id": 5, "country": None},
    )
    old.insert("clients", {"company_id": 77})
    old.insert("staff", {"company_id": -5}, {"company_id": 0})
    old.insert("whatsapp_keys", {"company_id": "88"})
    old.upgrade()
    assert [
        tuple(row.values())
        for row in old.rows("SELECT company_id, title, timezone, country FROM companies ORDER BY 1")
    ] == [
        (-5, "Company -5", "Europe/Moscow", "RU"),
        (0, "Company 0", "Europe/Moscow", "RU"),
        (1, "Salon", "Europe/Moscow", "RU"),
        (2, "Salon", "Europe/Moscow", "KZ"),
        (3, "Salon", "Asia/Almaty", "KZ"),
        (4, "Salon", "Moscow time", "Нарния"),
        (5, "Salon", "Europe/Moscow", "RU"),
        (77, "Company 77", "Europe/Moscow", "RU"),
        (88, "Company 88", "Europe/Moscow", "RU"),
    ]
    assert old.values("SELECT company_id FROM staff ORDER BY 1") == [-5, 0]


def test_a_session_with_an_invalid_company_id_is_archived(old: Database) -> None:
    readable = {"962302": 962302, " 0015\t": 15, "9223372036854775806": 2**63 - 2}
    unreadable = ["", "abc", "0", "-5", "1.5", "9223372036854775808", "9" * 40, "12 34"]
    for company in (*readable, *unreadable):
        old.insert("whatsapp_auth", {"company_id": company, "creds": {"of": company}})
        old.insert("whatsapp_keys", {"company_id": company, "value": {"of": company}})
    old.upgrade()
    for table, column in (("whatsapp_auth", "creds"), ("whatsapp_keys", "value")):
        kept = {
            row["company_id"]: json.loads(row["v"])
            for row in old.rows(f"SELECT company_id, {column} AS v FROM {table}")
        }
        assert kept == {number: {"of": company} for company, number in readable.items()}
        archived = old.archived(table)
        assert [entry["row"]["company_id"] for entry in archived] == unreadable
        assert [entry["row"][column]["of"] for entry in archived] == unreadable
        assert {entry["reason"] for entry in archived} == {"company_id is not a positive number"}


SESSION_VALUES = [
    {"type": "Buffer", "data": "AAEC/w=="},
    {"type": "Buffer", "data": [0, 1, 255]},
    {"0": 0, "1": 255},
    {"type": "Buffer", "data": ""},
    {"type": "Buffer", "data": []},
    'a bare string, with: signs \\ " and  blanks',
    {"a b": ["  ", '\\"', "\\\\", '\\", "x": 1', "\n\t", "Ёж 😀", "\u2028"], "deep": [[[{}]]]},
    [],
    {},
    None,
    True,
    12345678901234567890,
    1.1,
]


def test_session_values_become_compact_json(old: Database) -> None:
    for number, value in enumerate(SESSION_VALUES):
        old.insert("whatsapp_keys", {"key_id": str(number), "value": value})
    stored = old.values("SELECT value FROM whatsapp_keys ORDER BY id")
    old.upgrade()
    carried = old.values("SELECT value FROM whatsapp_keys ORDER BY id")
    assert [json.loads(value) for value in carried] == SESSION_VALUES
    assert carried == [compact(value) for value in stored]
    old.downgrade("baseline")
    assert old.values("SELECT value FROM whatsapp_keys ORDER BY id") == SESSION_VALUES


def compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def test_numbers_in_session_values_keep_the_notation_of_jsonb(old: Database) -> None:
    old.execute("INSERT INTO whatsapp_auth (company_id, creds) VALUES ('1', '{\"n\": [1.10, 1e3, 0.1e-7]}')")
    old.upgrade()
    assert old.value("SELECT creds FROM whatsapp_auth") == b'{"n":[1.10,1000,0.00000001]}'
    assert old.value("SELECT version FROM whatsapp_auth") == 1


def test_categories_become_rows_and_contradicting_titles_are_archived(old: Database) -> None:
    old.insert(
        "services",
        {"yclients_id": 1, "category_id": 5, "category_title": "Hair", "updated_at": "2026-01-01"},
        {"yclients_id": 2, "category_id": 5, "category_title": "Haircuts", "updated_at": "2026-02-01"},
        {"yclients_id": 3, "category_id": 5},
        {"yclients_id": 4, "category_title": "Nails"},
        {"yclients_id": 5, "category_id": 6, "category_title": " "},
        {"yclients_id": 6, "category_id": 5, "category_title": "Brows", "company_id": 2},
    )
    old.upgrade()
    categories = old.rows("SELECT company_id, yclients_id, title FROM service_categories ORDER BY 1")
    assert [tuple(row.values()) for row in categories] == [(1, 5, "Haircuts"), (2, 5, "Brows")]
    assert old.values("SELECT category_id FROM services ORDER BY yclients_id") == [5, 5, 5, None, 6, 5]
    archived = {entry["row"]["yclients_id"]: entry for entry in old.archived("services")}
    assert {number: entry["row"]["category_title"] for number, entry in archived.items()} == {
        1: "Hair",
        4: "Nails",
        5: " ",
    }
    assert all(entry["kept_id"] == entry["row"]["id"] for entry in archived.values())


SLOTS = [
    ([{"from": "10:00", "to": "14:30"}, {"from": "15:00", "to": "24:00"}], None, False),
    ([], None, False),
    (["9:00-13:00", "14:00 – 18:00"], [("09:00", "13:00"), ("14:00", "18:00")], False),
    ([{"from": "9:00:00", "to": "10:00"}], [("09:00", "10:00")], False),
    ({"from": "10:00", "to": "11:00"}, [("10:00", "11:00")], False),
    ([{"from": "10:00", "to": "11:00", "room": 5}], [("10:00", "11:00")], True),
    ([{"from": "18:00", "to": "10:00"}, "10:00-11:00"], [("10:00", "11:00")], True),
    (["25:00-26:00", 5, None, {}, {"from": 10, "to": 11}, "24:30-25:00"], [], True),
    ("closed", [], True),
    (5, [], True),
]


def test_schedule_slots_become_intervals(old: Database) -> None:
    for number, (slots, _, _) in enumerate(SLOTS):
        old.insert("staff_schedules", {"staff_id": number, "slots": slots})
    old.upgrade()
    for number, (slots, intervals, _) in enumerate(SLOTS):
        expected = slots if intervals is None else [{"from": start, "to": end} for start, end in intervals]
        assert old.value("SELECT intervals FROM staff_schedules WHERE staff_id = %s", number) == expected
    archived = [entry["row"]["intervals"] for entry in old.archived("staff_schedules")]
    assert archived == [slots for slots, _, archived in SLOTS if archived]


SERVICE_IDS = [
    ([3, 1, 3], [3, 1, 3], False),
    (["4", " 5 ", 6.0], [4, 5, 6], False),
    ([{"id": 7}, {"id": "8"}], [7, 8], False),
    ([{"id": 7, "title": "Cut"}], [7], True),
    ([1, "x", None, True, -5, 0, 1.5, 2**63, {}, [2], 9], [1, 9], True),
    (5, [5], False),
    ("5", [5], False),
    (None, [], False),
    ({}, [], True),
    ([], [], False),
]


def test_service_ids_become_rows_in_their_order(old: Database) -> None:
    bookings = old.insert(
        "bookings", *({"yclients_id": n, "service_ids": ids} for n, (ids, _, _) in enumerate(SERVICE_IDS))
    )
    old.upgrade()
    rows = old.rows("SELECT booking, position, service_id, amount FROM booking_services ORDER BY 1, 2")
    assert [tuple(row.values()) for row in rows] == [
        (booking, position, service, 1)
        for booking, (_, services, _) in zip(bookings, SERVICE_IDS, strict=True)
        for position, service in enumerate(services)
    ]
    archived = [entry["row"]["service_ids"] for entry in old.archived("bookings")]
    assert archived == [ids for ids, _, archived in SERVICE_IDS if archived]


DURATIONS = [(5400, 5400, False), (1, 1, False), (None, 3600, False), (0, 3600, True), (-60, 3600, True)]


def test_bookings_end_after_their_duration_or_else_after_an_hour(old: Database) -> None:
    old.insert("bookings", *({"yclients_id": n, "duration": row[0]} for n, row in enumerate(DURATIONS)))
    old.upgrade()
    bookings = old.rows("SELECT starts_at, ends_at FROM bookings ORDER BY id")
    assert {booking["starts_at"] for booking in bookings} == {datetime(2026, 12, 1, 10, tzinfo=UTC)}
    lengths = [(booking["ends_at"] - booking["starts_at"]).total_seconds() for booking in bookings]
    assert lengths == [seconds for _, seconds, _ in DURATIONS]
    archived = [entry["row"]["duration"] for entry in old.archived("bookings")]
    assert archived == [duration for duration, _, archived in DURATIONS if archived]


STATUSES = [
    ("active", "active"),
    ("cancelled", "cancelled"),
    ("Canceled ", "cancelled"),
    ("confirmed", "active"),
    ("", "active"),
]


def test_other_statuses_are_mapped_to_one_of_two_and_archived(old: Database) -> None:
    old.insert("bookings", *({"yclients_id": n, "status": row[0]} for n, row in enumerate(STATUSES)))
    old.upgrade()
    assert old.values("SELECT status FROM bookings ORDER BY id") == [expected for _, expected in STATUSES]
    originals = [entry["row"]["status"] for entry in old.archived("bookings")]
    assert originals == [status for status, expected in STATUSES if status != expected]


def test_a_booking_with_an_impossible_time_is_archived(old: Database) -> None:
    times = ["infinity", "-infinity", "0044-03-15 12:00 BC", "294276-12-31 23:59"]
    for number, time in enumerate(times):
        old.execute(
            "INSERT INTO bookings (yclients_id, company_id, datetime) VALUES (%s, 1, %s)", number, time
        )
    old.insert("bookings", {"yclients_id": 9})
    old.upgrade()
    assert old.values("SELECT yclients_record_id FROM bookings") == [9]
    assert len(old.archived("bookings")) == len(times)
    assert old.archived("bookings")[0]["row"]["datetime"] == "infinity"


def test_only_active_future_bookings_with_staff_get_slots(old: Database) -> None:
    future = {"staff_id": 7, "datetime": "2999-01-01 10:00", "duration": 1800}
    old.insert(
        "bookings",
        {**future, "yclients_id": 1},
        {**future, "yclients_id": 2},  # bookings from YClients may overlap
        {**future, "yclients_id": 3, "status": "cancelled"},
        {**future, "yclients_id": 4, "staff_id": None},
        {**future, "yclients_id": 5, "datetime": "2020-01-01 10:00"},
    )
    old.upgrade()
    slots = old.rows(
        "SELECT booking, staff_id, claim::text, lower(during) AS start, upper(during) AS end"
        " FROM booking_slots ORDER BY booking"
    )
    start = datetime(2999, 1, 1, 10, tzinfo=UTC)
    assert slots == [
        {
            "booking": n,
            "staff_id": 7,
            "claim": f"[{n},{n + 1})",
            "start": start,
            "end": start + timedelta(minutes=30),
        }
        for n in (1, 2)
    ]


def test_phones_are_converted_to_e164_by_country(old: Database, caplog: pytest.LogCaptureFixture) -> None:
    old.insert(
        "companies", {"company_id": 1, "phone": "8 (495) 123-45-67"}, {"company_id": 2, "country": "Германия"}
    )
    old.insert(
        "clients",
        {"yclients_id": 1, "phone": "8 (968) 648-44-88"},
        {"yclients_id": 2, "phone": "79686484488"},
        {"yclients_id": 3, "phone": "0151 23456789", "company_id": 2},
        {"yclients_id": 4, "phone": "+79686484489"},
        {"yclients_id": 5, "phone": "call Anna 555"},
        {"yclients_id": 6, "phone": ""},
    )
    old.insert("bookings", {"client_phone": "968 648 44 88"}, {"client_phone": None, "yclients_id": 2})
    with caplog.at_level(logging.WARNING, "alembic.frontdesk"):
        old.upgrade()
    assert old.values("SELECT phone FROM companies ORDER BY company_id") == ["+74951234567", None]
    assert old.values("SELECT phone FROM clients ORDER BY yclients_id") == [
        "+79686484488",
        "+79686484488",
        "+4915123456789",
        "+79686484489",
        "call Anna 555",
        "",
    ]
    assert old.values("SELECT client_phone FROM bookings ORDER BY id") == ["+79686484488", None]
    assert [record.getMessage() for record in caplog.records] == [
        "clients: company 1, id 5: phone cannot be read",
        "clients: company 1, id 6: phone cannot be read",
    ]


def test_clients_get_a_folded_name_for_searches(old: Database) -> None:
    old.insert("clients", {"name": "ЁЛКИНА Мария ﬁ"})
    old.upgrade()
    assert old.value("SELECT search_name FROM clients") == "ёлкина мария fi"


def test_new_rows_get_unused_ids_after_rows_with_explicit_ids(old: Database) -> None:
    old.insert("clients", {"id": 500})
    old.insert("staff", {}, {"yclients_id": 2})
    old.execute("DELETE FROM staff")
    old.upgrade()
    old.execute("INSERT INTO clients (company_id, yclients_id, name) VALUES (1, 2, 'New')")
    old.execute("INSERT INTO staff (company_id, yclients_id, name) VALUES (1, 3, 'New')")
    assert old.values("SELECT id FROM clients ORDER BY 1") == [500, 501]
    assert old.values("SELECT id FROM staff") == [3]


def test_old_unique_indexes_are_dropped_under_any_name(old: Database) -> None:
    old.execute(
        "ALTER TABLE clients DROP CONSTRAINT clients_phone_key;"
        "CREATE UNIQUE INDEX one_phone ON clients (phone);"
        "DROP INDEX services_yclients_id_key; ALTER TABLE services ADD CONSTRAINT own UNIQUE (yclients_id);"
        "DROP INDEX staff_yclients_id_idx; CREATE UNIQUE INDEX staff_only ON staff (yclients_id);"
        "CREATE INDEX more ON bookings (yclients_id);"
        "ALTER TABLE whatsapp_auth DROP CONSTRAINT whatsapp_auth_company_id_key;"
        "CREATE UNIQUE INDEX one_session ON whatsapp_auth (company_id);"
        "ALTER TABLE whatsapp_keys RENAME CONSTRAINT whatsapp_keys_company_id_key_type_key_id_key TO k;"
        "ALTER TABLE companies RENAME CONSTRAINT companies_company_id_key TO one_company;"
        "ALTER TABLE staff RENAME CONSTRAINT staff_pkey TO staff_key"
    )
    old.upgrade()
    old.check()
