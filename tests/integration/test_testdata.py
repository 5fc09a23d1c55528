"""`frontdesk testdata` deletes only rows with both markers, and at most a hundred rows per table."""

import json
import threading
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from app import Settings
from app.cli import main
from app.maintenance import test_data
from tests.processes import WAIT_TIMEOUT_SECONDS, wait_until

TESTERS = ("+79990000001", "+79990000002")
COMPANIES = (1, 2)


@pytest.fixture
def database(database_url: str) -> Any:
    with psycopg.connect(database_url, autocommit=True) as connection:
        for company in COMPANIES:
            connection.execute("INSERT INTO companies (company_id, title) VALUES (%s, 'Salon')", [company])
        yield connection


@pytest.fixture
def frontdesk(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("TEST_PHONES", "8 (999) 000-00-01, +7 999 0000002")

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["testdata", *arguments])

    return run


def add_client(
    database: Any,
    yclients_id: int,
    name: str = "[TEST] Anna",
    phone: str | None = TESTERS[0],
    company: int = 1,
) -> None:
    database.execute(
        "INSERT INTO clients (company_id, yclients_id, name, phone) VALUES (%s, %s, %s, %s)",
        [company, yclients_id, name, phone],
    )


def add_booking(
    database: Any,
    record: int,
    name: str | None = "[TEST] Anna",
    phone: str | None = TESTERS[0],
    company: int = 1,
    client: int | None = None,
    services: int = 1,
) -> None:
    (booking,) = database.execute(
        "INSERT INTO bookings (company_id, yclients_record_id, client_id, client_name, client_phone,"
        " staff_id, starts_at, ends_at)"
        " VALUES (%s, %s, %s, %s, %s, 7, now(), now() + interval '1 hour') RETURNING id",
        [company, record, client, name, phone],
    ).fetchone()
    database.execute(
        "INSERT INTO booking_services (company_id, booking, position, service_id)"
        " SELECT %s, %s, n, n FROM generate_series(1, %s) AS n",
        [company, booking, services],
    )
    database.execute(
        "INSERT INTO booking_slots (company_id, booking, staff_id, claim, during)"
        " SELECT company_id, id, staff_id, int8range(id, id, '[]'), tstzrange(starts_at, ends_at)"
        " FROM bookings WHERE company_id = %s AND id = %s",
        [company, booking],
    )


def rows(database: Any, table: str) -> list[dict[str, Any]]:
    return [row for (row,) in database.execute(f"SELECT to_jsonb(t) FROM {table} AS t ORDER BY 1")]


def test_without_yes_the_command_prints_its_plan_and_deletes_nothing(database: Any, frontdesk: Any) -> None:
    add_client(database, 1)
    add_booking(database, 1, client=1, services=2)
    planned = frontdesk("clean", "--json")
    assert frontdesk("clean", "--dry-run", "--json").stdout == planned.stdout
    assert json.loads(planned.stdout) == {
        "dry_run": True,
        "limit": 100,
        "deleted": {"booking_services": 2, "booking_slots": 1, "bookings": 1, "clients": 1},
        "left": {"clients": 0, "bookings": 0},
    }
    assert len(rows(database, "clients")) == len(rows(database, "bookings")) == 1
    done = json.loads(frontdesk("clean", "--yes", "--json").stdout)
    assert done == json.loads(planned.stdout) | {"dry_run": False}
    for table in done["deleted"]:
        assert rows(database, table) == []


def test_rows_with_one_marker_are_counted_but_not_deleted(database: Any, frontdesk: Any) -> None:
    add_client(database, 1, phone="+79686484488")
    add_client(database, 2, phone=None)
    add_client(database, 3, name="Anna [TEST]")
    add_client(database, 4)
    add_booking(database, 1, name=None)
    assert json.loads(frontdesk("stats", "--json").stdout)["tables"] == {
        "clients": {"marked": 1, "name_only": 2, "phone_only": 1},
        "bookings": {"marked": 0, "name_only": 0, "phone_only": 1},
    }
    assert (
        "clients: 1 rows of test data; 2 rows with only the name marked, 1 with only the phone"
        in frontdesk("stats").stdout
    )
    frontdesk("clean", "--yes")
    assert [row["yclients_id"] for row in rows(database, "clients")] == [1, 2, 3]
    assert len(rows(database, "bookings")) == 1


def test_at_most_a_hundred_rows_per_table_are_deleted_by_default(database: Any, frontdesk: Any) -> None:
    add_client(database, 1)
    for number in range(1, 61):
        add_booking(database, number, client=1, services=2)
    assert json.loads(frontdesk("clean", "--yes", "--json").stdout) == {
        "dry_run": False,
        "limit": 100,
        "deleted": {"booking_services": 100, "booking_slots": 50, "bookings": 50, "clients": 0},
        "left": {"clients": 1, "bookings": 10},
    }
    rest = frontdesk("clean", "--yes", "--limit", "3")
    assert "bookings: 1 deleted" in rest.stdout
    assert "bookings: 9 left" in rest.stdout
    frontdesk("clean", "--yes", "--limit", "10000")
    assert rows(database, "clients") == rows(database, "bookings") == []


