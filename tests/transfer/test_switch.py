"""Tests of cutover, rollback and a second cutover."""

from threading import Event, Thread
from time import sleep
from typing import Any

import psycopg
import pytest
from alembic import command

from app.errors import ConflictError
from app.migrations import runner
from app.transfer.cutover import cutover as switching
from app.transfer.cutover.cutover import AbortedError, change_live_side
from app.transfer.finish import finish
from app.transfer.protocol import fencing
from app.transfer.protocol.endpoints import Sides
from app.transfer.protocol.stages import Stage
from app.transfer.protocol.status import read_status
from app.transfer.relay.apply_cycle import FetchedRows
from app.transfer.relay.relay import drain, relay
from app.transfer.start import start
from tests.processes import WAIT_TIMEOUT_SECONDS, wait_until
from tests.transfer.moving import copy_by_change_log, rows

Connection = psycopg.Connection[Any]


@pytest.fixture
def moving(sides: Sides, legacy: Connection) -> Sides:
    """A started transfer of a salon whose rows are copied."""
    legacy.execute("INSERT INTO companies (company_id, title) VALUES (1, 'Salon')")
    start(sides)
    copy_by_change_log(sides)
    return sides


def test_writes_follow_a_cutover_and_a_rollback(
    moving: Sides, legacy: Connection, primary: Connection
) -> None:
    legacy.execute("INSERT INTO clients (company_id, yclients_id, name) VALUES (1, 1, 'a'), (1, 2, 'b')")
    report = change_live_side(moving, "primary")
    assert report.pause is not None
    assert [step.name for step in report.steps][-1] == "open primary"
    with pytest.raises(psycopg.Error, match="accepts no writes"):
        legacy.execute("DELETE FROM clients")
    primary.execute("UPDATE clients SET name = 'c' WHERE yclients_id = 1")
    primary.execute("INSERT INTO clients (company_id, yclients_id, name) VALUES (1, 3, 'd')")
    assert read_status(moving).stage is Stage.CUT_OVER

    change_live_side(moving, "legacy")
    legacy.execute("INSERT INTO clients (company_id, yclients_id, name) VALUES (1, 4, 'e')")
    clients = legacy.execute("SELECT id, name FROM clients ORDER BY id").fetchall()
    assert clients == [(1, "c"), (2, "b"), (3, "d"), (4, "e")]
    change_live_side(moving, "primary")
    assert rows(moving.legacy) == rows(moving.primary)
    assert read_status(moving).in_the_way == []


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_a_transaction_with_a_snapshot_from_before_the_cutover_cannot_write(
    moving: Sides, legacy: Connection, level: str
) -> None:
    legacy.execute(f"BEGIN ISOLATION LEVEL {level}")
    legacy.execute("SELECT * FROM companies")  # takes a snapshot, but no lock that would block the cutover
    change_live_side(moving, "primary")
    with pytest.raises(psycopg.Error) as raised:
        legacy.execute("UPDATE companies SET title = 'lost'")
    assert raised.value.sqlstate in ("FD001", "40001")
    legacy.execute("ROLLBACK")


def test_a_cutover_to_the_live_side_changes_nothing(moving: Sides) -> None:
    change_live_side(moving, "primary")
    report = change_live_side(moving, "primary")
    assert (report.was_live, report.steps, report.pause) == (True, [], None)


def test_a_rehearsal_writes_nothing(moving: Sides, legacy: Connection) -> None:
    legacy.execute("INSERT INTO clients (company_id, yclients_id, name) VALUES (1, 1, 'a')")
    before = _everything(moving)
    report = change_live_side(moving, "primary", dry_run=True)
    assert _everything(moving) == before
    assert [step.detail for step in report.steps if "apply and verify" in step.name] == ["1 changes"]
    legacy.execute("UPDATE clients SET name = 'b'")


