"""Downgrades restore what the old schema can hold and refuse the rest; upgrades work again afterwards."""

import pytest

from app.migrations.runner import MigrationRefused
from tests.migrations.databases import OLD_ROWS, Database, MakeDatabase

# Columns whose values stay in the notation of the new schema after a downgrade.
REWRITTEN = {"companies": ["country", "phone"], "clients": ["phone"], "bookings": ["client_phone"]}


def rows(database: Database) -> dict[str, list[object]]:
    statement = "SELECT to_jsonb(t) - %s::text[] AS row FROM {} AS t ORDER BY id"
    return {table: database.values(statement.format(table), REWRITTEN.get(table, [])) for table in OLD_ROWS}


def full_installation(database: Database) -> None:
    """Insert one or two rows per table; every column has a value in at least one row."""
    time = "2026-01-01 10:00"
    database.insert(
        "companies", {"timezone": "Asia/Tokyo", "country": "Россия", "phone": "84951234567", "address": "1"}
    )
    database.insert(
        "clients",
        {"email": "a@b.org", "visit_count": 3, "total_spent": "99999999.99", "last_visit_date": time},
    )
    category = {"category_id": 5, "category_title": "Hair"}
    database.insert("services", {**category, "price_min": 1, "price_max": 2, "duration": 60, "active": False})
    database.insert("staff", {"rating": "4.50", "specialization": "S", "fired": True}, {"yclients_id": 2})
    database.insert("staff_schedules", {"slots": [{"from": "10:00", "to": "14:30"}], "is_working": False})
    database.insert(
        "bookings",
        {"service_ids": [3, 1], "duration": 5400, "staff_id": 1, "status": "cancelled", "comment": "C"},
        {"yclients_id": 2, "duration": 60, "client_phone": "8 968 648 44 88", "client_name": "A", "price": 5},
    )
    database.insert("dialog_contexts", {"stage": "S", "context": {"step": [1, None]}, "last_activity": time})
    database.insert("whatsapp_auth", {"creds": {"key": {"type": "Buffer", "data": [1, 2]}}})
    database.insert("whatsapp_keys", {"value": {"0": 1}, "expires_at": time})


@pytest.fixture(scope="module")
def full_at_head(make_database: MakeDatabase, baseline_template: Database) -> Database:
    database = make_database(baseline_template)
    full_installation(database)
    database.upgrade()
    return database


def test_rows_survive_an_upgrade_a_downgrade_and_a_second_upgrade(old: Database) -> None:
    full_installation(old)
    before = rows(old)
    old.upgrade()
    old.downgrade("baseline")
    assert rows(old) == before
    assert old.value("SELECT client_phone FROM bookings WHERE id = 2") == "+79686484488"
    assert old.insert("staff", {"yclients_id": 3}) == [3]
    old.upgrade()
    old.check()
    assert old.values("SELECT service_id FROM booking_services ORDER BY position") == [3, 1]
    assert old.values("SELECT is_active FROM staff ORDER BY id") == [False, True, True]


@pytest.mark.parametrize(
    ("statement", "line"),
    [
        ("UPDATE clients SET phone = NULL", "clients: company 1, id 1: has no phone"),
        (
            "UPDATE clients SET yclients_id = NULL, source = 'assistant'",
            "clients: company 1, id 1: has no YClients id yet",
        ),
        (
            "INSERT INTO clients (company_id, yclients_id, name, phone) SELECT 1, 9, 'A', phone FROM clients",
            "clients: company 1, id 2: shares its phone with another row",
        ),
        (
            "INSERT INTO companies (company_id, title) VALUES (2, 'B');"
            "INSERT INTO services (company_id, yclients_id, title) VALUES (2, 1, 'A')",
            "services: company 2, id 2: shares its yclients_id with another row",
        ),
        ("UPDATE clients SET yclients_id = 2147483648", "clients: company 1, id 1: has an id beyond INTEGER"),
        ("UPDATE clients SET surname = 'S'", "clients: company 1, id 1: has a surname"),
        (
            "UPDATE clients SET name = repeat('x', 256)",
            "clients: company 1, id 1: name does not fit varchar(255)",
        ),
        (
            "UPDATE clients SET total_spent = 100000000",
            "clients: company 1, id 1: total_spent does not fit numeric(10,2)",
        ),
        (
            "UPDATE staff SET deleted_at = now() WHERE id = 1",
            "staff: company 1, id 1: is marked as deleted and would count as existing",
        ),
        (
            "UPDATE bookings SET yclients_record_id = NULL, source = 'assistant' WHERE id = 1",
            "bookings: company 1, id 1: has no YClients id yet",
        ),
        ("UPDATE bookings SET pending_since = now()", "bookings: company 1, id 1: has a pending_since"),
        ("UPDATE bookings SET attendance = 2", "bookings: company 1, id 1: has its attendance set"),
        (
            "UPDATE bookings SET ends_at = ends_at + interval '0.5 s'",
            "bookings: company 1, id 1: does not last a whole number of seconds",
        ),
        (
            "UPDATE booking_services SET cost = 5 WHERE position = 1",
            "booking_services: company 1, id 2: has a title, amount, cost or discount",
        ),
        (
            "INSERT INTO service_staff (company_id, service_id, staff_id) VALUES (1, 1, 1)",
            "service_staff: company 1, id 1: links a service to a staff member",
        ),
        (
            "UPDATE service_categories SET weight = 1",
            "service_categories: company 1, id 1: has a weight, a long title or no service, or is deleted",
        ),
        ("UPDATE companies SET is_active = false", "companies: company 1, id 1: is not active"),
        (
            "UPDATE whatsapp_keys SET value = 'gAAAAA'",
            "whatsapp_keys: company 1, id 1: value is not valid JSONB",
        ),
        (
            "UPDATE whatsapp_auth SET creds = convert_to('\"\\u0000\"', 'UTF8')",
            "whatsapp_auth: company 1, id 1: creds is not valid JSONB",
        ),
        (
            "INSERT INTO archived_rows (table_name, row, reason) VALUES ('clients', '{}', 'test')",
            "archived_rows: id 1: archived; export them, then repeat the command with -x archive=drop",
        ),
    ],
)
def test_a_row_that_the_old_schema_cannot_hold_is_refused(
    make_database: MakeDatabase, full_at_head: Database, statement: str, line: str
) -> None:
    database = make_database(full_at_head)
    database.execute(statement)
    with pytest.raises(MigrationRefused) as refusal:
        database.downgrade("baseline")
    assert line in refusal.value.report


def test_an_upgrade_after_a_refused_downgrade_succeeds(
    make_database: MakeDatabase, full_at_head: Database
) -> None:
    database = make_database(full_at_head)
    database.execute("UPDATE clients SET yclients_id = 2147483648")
    with pytest.raises(MigrationRefused):
        database.downgrade("baseline")
    database.upgrade()
    database.check()


def test_merged_duplicates_are_dropped_only_on_request(old: Database) -> None:
    old.insert("staff", {"name": "kept"}, {"name": "merged"})
    old.upgrade(dedupe="keep-earliest")
    with pytest.raises(MigrationRefused, match="archive=drop"):
        old.downgrade("baseline")
    old.downgrade("baseline", archive="drop")
    assert old.values("SELECT name FROM staff") == ["kept"]


def test_a_downgrade_below_the_baseline_is_refused_while_there_are_rows(old: Database) -> None:
    old.insert("staff", {})
    with pytest.raises(MigrationRefused, match="staff"):
        old.downgrade("base")
    assert old.values("SELECT count(*) FROM staff") == [1]
