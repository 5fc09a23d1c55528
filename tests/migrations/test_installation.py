"""Upgrade of an old installation with 10,000 rows per table: every row is kept, merged or archived."""

import base64
import json
import random
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest

from app.migrations.runner import MigrationRefused
from tests.migrations.databases import Database, MakeDatabase

# With --dist loadgroup, one worker runs all tests, so that the installation is built and upgraded once.
pytestmark = pytest.mark.xdist_group("installation")

ROWS = 10_000
SALONS = (962302, 15)
PHONES = (
    "+7968{:07d}",
    "8 (968) {:07d}",
    "7968{:07d}",
    "968 {:07d}",
    "8968{:07d}",
    "+49 151 2{:07d}",
    "tel {:07d}",
    "{:05d}",
)
BUFFERS: tuple[Any, ...] = (
    {"type": "Buffer", "data": base64.b64encode(bytes(range(32))).decode()},
    {"type": "Buffer", "data": list(range(32))},
    {str(number): number for number in range(32)},
    {"type": "Buffer", "data": ""},
    {"type": "Buffer", "data": []},
)
SERVICES: tuple[Any, ...] = ([1, 2], ["3", 4], [{"id": 5}], [], [6, "x"], {"id": 7}, None)
SLOTS: tuple[Any, ...] = (
    [{"from": "10:00", "to": "14:30"}],
    ["9:00-13:00", "14:00-18:00"],
    [],
    [{"from": "18:00", "to": "10:00"}],
    [5],
)
TABLES = (
    "companies",
    "clients",
    "services",
    "staff",
    "staff_schedules",
    "bookings",
    "dialog_contexts",
    "whatsapp_auth",
    "whatsapp_keys",
)


def copy(database: Database, table: str, rows: list[dict[str, Any]]) -> None:
    columns = list(rows[0])
    with (
        database.connect() as connection,
        connection.cursor() as cursor,
        cursor.copy(f"COPY {table} ({', '.join(columns)}) FROM STDIN") as stream,
    ):
        for row in rows:
            stream.write_row(
                [json.dumps(value) if isinstance(value, dict | list) else value for value in row.values()]
            )