def test_a_long_transaction_is_named_in_the_error_and_nothing_changes(
    moving: Sides, legacy: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switching, "QUIET_TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr(switching, "CLOSE_ATTEMPTS", 2)
    with legacy.transaction():
        legacy.execute("UPDATE companies SET title = 'a'")
        with pytest.raises(ConflictError, match=f"{legacy.info.backend_pid}"):
            change_live_side(moving, "primary", max_pause=0.2)
        legacy.execute("UPDATE companies SET title = 'b'")
    assert read_status(moving).live == "legacy"


def test_a_cutover_requires_a_complete_copy(sides: Sides) -> None:
    start(sides)
    with pytest.raises(ConflictError, match="transfer copy"):
        change_live_side(sides, "primary")
    with pytest.raises(ConflictError, match="transfer copy"):
        drain(sides)


def test_side_rows_are_read_again_after_a_cutover_between_two_reads(
    moving: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = fencing.read_side_row

    def read_before_cutover(connection: Connection) -> fencing.SideRow:
        row = read(connection)
        monkeypatch.undo()
        change_live_side(moving, "primary")
        return row

    monkeypatch.setattr(fencing, "read_side_row", read_before_cutover)
    assert read_status(moving).stage is Stage.CUT_OVER


def test_a_failure_before_the_hand_over_opens_the_old_side(
    moving: Sides, legacy: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise psycopg.errors.DiskFull("no space")

    monkeypatch.setattr(FetchedRows, "apply", fail)
    with pytest.raises(AbortedError, match="Writes are open on legacy again"):
        change_live_side(moving, "primary")
    legacy.execute("UPDATE companies SET title = 'b'")
    assert read_status(moving).stage is Stage.RELAYING


def test_a_pause_that_is_too_long_is_aborted(
    moving: Sides, legacy: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(switching.sequences, "advance_statements", lambda *_: ["SELECT pg_sleep(10)"])
        with pytest.raises(AbortedError, match=r"Aborted after [0-4]\."):
            change_live_side(moving, "primary", max_pause=0.3)
    legacy.execute("UPDATE companies SET title = 'c'")
    change_live_side(moving, "primary")


def test_finish_removes_everything_of_the_transfer(
    moving: Sides, legacy: Connection, primary: Connection
) -> None:
    change_live_side(moving, "primary")
    with pytest.raises(ConflictError, match="Sessions are open on legacy"):
        finish(moving)
    legacy.close()
    finish(moving, dry_run=True)
    assert read_status(moving).stage is Stage.CUT_OVER
    finish(moving)
    finish(moving)  # a repeated call has no effect
    assert read_status(moving).stage is Stage.NOT_STARTED
    for side in moving:
        with psycopg.connect(side.url) as connection:
            left = connection.execute(
                "SELECT (SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'frontdesk%')"
                " + (SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'frontdesk%')"
            ).fetchone()
        assert left == (0,)
        command.check(runner.alembic_config(side.url))  # raises if the schema differs from the models
    primary.execute("UPDATE companies SET title = 'b'")


def test_a_cancelled_transfer_leaves_legacy_live(moving: Sides, legacy: Connection) -> None:
    finish(moving)
    legacy.execute("UPDATE companies SET title = 'b'")


def test_a_running_relay_ends_when_the_transfer_is_finished(moving: Sides) -> None:
    messages: list[str] = []
    thread = Thread(target=relay, args=(moving, Event()), kwargs={"on_problem": messages.append})
    thread.start()
    wait_until(lambda: read_status(moving).stage is Stage.RELAYING)
    sleep(0.3)  # time for a few polls of the change log
    finish(moving)
    thread.join(WAIT_TIMEOUT_SECONDS)
    assert not thread.is_alive()
    assert messages == ["The transfer is finished: there is nothing left to relay."]


def _everything(sides: Sides) -> list[Any]:
    tables = ("side", "marks", "relay", "journal")
    contents: list[Any] = [rows(sides.legacy), rows(sides.primary)]
    for side in sides:
        with psycopg.connect(side.url) as connection:
            contents += [
                connection.execute(f"SELECT * FROM frontdesk_transfer.{table}").fetchall() for table in tables
            ]
    return contents
