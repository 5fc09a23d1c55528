"""Tests of `start`, and of the change capture and the fence that it sets up."""

from contextlib import closing
from typing import Any

import psycopg
import pytest

from app.database.advisory_locks import AdvisoryLock
from app.errors import ConflictError, InvalidInputError
from app.migrations import runner
from app.transfer.finish import finish
from app.transfer.protocol import change_capture, control_schema, exclusive_step
from app.transfer.protocol.endpoints import Side, Sides
from app.transfer.protocol.status import Stage, read_status
from app.transfer.start import start
from tests.servers import Server, execute, url_of
from tests.threads import at_once
from tests.vacuuming import vacuumed

Connection = psycopg.Connection[Any]

COMPANY = "INSERT INTO companies (company_id, title) VALUES (%s, 'Salon')"


def marks(connection: Connection) -> list[tuple[str, list[str]]]:
    """Return (table, key) of each change-log entry, the oldest first."""
    return connection.execute("SELECT table_name, key FROM frontdesk_transfer.marks ORDER BY seq").fetchall()


def test_the_status_contains_the_stage_and_the_next_command(sides: Sides) -> None:
    assert read_status(sides).stage is Stage.NOT_STARTED
    assert read_status(sides).live == "legacy"
    start(sides)
    status = read_status(sides)
    assert (status.stage, status.live, status.in_the_way) == (Stage.COPYING, "legacy", [])
    assert "copy" in status.next


def test_every_change_adds_the_keys_of_its_rows_to_the_change_log(sides: Sides, legacy: Connection) -> None:
    start(sides)
    legacy.execute(COMPANY, (1,))
    legacy.execute("UPDATE companies SET company_id = 2 WHERE company_id = 1")
    legacy.execute("DELETE FROM companies")
    with legacy.cursor().copy("COPY companies (company_id, title) FROM STDIN") as copy:
        copy.write("3\ta\n4\tb\n")
    names = [(name, key) for name, (key,) in marks(legacy)]
    assert names[0] == ("public.companies", "1")
    assert sorted(names[1:3]) == [("public.companies", "1"), ("public.companies", "2")]
    assert [key for _, key in names[3:]] == ["2", "3", "4"]


def test_a_rolled_back_change_leaves_no_change_log_entry(sides: Sides, legacy: Connection) -> None:
    start(sides)
    with legacy.transaction(force_rollback=True):
        legacy.execute(COMPANY, (1,))
    assert marks(legacy) == []


def test_a_session_with_the_replica_role_is_captured_and_fenced_as_well(
    sides: Sides, legacy: Connection, primary: Connection
) -> None:
    start(sides)
    for connection in (legacy, primary):
        connection.execute("SET session_replication_role = replica")
    legacy.execute(COMPANY, (1,))
    assert len(marks(legacy)) == 1
    with pytest.raises(psycopg.Error) as raised:
        primary.execute(COMPANY, (1,))
    assert raised.value.sqlstate == change_capture.FENCED_SQLSTATE


def test_truncate_is_rejected(sides: Sides, legacy: Connection) -> None:
    start(sides)
    with pytest.raises(psycopg.errors.FeatureNotSupported):
        legacy.execute("TRUNCATE companies CASCADE")


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_the_standby_rejects_writes_at_every_isolation_level(
    sides: Sides, primary: Connection, level: str
) -> None:
    start(sides)
    primary.execute(f"SET default_transaction_isolation = '{level}'")
    with pytest.raises(psycopg.Error) as raised:
        primary.execute(COMPANY, (1,))
    assert raised.value.sqlstate == change_capture.FENCED_SQLSTATE
    # A relay setting with the id of another transaction does not bypass the fence.
    primary.execute("SET frontdesk_transfer.relay = '1'")
    with pytest.raises(psycopg.Error, match="accepts no writes"):
        primary.execute(COMPANY, (1,))