def fill(database: Database) -> None:
    """Insert the rows. Every fiftieth is a duplicate of an earlier row; the two salons share ids."""
    chance = random.Random(7)
    year = datetime.now(UTC).year
    numbers = [number if number % 50 else number - 1 for number in range(1, ROWS + 1)]
    salons = [SALONS[chance.random() < 0.1] for _ in numbers]
    rows = list(zip(range(1, ROWS + 1), numbers, salons, strict=True))
    # Some installations lack these unique indexes; without them, all kinds of duplicates can occur.
    database.execute("DROP INDEX clients_yclients_id_key; DROP INDEX services_yclients_id_key")
    copy(
        database,
        "companies",
        [{"company_id": 962302, "title": "Salon", "timezone": None, "country": "Россия"}]
        + [
            {"company_id": 100_000 + n, "title": f"S{n}", "timezone": "Asia/Tokyo", "country": "KZ"}
            for n in range(ROWS - 1)
        ],
    )
    copy(
        database,
        "clients",
        [
            {
                "yclients_id": y,
                "company_id": c,
                "phone": PHONES[n % len(PHONES)].format(n),
                "name": f"Клиент {n}",
                "email": None if n % 3 else f"c{n}@example.org",
                "total_spent": n,
                "last_visit_date": "2026-11-01 10:00:00",
            }
            for n, y, c in rows
        ],
    )
    copy(
        database,
        "services",
        [
            {
                "yclients_id": y,
                "company_id": c,
                "title": f"Услуга {n}",
                "category_id": None if n % 7 == 0 else n % 50,
                "category_title": None if n % 5 == 0 else f"Категория {n % 50}" + "!" * (n % 401 == 0),
                "price_min": "1300.50",
                "duration": 3600,
                "active": n % 2 == 0,
            }
            for n, y, c in rows
        ],
    )
    copy(
        database,
        "staff",
        [
            {"yclients_id": y, "company_id": c, "name": f"Мастер {n}", "rating": "4.5", "fired": n % 3 == 0}
            for n, y, c in rows
        ],
    )
    copy(
        database,
        "staff_schedules",
        [
            {
                "staff_id": y,
                "company_id": c,
                "date": f"2026-12-{1 + y % 28:02d}",
                "is_working": n % 4 != 0,
                "slots": SLOTS[n % len(SLOTS)],
            }
            for n, y, c in rows
        ],
    )
    copy(
        database,
        "bookings",
        [
            {
                "yclients_id": y,
                "company_id": c,
                "client_phone": None if n % 9 == 0 else PHONES[n % len(PHONES)].format(n),
                "staff_id": None if n % 11 == 0 else n % 40,
                "service_ids": "null" if (services := SERVICES[n % len(SERVICES)]) is None else services,
                "datetime": f"{year + (n % 20 - 10 or 10)}-05-01 10:00:00",  # half are past, half to come
                "duration": (None, 0, -60, 1800, 5400)[n % 5],
                "status": ("active", "cancelled", "confirmed", "active", "canceled")[n % 5],
            }
            for n, y, c in rows
        ],
    )
    copy(
        database,
        "dialog_contexts",
        [
            {"user_id": f"7968{y:07d}", "company_id": c, "context": {"n": n}, "last_activity": None}
            for n, y, c in rows
        ],
    )
    notations = (" {} ", "00{}", "0{}", "salon {}", "-{}")
    copy(
        database,
        "whatsapp_auth",
        [
            {
                "company_id": (notations[n // 50 % 5] if n % 50 == 0 else "{}").format(200_000 + y),
                "creds": {"k": BUFFERS[n % 5]},
            }
            for n, y, _ in rows
        ],
    )
    copy(
        database,
        "whatsapp_keys",
        [
            {
                "company_id": f"salon {n}" if n % 97 == 0 else ("{}", "0{}")[n % 50 == 0].format(c),
                "key_type": "session",
                "key_id": str(y),
                "value": json.dumps("bare") if n % 13 == 0 else {"b": BUFFERS[n % 5], "n": n},
            }
            for n, y, c in rows
        ],
    )
    database.execute("UPDATE clients SET created_at = created_at - make_interval(secs => id)")


@pytest.fixture(scope="module")
def installation(make_database: MakeDatabase, baseline_template: Database) -> Database:
    database = make_database(baseline_template)
    fill(database)
    return database


@pytest.fixture(scope="module")
def before(installation: Database) -> dict[str, dict[int, dict[str, Any]]]:
    """The rows of each table by id, before the upgrade."""
    return snapshot(installation)


@pytest.fixture(scope="module")
def carried(installation: Database, before: Any) -> Database:
    installation.upgrade(dedupe="keep-earliest")
    return installation


def snapshot(database: Database) -> dict[str, dict[int, dict[str, Any]]]:
    return {
        table: {
            row["id"]: row["r"] for row in database.rows(f"SELECT id, to_jsonb(t) AS r FROM {table} AS t")
        }
        for table in TABLES
    }


def test_duplicates_are_refused_with_a_line_per_group_before_the_first_change(
    make_database: MakeDatabase, installation: Database, before: Any
) -> None:
    untouched = make_database(installation) if installation.revision == "baseline" else installation
    with pytest.raises(MigrationRefused) as refusal:
        untouched.upgrade()
    assert {line.split()[0] for line in refusal.value.report} == set(TABLES) - {"companies"}
    assert len(refusal.value.report) == len(set(refusal.value.report)) > 500
    assert "79680000009" not in str(refusal.value)
    assert untouched.revision == "baseline"
    assert snapshot(untouched) == before


def test_every_row_is_kept_merged_or_archived(carried: Database, before: Any) -> None:
    carried.check()
    for table in TABLES:
        live = set(carried.values(f"SELECT id FROM {table}"))
        removed = [entry for entry in carried.archived(table) if entry["row"]["id"] not in live]
        removed_ids = [entry["row"]["id"] for entry in removed]
        assert len(removed_ids) == len(set(removed_ids)), table
        assert set(before[table]) <= live | set(removed_ids), table
        for entry in removed:
            old = before[table][entry["row"]["id"]]
            # An archived row may differ only in the columns that the first migration renames.
            assert {key: value for key, value in entry["row"].items() if key in old} == {
                key: value for key, value in old.items() if key in entry["row"]
            }
            assert entry["kept_id"] in live or "number" in entry["reason"]
        reasons = Counter(entry["reason"] for entry in removed)
        assert reasons["duplicate"] > (90 if table != "companies" else -1), table


def test_kept_rows_keep_their_values(carried: Database, before: Any) -> None:
    for row in carried.rows("SELECT *, to_jsonb(c) AS j FROM clients AS c"):
        old = before["clients"][row["id"]]
        assert (row["name"], row["yclients_id"], row["company_id"], row["total_spent"]) == (
            old["name"],
            old["yclients_id"],
            old["company_id"],
            old["total_spent"],
        )
        assert row["phone"] == old["phone"] or row["phone"].startswith("+")
        assert row["search_name"] == old["name"].casefold()
        assert row["last_visit_at"] == datetime(2026, 11, 1, 10, tzinfo=UTC)
    for row in carried.rows("SELECT * FROM staff"):
        assert row["is_active"] is not before["staff"][row["id"]]["fired"]
    for row in carried.rows("SELECT * FROM bookings"):
        old = before["bookings"][row["id"]]
        assert row["starts_at"] == datetime.fromisoformat(old["datetime"]).replace(tzinfo=UTC)
        seconds = old["duration"] if (old["duration"] or 0) > 0 else 3600
        assert (row["ends_at"] - row["starts_at"]).total_seconds() == seconds
        assert row["status"] == ("cancelled" if old["status"].startswith("cancel") else "active")


def test_services_of_bookings_become_rows_or_are_archived(carried: Database, before: Any) -> None:
    booked: dict[int, list[int]] = {}
    for row in carried.rows("SELECT booking, service_id FROM booking_services ORDER BY booking, position"):
        booked.setdefault(row["booking"], []).append(row["service_id"])
    expected = {"[1, 2]": [1, 2], "['3', 4]": [3, 4], "[{'id': 5}]": [5], "[6, 'x']": [6], "{'id': 7}": [7]}
    lossy = {e["row"]["id"] for e in carried.archived("bookings") if "service_ids" in e["reason"]}
    merged = {entry["kept_id"] for entry in carried.archived("bookings") if entry["reason"] == "duplicate"}
    for number in set(carried.values("SELECT id FROM bookings")) - merged:
        old = str(before["bookings"][number]["service_ids"])
        assert booked.get(number, []) == expected.get(old, [])
        assert (number in lossy) == (old == "[6, 'x']")


def test_active_future_bookings_with_staff_have_slots(carried: Database) -> None:
    is_future = "status = 'active' AND staff_id IS NOT NULL AND ends_at > now()"
    held = carried.values("SELECT booking FROM booking_slots ORDER BY 1")
    assert held == carried.values(f"SELECT id FROM bookings WHERE {is_future} ORDER BY 1") != []


def test_session_values_are_unchanged(carried: Database, before: Any) -> None:
    for table, column in (("whatsapp_auth", "creds"), ("whatsapp_keys", "value")):
        for row in carried.rows(f"SELECT id, {column} AS value FROM {table}"):
            old = before[table][row["id"]][column]
            assert json.loads(row["value"]) == old
            assert row["value"] == json.dumps(old, separators=(",", ":"), ensure_ascii=False).encode()


def test_sequences_continue_after_the_highest_id(carried: Database, before: Any) -> None:
    for table in TABLES:
        assert carried.value(f"SELECT nextval(pg_get_serial_sequence('{table}', 'id'))") > max(before[table])
