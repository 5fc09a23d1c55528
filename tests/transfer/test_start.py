"""Capture and fence, as they stand after `start`."""

from contextlib import closing
from typing import Any

import psycopg
import pytest

from app.database.advisory_locks import AdvisoryLock
from app.errors import ConflictError, InvalidInputError
from app.migrations import runner
from app.transfer.finish import finish
from app.transfer.protocol import change_capture, control_schema, lock_retries
from app.transfer.protocol.endpoints import Side, Sides
from app.transfer.protocol.status import Stage, read_status
from app.transfer.start import start
from tests.servers import Server, execute, url_of
from tests.threads import at_once
from tests.vacuuming import vacuumed

Connection = psycopg.Connection[Any]

COMPANY = "INSERT INTO companies (company_id, title) VALUES (%s, 'Salon')"


def marks(connection: Connection) -> list[tuple[str, list[str]]]:
    return connection.execute("SELECT table_name, key FROM frontdesk_transfer.marks ORDER BY seq").fetchall()


def test_status_tells_what_is_next(sides: Sides) -> None:
    assert read_status(sides).stage is Stage.NOT_STARTED
    assert read_status(sides).live == "legacy"
    start(sides)
    found = read_status(sides)
    assert (found.stage, found.live, found.in_the_way) == (Stage.COPYING, "legacy", [])
    assert "copy" in found.next


def test_every_change_leaves_the_keys_of_its_rows(sides: Sides, legacy: Connection) -> None:
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


def test_what_is_rolled_back_leaves_nothing(sides: Sides, legacy: Connection) -> None:
    start(sides)
    with legacy.transaction(force_rollback=True):
        legacy.execute(COMPANY, (1,))
    assert marks(legacy) == []


def test_a_session_that_replicates_is_captured_and_fenced_as_well(
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


def test_truncate_is_refused(sides: Sides, legacy: Connection) -> None:
    start(sides)
    with pytest.raises(psycopg.errors.FeatureNotSupported):
        legacy.execute("TRUNCATE companies CASCADE")


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_the_standby_takes_no_write_at_any_isolation_level(
    sides: Sides, primary: Connection, level: str
) -> None:
    start(sides)
    primary.execute(f"SET default_transaction_isolation = '{level}'")
    with pytest.raises(psycopg.Error) as raised:
        primary.execute(COMPANY, (1,))
    assert raised.value.sqlstate == change_capture.FENCED_SQLSTATE
    # Nobody passes by a setting that is left behind.
    primary.execute("SET frontdesk_transfer.relay = '1'")
    with pytest.raises(psycopg.Error, match="takes no writes"):
        primary.execute(COMPANY, (1,))


def test_start_waits_for_a_transaction_that_has_written_before(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_retries, "LOCK_ATTEMPTS", 3)
    with closing(psycopg.connect(sides.legacy.url)) as writer:
        writer.execute(COMPANY, (1,))
        with pytest.raises(ConflictError, match="do not end"):
            start(sides)
        assert read_status(sides).stage is Stage.STARTING
        writer.commit()
    start(sides)  # goes on from there
    assert read_status(sides).stage is Stage.COPYING


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_transaction_whose_snapshot_is_older_than_the_move_is_told_to_run_again(
    sides: Sides, level: str
) -> None:
    """And not to go to the other side, where nothing is yet."""
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
def test_autovacuum_gives_way_to_start_and_to_finish(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for nobody who waits less than a second, and a large table takes it hours."""
    monkeypatch.setattr(lock_retries, "LOCK_ATTEMPTS", 4)
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


def test_start_may_run_several_times_and_at_once(sides: Sides, legacy: Connection) -> None:
    at_once([lambda: start(sides)] * 3)
    legacy.execute(COMPANY, (1,))
    start(sides)
    assert len(marks(legacy)) == 1
    assert read_status(sides).in_the_way == []


def test_start_names_what_is_in_the_way(sides: Sides, legacy: Connection, primary: Connection) -> None:
    legacy.execute("CREATE TABLE notes (text text)")
    with pytest.raises(ConflictError, match=r"table public\.notes on legacy: it is none of"):
        start(sides)
    with pytest.raises(InvalidInputError, match=r"nothing named public\.other"):
        start(sides, leave_out=["public.other"])
    primary.execute(COMPANY, (1,))
    with pytest.raises(ConflictError, match=r"public\.companies on primary: it has rows already"):
        start(sides, leave_out=["public.notes"])
    primary.execute("DELETE FROM companies")
    start(sides, leave_out=["public.notes"], dry_run=True)
    assert not control_schema.is_set_up(legacy)
    start(sides, leave_out=["public.notes"])
    start(sides)  # what was left out need not be said again


def test_a_table_whose_trigger_was_switched_off_is_in_the_way(sides: Sides, legacy: Connection) -> None:
    start(sides)
    legacy.execute("ALTER TABLE clients DISABLE TRIGGER frontdesk_transfer_update")
    found = read_status(sides)
    assert found.in_the_way == ["legacy: not fenced and captured: public.clients"]


def test_start_does_not_wait_for_a_benchmark(sides: Sides, legacy: Connection) -> None:
    legacy.execute("SELECT pg_advisory_lock(%s)", (AdvisoryLock.TRANSFER_BENCH,))
    start(sides)
    assert read_status(sides).stage is Stage.COPYING


def test_a_first_start_names_the_session_that_holds_the_setup_lock(
    sides: Sides, legacy: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_retries, "LOCK_ATTEMPTS", 2)
    legacy.execute("SELECT pg_advisory_lock(%s)", (AdvisoryLock.TRANSFER_SETUP,))
    with pytest.raises(ConflictError, match=rf"processes {legacy.info.backend_pid} \("):
        start(sides)