def test_start_waits_for_a_transaction_that_has_written_before(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exclusive_step, "LOCK_ATTEMPTS", 3)
    with closing(psycopg.connect(sides.legacy.url)) as writer:
        writer.execute(COMPANY, (1,))
        with pytest.raises(ConflictError, match="have not ended"):
            start(sides)
        assert read_status(sides).stage is Stage.STARTING
        writer.commit()
    start(sides)  # continues from there
    assert read_status(sides).stage is Stage.COPYING


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_transaction_with_a_snapshot_older_than_the_transfer_gets_a_serialization_failure(
    sides: Sides, level: str
) -> None:
    """The client then retries on legacy. The fence's own error would send it to primary, which is empty."""
    with closing(psycopg.connect(sides.legacy.url)) as writer:
        writer.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
        writer.execute("SELECT count(*) FROM companies")
        start(sides)
        with pytest.raises(psycopg.errors.SerializationFailure, match="began after the snapshot"):
            writer.execute(COMPANY, (1,))
        writer.rollback()
        writer.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
        writer.execute(COMPANY, (1,))
        writer.commit()


@pytest.mark.full
def test_start_and_finish_cancel_autovacuum(monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL cancels autovacuum only for sessions that wait a second; its run may take hours."""
    monkeypatch.setattr(exclusive_step, "LOCK_ATTEMPTS", 4)
    server = Server()
    try:
        urls = {name: url_of(server.url, f"the_{name}") for name in ("legacy", "primary")}
        for name, url in urls.items():
            execute(server.url, f"CREATE DATABASE the_{name}")
            runner.upgrade(url)
        sides = Sides(*(Side(name, url) for name, url in urls.items()))
        execute(
            urls["legacy"],
            "INSERT INTO companies (company_id, title) SELECT n, 'S' FROM generate_series(1, 20000) AS n",
        )
        with vacuumed(urls["legacy"], "companies"):
            start(sides)
        assert read_status(sides).stage is Stage.COPYING
        with vacuumed(urls["legacy"], "companies"):
            finish(sides, force=True)
        assert read_status(sides).stage is Stage.NOT_STARTED
    finally:
        server.delete()


def test_start_can_be_repeated_and_run_concurrently(sides: Sides, legacy: Connection) -> None:
    at_once([lambda: start(sides)] * 3)
    legacy.execute(COMPANY, (1,))
    start(sides)
    assert len(marks(legacy)) == 1
    assert read_status(sides).in_the_way == []


def test_start_reports_the_problems_that_block_it(
    sides: Sides, legacy: Connection, primary: Connection
) -> None:
    legacy.execute("CREATE TABLE notes (text text)")
    with pytest.raises(ConflictError, match=r"table public\.notes on legacy: it is not one of"):
        start(sides)
    with pytest.raises(InvalidInputError, match=r"no object named public\.other"):
        start(sides, leave_out=["public.other"])
    primary.execute(COMPANY, (1,))
    with pytest.raises(ConflictError, match=r"public\.companies on primary: it has rows already"):
        start(sides, leave_out=["public.notes"])
    primary.execute("DELETE FROM companies")
    start(sides, leave_out=["public.notes"], dry_run=True)
    assert not control_schema.is_set_up(legacy)
    start(sides, leave_out=["public.notes"])
    start(sides)  # the second call uses `leave_out` of the first


def test_a_table_with_a_disabled_trigger_is_reported_as_a_problem(sides: Sides, legacy: Connection) -> None:
    start(sides)
    legacy.execute("ALTER TABLE clients DISABLE TRIGGER frontdesk_transfer_update")
    status = read_status(sides)
    assert status.in_the_way == ["legacy: tables without fence and capture: public.clients"]


def test_start_does_not_wait_for_a_benchmark(sides: Sides, legacy: Connection) -> None:
    legacy.execute("SELECT pg_advisory_lock(%s)", (AdvisoryLock.TRANSFER_BENCH,))
    start(sides)
    assert read_status(sides).stage is Stage.COPYING


def test_the_error_of_a_first_start_names_the_session_that_holds_the_setup_lock(
    sides: Sides, legacy: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exclusive_step, "LOCK_ATTEMPTS", 2)
    legacy.execute("SELECT pg_advisory_lock(%s)", (AdvisoryLock.TRANSFER_SETUP,))
    with pytest.raises(ConflictError, match=rf"processes {legacy.info.backend_pid} \("):
        start(sides)
