"""Runs of the migrations: concurrent deploys, locks, kills, one-line error messages."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from alembic.util import CommandError
from sqlalchemy import Engine, event

from app.config import PROJECT_ROOT
from app.migrations import operations, runner
from app.migrations.runner import MigrationRefused, SchemaState
from tests.migrations.databases import Database, MakeDatabase
from tests.migrations.test_schema import catalog
from tests.processes import WAIT_TIMEOUT_SECONDS, wait_until
from tests.stopwatch import Stopwatch


def alembic(url: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=PROJECT_ROOT,
        env={**os.environ, "DATABASE_URL": url, "ENVIRONMENT": "test"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, errors = process.communicate(timeout=WAIT_TIMEOUT_SECONDS)
    return process.returncode, output + errors


@contextmanager
def before_each_statement(hook: Callable[[int, str, Any], None]) -> Iterator[None]:
    """Call the hook with number, text and driver connection of each statement of the migrations."""
    count = 0

    def listener(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        nonlocal count
        count += 1
        hook(count, statement, cursor.connection)

    event.listen(Engine, "before_cursor_execute", listener)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", listener)


def small_installation(database: Database) -> None:
    """Insert a few rows of every kind, including duplicates."""
    database.insert("companies", {"company_id": 1})
    for number in range(1, 7):
        company = 1 + number % 2
        database.insert(
            "clients", {"yclients_id": number, "company_id": company, "phone": f"896864844{number:02d}"}
        )
        database.insert(
            "services", {"yclients_id": number, "category_id": 1, "category_title": f"C{number % 2}"}
        )
        database.insert("staff", {"yclients_id": number // 2, "company_id": 1, "fired": number % 2 == 0})
        database.insert("staff_schedules", {"staff_id": number // 2, "slots": [f"1{number}:00-18:00", 5]})
        database.insert(
            "bookings",
            {
                "yclients_id": number // 2,
                "staff_id": 1,
                "service_ids": [number, "x"],
                "datetime": "2999-01-01 10:00",
                "status": "confirmed",
            },
        )
        database.insert("dialog_contexts", {"user_id": str(number // 2), "context": {"n": number}})
        database.insert("whatsapp_auth", {"company_id": "0" * number + "1", "creds": {"n": number}})
        database.insert("whatsapp_keys", {"company_id": "0" * number + "1", "value": {"a": [number]}})
    database.insert("whatsapp_keys", {"company_id": "none"})


def content(database: Database) -> dict[str, list[Any]]:
    """Return all rows by table, without values that differ between runs: times, and ids with gaps."""
    new = ("archived_rows", "booking_services", "booking_slots", "service_categories")
    return {
        table: database.values(
            "SELECT to_jsonb(t) - ARRAY['created_at', 'updated_at', 'archived_at']"
            + (" - 'id'" if table in new else "")
            + (" #- '{row,created_at}' #- '{row,updated_at}'" if table == "archived_rows" else "")
            + f" AS row FROM {table} AS t ORDER BY 1"
        )
        for table in database.values(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
        )
    }


def test_concurrent_deploys_all_succeed(old: Database) -> None:
    small_installation(old)
    deploys = [alembic(old.url, "-x", "dedupe=keep-earliest", "upgrade", "head") for _ in range(3)]
    for code, output in map(finished, deploys):
        assert code == 0, output
    assert old.state is SchemaState.AT_HEAD
    old.check()


def test_a_deploy_waits_for_another_without_holding_a_snapshot(fresh: Database) -> None:
    with runner.migration_engine(fresh.url) as engine, runner.migration_lock(engine):
        waiting = threading.Thread(target=fresh.upgrade)
        waiting.start()
        sessions = (
            "SELECT state, backend_xmin FROM pg_stat_activity WHERE application_name = 'frontdesk-migrations'"
            " AND datname = current_database()"
        )
        wait_until(lambda: len(fresh.rows(sessions)) >= 2)
        time.sleep(0.5)
        assert waiting.is_alive()
        # The waiting session is busy only while it polls the lock.
        idle = {"state": "idle", "backend_xmin": None}
        wait_until(lambda: all(session == idle for session in fresh.rows(sessions)))
        assert fresh.revision is None
    waiting.join(WAIT_TIMEOUT_SECONDS)
    assert fresh.state is SchemaState.AT_HEAD


def test_a_long_reader_delays_the_migration_but_not_the_writers(old: Database) -> None:
    old.insert("companies", {"company_id": 1})
    worst = 0.0
    with old.connect() as reader, old.connect() as writer, Stopwatch() as watch:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM companies")
        migration = threading.Thread(target=old.upgrade)
        migration.start()
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            started = watch.seconds
            writer.execute("UPDATE companies SET title = 'Salon'")
            worst = max(worst, watch.seconds - started)
            time.sleep(0.005)
        assert migration.is_alive()
        reader.execute("COMMIT")
        migration.join(WAIT_TIMEOUT_SECONDS)
    assert worst < 1.0  # seconds: 0.2 on an idle machine
    assert old.state is SchemaState.AT_HEAD


def test_a_lock_that_is_never_released_ends_in_a_one_line_error(
    old: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "LOCK_ATTEMPTS", 2)
    with old.connect() as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM services")
        with pytest.raises(CommandError, match=r"Other sessions hold locks.*revision baseline"):
            old.upgrade()
    assert old.upgrade().changed


@pytest.mark.parametrize("first", [20, pytest.param(31, marks=pytest.mark.full)])
def test_a_repeatedly_killed_upgrade_continues(
    make_database: MakeDatabase, baseline_template: Database, first: int
) -> None:
    killed, undisturbed = make_database(baseline_template), make_database(baseline_template)
    small_installation(killed)
    small_installation(undisturbed)
    undisturbed.upgrade(dedupe="keep-earliest")
    kills = 0
    with psycopg.connect(killed.url, autocommit=True) as killer:

        def kill(number: int, _: str, connection: Any) -> None:
            if number == first + 11 * kills:
                killer.execute("SELECT pg_terminate_backend(%s)", [connection.info.backend_pid])

        while True:
            try:
                with before_each_statement(kill):
                    killed.upgrade(dedupe="keep-earliest")
            except CommandError:
                kills += 1
            else:
                break
    assert kills > 10
    killed.check()
    assert catalog(killed) == catalog(undisturbed)
    assert content(killed) == content(undisturbed)


def test_a_duplicate_added_during_an_index_build_is_merged_too(old: Database) -> None:
    old.insert("staff", {"yclients_id": 5})
    arrivals = iter([{"yclients_id": 5}, {"yclients_id": 5}])

    def arrive(_: int, statement: str, __: Any) -> None:
        if statement.startswith("CREATE UNIQUE INDEX CONCURRENTLY") and "staff_yclients" in statement:
            for row in arrivals:
                with old.connect() as connection:
                    connection.execute(
                        "INSERT INTO staff (yclients_id, company_id, name) VALUES (%s, 1, 'Second')",
                        [row["yclients_id"]],
                    )
                break

    with before_each_statement(arrive):
        old.upgrade(dedupe="keep-earliest")
    assert old.values("SELECT name FROM staff") == ["Ольга"]
    assert len(old.archived("staff")) == 2
    old.check()


def test_an_invalid_index_of_a_failed_build_is_replaced(old: Database) -> None:
    old.upgrade("archive")
    old.execute("INSERT INTO staff (yclients_id, company_id, name) VALUES (5, 1, 'a'), (5, 1, 'b')")
    with pytest.raises(psycopg.errors.UniqueViolation):
        old.execute(
            "CREATE UNIQUE INDEX CONCURRENTLY staff_yclients_company_unique"
            " ON staff (yclients_id, company_id)"
        )
    old.execute("DELETE FROM staff WHERE name = 'b'")
    old.upgrade()
    old.check()
    assert old.values("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == [0]


def test_a_large_rewrite_needs_an_option(old: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "MAX_UNREQUESTED_REWRITE_ROWS", 3)
    for number in range(1, 300):
        old.insert("staff", {"yclients_id": number})
    with pytest.raises(
        MigrationRefused, match=r"staff \(about .* rows\) must be rewritten: about 1 s.*rewrite=yes"
    ):
        old.upgrade()
    assert old.revision == "baseline"
    old.upgrade(rewrite="yes")
    assert old.state is SchemaState.AT_HEAD


def test_an_unknown_revision_is_reported_in_one_line(at_head: Database) -> None:
    at_head.execute("UPDATE alembic_version SET version_num = 'f00dfeed'")
    assert at_head.state is SchemaState.UNKNOWN
    with pytest.raises(MigrationRefused, match="f00dfeed, which this code does not know: it is newer"):
        at_head.upgrade()
    code, output = finished(alembic(at_head.url, "upgrade", "head"))
    assert code != 0
    assert "f00dfeed, which this code does not know" in output
    assert "Traceback" not in output


def test_an_unreachable_database_is_reported_in_one_line() -> None:
    code, output = finished(alembic("postgresql://someone:secret@127.0.0.1:1/nowhere", "upgrade", "head"))
    assert code != 0
    assert "The database cannot be reached" in output
    assert "Traceback" not in output
    assert "secret" not in output


def test_duplicates_are_reported_on_the_command_line(old: Database) -> None:
    old.insert("staff", {"yclients_id": 5}, {"yclients_id": 5})
    old.insert("dialog_contexts", {"user_id": "79686484488"}, {"user_id": "79686484488"})
    code, output = finished(alembic(old.url, "upgrade", "head"))
    assert code != 0
    assert "staff (yclients_id 5, company_id 1): ids 1, 2\n" in output
    assert "dialog_contexts (company_id 1): ids 1, 2\n" in output
    assert "2 groups of duplicates" in output
    assert "Traceback" not in output
    assert "79686484488" not in output


@pytest.mark.parametrize("option", ["dedupe=keep-latest", "rewrite=no", "dedup=keep-earliest"])
def test_an_unknown_option_is_refused(fresh: Database, option: str) -> None:
    key, value = option.split("=")
    with pytest.raises(CommandError, match=f"Unknown option -x {option}"):
        fresh.upgrade(**{key: value})


def test_an_installation_without_a_revision_is_upgraded(old: Database) -> None:
    old.insert("companies", {"company_id": 7})
    old.execute("DROP TABLE alembic_version")
    assert old.state is SchemaState.EMPTY
    old.upgrade()
    assert old.values("SELECT company_id FROM companies") == [7]
    old.check()


def test_tables_with_other_columns_are_refused_with_their_differences(old: Database) -> None:
    old.execute("DROP TABLE alembic_version, staff; ALTER TABLE clients ADD COLUMN vip boolean")
    with pytest.raises(MigrationRefused) as refusal:
        old.upgrade()
    assert "clients: unexpected vip boolean" in refusal.value.report
    assert "staff: missing name character varying(255) NOT NULL" in refusal.value.report


def test_the_schema_state_changes_with_upgrades(fresh: Database) -> None:
    assert fresh.state is SchemaState.EMPTY
    fresh.upgrade("alignment")
    assert fresh.state is SchemaState.BEHIND
    upgrade = fresh.upgrade()
    assert (upgrade.before, upgrade.after, upgrade.changed) == ("alignment", runner.head(), True)
    assert not fresh.upgrade().changed
