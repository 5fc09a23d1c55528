"""`frontdesk db dedupe`: its report, merges while writers write, restore of archived rows."""

import json
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result

from app.adoption import duplicate_groups
from app.cli import main
from app.migrations import runner
from tests.migrations.databases import Database
from tests.processes import WAIT_TIMEOUT_SECONDS


@pytest.fixture
def frontdesk(old: Database, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("DATABASE_URL", old.url)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["db", "dedupe", *arguments])

    return run


def duplicates(old: Database) -> None:
    old.execute("CREATE TABLE photos (member int REFERENCES staff (id))")
    old.insert(
        "staff",
        {"name": "late", "created_at": "2026-03-01", "specialization": "nails"},
        {"name": "early", "created_at": "2026-01-01"},
        {"name": "other", "yclients_id": 2},
    )
    old.insert("dialog_contexts", {"user_id": "79686484488"}, {"user_id": "79686484488", "stage": "name"})
    old.execute("INSERT INTO photos VALUES (1), (1), (3)")


def everything(old: Database) -> dict[str, list[Any]]:
    tables = old.values("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
    return {table: old.values(f"SELECT to_jsonb(t) FROM {table} AS t ORDER BY 1") for table in tables}


def test_a_dry_run_reports_the_effect_of_a_run_and_changes_nothing(old: Database, frontdesk: Any) -> None:
    duplicates(old)
    before = everything(old)
    planned = json.loads(frontdesk("--dry-run", "--json").stdout)
    assert everything(old) == before
    done = json.loads(frontdesk("--json").stdout)
    assert planned["groups"][0] == {
        "table": "staff",
        "key": "yclients_id 1, company_id 1",
        "kept_id": 2,
        "archived": [{"id": 1, "archive_id": None}],
        "filled": ["specialization"],
        "repointed": {"photos.member": 2},
    }
    assert planned["tables"] == done["tables"]
    assert (planned["dry_run"], done["dry_run"], done["left"]) == (True, False, 0)
    for group in done["groups"]:
        for row in group["archived"]:
            assert old.value(
                "SELECT row ->> 'id' FROM archived_rows WHERE id = %s", row["archive_id"]
            ) == str(row["id"])
            row["archive_id"] = None
    assert planned["groups"] == done["groups"]
    assert old.values("SELECT specialization FROM staff ORDER BY id") == ["nails", None]
    assert old.values("SELECT member FROM photos ORDER BY 1") == [2, 2, 3]
    assert frontdesk("--dry-run").stdout == "There are no duplicates.\n"


def test_the_report_contains_ids_and_no_personal_data(old: Database, frontdesk: Any) -> None:
    duplicates(old)
    result = frontdesk("--dry-run")
    assert result.exit_code == 0
    assert (
        "staff: 1 groups; 1 rows would be archived, 1 values would be taken over,"
        " 2 references would be re-pointed\n"
        "  yclients_id 1, company_id 1: keeps 2, archives 1, takes over specialization,"
        " re-points 2 in photos.member\n"
    ) in result.stdout
    assert "79686484488" not in result.stdout + frontdesk("--json").stdout


def test_an_upgrade_after_deduplication_needs_no_option(old: Database, frontdesk: Any) -> None:
    duplicates(old)
    assert frontdesk().exit_code == 0
    old.execute("DROP TABLE photos")
    old.upgrade()
    old.check()
    assert len(old.archived("staff")) == 1


def test_a_large_group_is_merged_in_batches(
    old: Database, frontdesk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicate_groups, "ROWS_PER_TRANSACTION", 3)
    old.execute(
        "INSERT INTO staff (yclients_id, company_id, name, specialization)"
        " SELECT 1, 1, 'n' || n, CASE WHEN n > 5 THEN 's' || n END FROM generate_series(1, 10) AS n"
    )
    result = json.loads(frontdesk("--json").stdout)
    assert [len(group["archived"]) for group in result["groups"]] == [2, 2, 2, 2, 1]
    assert old.rows("SELECT name, specialization FROM staff") == [{"name": "n1", "specialization": "s6"}]


def test_related_columns_are_taken_over_from_one_row(old: Database, frontdesk: Any) -> None:
    old.execute("DROP INDEX services_yclients_id_key")
    old.insert("services", {}, {"category_id": 6}, {"category_id": 5, "category_title": "Hair"})
    frontdesk()
    assert old.rows("SELECT category_id, category_title FROM services") == [
        {"category_id": 6, "category_title": None}
    ]


def test_duplicates_added_during_the_run_are_merged_too(old: Database, frontdesk: Any) -> None:
    stop, failed = threading.Event(), []

    def write() -> None:
        with old.connect() as connection:
            number = 0
            while not stop.is_set():
                number += 1
                try:
                    connection.execute(
                        "INSERT INTO bookings (yclients_id, company_id, datetime) VALUES (%s, 1, now())",
                        [number // 4],
                    )
                    connection.execute(
                        "UPDATE bookings SET comment = 'seen' WHERE yclients_id = %s", [number // 9]
                    )
                except psycopg.Error as error:
                    failed.append(error)
                time.sleep(0.01)  # without a pause, duplicates are added faster than they are merged

    old.execute(
        "INSERT INTO bookings (yclients_id, company_id, datetime)"
        " SELECT n / 2, 2, now() FROM generate_series(1, 100) AS n"
    )
    writer = threading.Thread(target=write)
    writer.start()
    first = json.loads(frontdesk("--json").stdout)
    stop.set()
    writer.join(WAIT_TIMEOUT_SECONDS)
    assert not writer.is_alive()
    rest = json.loads(frontdesk("--json").stdout)
    assert failed == []
    assert first["tables"]["bookings"]["archived"] > 49
    assert rest["left"] == 0
    total = old.value("SELECT (SELECT count(*) FROM bookings) + (SELECT count(*) FROM archived_rows)")
    assert total == old.value("SELECT last_value FROM bookings_id_seq"), (
        "every row is in its table or archived"
    )
    assert old.value("SELECT count(DISTINCT (yclients_id, company_id)) - count(*) FROM bookings") == 0


def test_a_group_that_cannot_be_merged_is_reported_and_the_others_are_merged(
    old: Database, frontdesk: Any
) -> None:
    old.insert("staff", {}, {}, {"yclients_id": 2}, {"yclients_id": 2})
    old.execute("CREATE TABLE desks (member int UNIQUE REFERENCES staff (id))")
    old.execute("INSERT INTO desks VALUES (1), (2)")
    result = frontdesk()
    assert result.exit_code == 1
    assert "staff (yclients_id 1, company_id 1): ids 1, 2: not merged, desks_member_key" in result.stdout
    assert "1 groups are left" in result.stdout
    assert old.values("SELECT id FROM staff ORDER BY id") == [1, 2, 3]


def test_a_run_waits_for_a_locked_row(old: Database, frontdesk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    old.insert("staff", {}, {})
    with old.connect() as holder:
        holder.execute("BEGIN")
        holder.execute("UPDATE staff SET name = 'held' WHERE id = 2")
        with monkeypatch.context() as patch:
            patch.setattr("app.migrations.runner.LOCK_ATTEMPTS", 2)
            result = frontdesk()
            assert result.exit_code == 3
            assert "rows of staff and do not release them" in result.stderr
        threading.Timer(0.7, holder.execute, ["COMMIT"]).start()
        assert frontdesk().exit_code == 0
    assert [entry["row"]["name"] for entry in old.archived("staff")] == ["held"]


def test_a_run_continues_after_a_kill_between_two_groups(
    old: Database, frontdesk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    old.insert("staff", {}, {}, {"yclients_id": 2}, {"yclients_id": 2})
    merge, calls = duplicate_groups.merge, 0

    def merge_and_die(connection: Any, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        merged = merge(connection, *arguments)
        if calls == 3:  # the second group, before its commit
            old.execute(
                "SELECT pg_terminate_backend(%s)", connection.connection.driver_connection.info.backend_pid
            )
        return merged

    with monkeypatch.context() as patch:
        patch.setattr(duplicate_groups, "merge", merge_and_die)
        assert frontdesk().exit_code == 3
    assert old.value("SELECT count(*) FROM staff") == 3
    assert frontdesk().exit_code == 0
    assert old.values("SELECT id FROM staff ORDER BY id") == [1, 3]
    assert len(old.archived("staff")) == 2


def test_a_database_with_another_schema_is_refused(old: Database, frontdesk: Any) -> None:
    old.execute("ALTER TABLE clients DROP COLUMN yclients_id")
    result = frontdesk("--dry-run")
    assert result.exit_code == 3
    assert "Table clients has no yclients_id: `frontdesk db adopt` lists the differences." in result.stderr


# Restore


def test_an_archived_row_is_restored_unchanged(old: Database, frontdesk: Any) -> None:
    duplicates(old)
    before = old.rows("SELECT * FROM staff WHERE id = 1")
    frontdesk()
    tried = frontdesk("--restore", "1", "--dry-run")
    assert (tried.exit_code, tried.stdout) == (0, "1: row 1 of staff would be restored\n")
    assert old.rows("SELECT * FROM staff WHERE id = 1") == []
    result = frontdesk("--restore", "1")
    assert (result.exit_code, result.stdout) == (0, "1: row 1 of staff is restored\n")
    assert old.rows("SELECT * FROM staff WHERE id = 1") == before
    assert old.archived("staff") == []


def test_a_conflicting_row_is_reported(old: Database, frontdesk: Any) -> None:
    old.execute("DROP INDEX clients_yclients_id_key")
    old.insert("clients", {"phone": ""}, {"phone": "+79686484488"})
    frontdesk()
    result = frontdesk("--restore", "1")
    assert result.exit_code == 1
    assert result.stdout == (
        "1: row 2 of clients cannot be restored: row 1 of clients has the same phone (clients_phone_key)\n"
    )
    assert len(old.archived("clients")) == 1


def test_a_row_restored_after_the_upgrade_gets_the_new_columns(old: Database, frontdesk: Any) -> None:
    old.execute("DROP INDEX clients_yclients_id_key")
    old.insert("companies", {"company_id": 1})
    old.insert(
        "clients", {}, {"phone": "8 (968) 648-44-99", "name": "ИРА", "last_visit_date": "2026-01-02 10:00"}
    )
    old.insert("staff", {}, {"fired": True})
    old.insert("staff_schedules", {}, {"slots": ["9:00-18:00"]})
    old.insert(
        "bookings",
        {},
        {"service_ids": [7, 8], "datetime": "2026-12-01 10:00", "client_phone": "+79686484488"},
    )
    old.insert("services", {}, {"yclients_id": 2})
    old.insert("dialog_contexts", {}, {"last_activity": "2026-01-02 10:00"})
    old.insert("whatsapp_auth", {"company_id": "1"}, {"company_id": "01", "creds": {"me": "é"}})
    frontdesk()  # at the baseline: before the names of columns are aligned
    old.upgrade()
    archived = old.rows("SELECT id, table_name FROM archived_rows WHERE reason = 'duplicate' ORDER BY id")
    assert len(archived) == 6
    for entry in archived:
        refused = frontdesk("--restore", str(entry["id"]))
        assert refused.exit_code == 1
        assert f"row 1 of {entry['table_name']} has the same" in refused.stdout
    old.execute(
        "DELETE FROM booking_slots; DELETE FROM booking_services; DELETE FROM bookings; DELETE FROM clients;"
        "DELETE FROM staff; DELETE FROM staff_schedules; DELETE FROM dialog_contexts;"
        "DELETE FROM whatsapp_auth"
    )
    arguments = [part for entry in archived for part in ("--restore", str(entry["id"]))]
    result = frontdesk(*arguments)
    assert (result.exit_code, old.values("SELECT row FROM archived_rows WHERE reason = 'duplicate'")) == (
        0,
        [],
    )
    (client,) = old.rows("SELECT phone, search_name, last_visit_at FROM clients")
    assert client == {
        "phone": "+79686484499",
        "search_name": "ира",
        "last_visit_at": datetime(2026, 1, 2, 10, tzinfo=UTC),
    }
    assert old.values("SELECT is_active FROM staff") == [False]
    assert old.values("SELECT intervals FROM staff_schedules") == [[{"from": "09:00", "to": "18:00"}]]
    (booking,) = old.rows("SELECT starts_at, ends_at - starts_at AS lasts FROM bookings")
    assert booking == {"starts_at": datetime(2026, 12, 1, 10, tzinfo=UTC), "lasts": timedelta(hours=1)}
    assert old.values("SELECT service_id FROM booking_services ORDER BY position") == [7, 8]
    assert old.values("SELECT creds FROM whatsapp_auth") == ['{"me":"é"}'.encode()]
    old.check()


@pytest.mark.parametrize("number", ["7", "1"])
def test_an_unknown_archive_id_or_another_reason_is_refused(
    old: Database, frontdesk: Any, number: str
) -> None:
    old.insert("bookings", {"status": "confirmed", "datetime": "infinity"})
    old.upgrade()
    result = frontdesk("--restore", number)
    assert result.exit_code == 1
    expected = {"7": "no row cannot be restored: archived_rows has no such id", "1": "it is not a duplicate:"}
    assert expected[number] in result.stdout


def test_a_run_during_a_migration_is_refused_but_not_a_dry_run(old: Database, frontdesk: Any) -> None:
    old.insert("staff", {}, {})
    with runner.migration_engine(old.url) as engine, runner.migration_lock(engine):
        assert frontdesk().exit_code == 3
        assert frontdesk("--dry-run").exit_code == 0