def test_a_client_with_other_bookings_is_kept(database: Any, frontdesk: Any) -> None:
    add_client(database, 1)
    add_booking(database, 1, client=1)
    add_booking(database, 2, name="Anna", client=1)
    for arguments in (["clean"], ["clean", "--yes"]):
        result = frontdesk(*arguments)
        assert "clients: 0 " in result.stdout
        assert "clients: 1 left: above the limit, or with bookings that are not test data" in result.stdout
    assert [row["client_name"] for row in rows(database, "bookings")] == ["Anna"]
    assert len(rows(database, "clients")) == 1


def test_the_company_option_limits_the_deletion(database: Any, frontdesk: Any) -> None:
    add_client(database, 1)
    add_client(database, 1, company=2)
    frontdesk("clean", "--yes", "--company", "2")
    assert [row["company_id"] for row in rows(database, "clients")] == [1]
    unknown = frontdesk("clean", "--yes", "--company", "3")
    assert unknown.exit_code == 3
    assert unknown.stderr.startswith("Error: ")


def test_a_row_that_loses_its_marker_while_it_is_locked_is_kept(
    database: Any, database_url: str, frontdesk: Any
) -> None:
    add_client(database, 1)
    with psycopg.connect(database_url) as other:
        other.execute("UPDATE clients SET name = 'Anna'")
        results: list[Result] = []
        cleaning = threading.Thread(target=lambda: results.append(frontdesk("clean", "--yes")))
        cleaning.start()
        waits = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        wait_until(lambda: database.execute(waits).fetchone() is not None)
        other.commit()
        cleaning.join(WAIT_TIMEOUT_SECONDS)
    assert results[0].exit_code == 0
    assert [row["name"] for row in rows(database, "clients")] == ["Anna"]


@pytest.mark.parametrize("command", ["stats", "clean"])
def test_the_commands_require_test_phones(
    frontdesk: Any, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TEST_PHONES")
    result = frontdesk(command)
    assert result.exit_code == 2
    assert "TEST_PHONES is not set" in result.stderr


def test_an_invalid_test_phone_is_reported_by_its_position(
    frontdesk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_PHONES", "+79990000001,12345")
    result = frontdesk("stats")
    assert result.exit_code == 2
    assert "TEST_PHONES: phone number 2 is invalid" in result.stderr
    assert "12345" not in result.stderr


def test_yes_and_dry_run_together_are_refused(frontdesk: Any) -> None:
    assert frontdesk("clean", "--yes", "--dry-run").exit_code == 2


NAMES = st.sampled_from(
    [
        "[TEST] Anna",
        "[TEST",
        "[TESTER] x",
        "[test] x",
        " [TEST] x",
        "TEST",
        "[TES",
        "Anna [TEST",
        "[ТEST] x",
        "%",
        "",
    ]
)
PHONES = st.one_of(
    st.none(),
    st.sampled_from(
        [*TESTERS, "+7999000000", "+799900000011", "89990000001", " +79990000001", "+79686484488", ""]
    ),
)
CLIENTS = st.lists(st.tuples(NAMES, PHONES, st.sampled_from(COMPANIES)), max_size=8)
BOOKINGS = st.lists(
    st.tuples(
        st.one_of(st.none(), NAMES),
        PHONES,
        st.sampled_from(COMPANIES),
        st.one_of(st.none(), st.integers(1, 8)),
        st.integers(0, 3),
    ),
    max_size=8,
)


@settings(max_examples=30)
@given(
    clients=CLIENTS,
    bookings=BOOKINGS,
    company=st.one_of(st.none(), st.sampled_from(COMPANIES)),
    limit=st.integers(1, 6),
    batch_rows=st.integers(1, 3),
)
def test_no_row_without_both_markers_is_ever_deleted(
    database: Any,
    database_url: str,
    clients: list[Any],
    bookings: list[Any],
    company: int | None,
    limit: int,
    batch_rows: int,
) -> None:
    database.execute("TRUNCATE clients, bookings, booking_services, booking_slots")
    for number, (name, phone, of_company) in enumerate(clients, 1):
        add_client(database, number, name, phone, of_company)
    for number, (client_name, phone, of_company, client, services) in enumerate(bookings, 1):
        add_booking(database, number, client_name, phone, of_company, client, services)
    tables = ("clients", "bookings", "booking_services", "booking_slots")
    before = {table: rows(database, table) for table in tables}

    configured = Settings(database_url=database_url, test_phones=TESTERS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(test_data, "ROWS_PER_TRANSACTION", batch_rows)
        planned = test_data.clean(configured, company, limit)
        assert {table: rows(database, table) for table in tables} == before
        done = test_data.clean(configured, company, limit, dry_run=False)

    after = {table: rows(database, table) for table in tables}
    gone = {table: [row for row in before[table] if row not in after[table]] for table in tables}
    assert (planned.deleted, planned.remaining) == (done.deleted, done.remaining)
    assert {table: len(gone[table]) for table in tables} == done.deleted
    assert all(len(some) <= limit for some in gone.values())
    for table, name, phone in (("clients", "name", "phone"), ("bookings", "client_name", "client_phone")):
        for row in gone[table]:
            assert row[name].startswith("[TEST")
            assert row[phone] in TESTERS
            assert company in (None, row["company_id"])
    parts = {(row["company_id"], row["id"]) for row in gone["bookings"]}
    for table in ("booking_services", "booking_slots"):
        assert {(row["company_id"], row["booking"]) for row in gone[table]} <= parts
    named = {(row["company_id"], row["client_id"]) for row in after["bookings"]}
    assert not named & {(row["company_id"], row["yclients_id"]) for row in gone["clients"]}
