"""Tests of processes when one of the two databases is unreachable."""

import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from app import Frontdesk
from app.data_layer.unit_of_work import UnitOfWork
from app.database import live_database, side_state
from app.database.database import Database
from app.errors import NoConnectionError, UnavailableError
from tests.moves import COMPANY_ID, FakeTransfer, client, clients
from tests.servers import Server, execute


@pytest.fixture
def other_server() -> Iterator[Server]:
    server = Server()
    yield server
    server.delete()


def test_an_unreachable_standby_is_queried_only_once(
    started: FakeTransfer, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = FakeTransfer(started.legacy, "postgresql://nobody@127.0.0.1:1/gone")
    queried: list[Database] = []
    read = side_state.read_side
    monkeypatch.setattr(side_state, "read_side", lambda database: queried.append(database) or read(database))
    began = time.monotonic()
    with Frontdesk(gone.settings()) as desk:
        for number in range(1, 8):
            desk.company(COMPANY_ID).upsert_client(client(number)).unwrap()
            time.sleep(0.2)
        legacy, primary = desk.database.sides["legacy"], desk.database.sides["primary"]
    assert queried.count(primary) == 1  # at the first access
    most = 2 + (time.monotonic() - began) / live_database.REFRESH_INTERVAL_SECONDS
    assert 2 <= queried.count(legacy) <= most
    assert len(clients(started.legacy)) == 7


def test_an_unreachable_live_side_stays_live_until_the_other_side_is_open(
    started: FakeTransfer,
) -> None:
    """A standby may lack writes, so it does not replace an unreachable live side."""
    gone = FakeTransfer("postgresql://nobody@127.0.0.1:1/gone", started.primary)
    with Frontdesk(gone.settings(postgres_connection_timeout=300)) as desk:
        assert desk.company(COMPANY_ID).get_company().error.code == "unavailable"
        with pytest.raises(UnavailableError), desk.unit_of_work(COMPANY_ID) as uow:
            uow.clients.upsert(client(1))
        started.set_state(started.primary, "open")
        time.sleep(live_database.REFRESH_INTERVAL_SECONDS)
        desk.company(COMPANY_ID).upsert_client(client(1)).unwrap()
    assert clients(started.primary) == [1]


@pytest.mark.parametrize("fault", [pytest.param("kill", marks=pytest.mark.full), "freeze"])
def test_a_process_changes_to_the_live_side_if_the_old_server_is_lost_after_the_hand_over(
    started: FakeTransfer, other_server: Server, fault: str
) -> None:
    execute(other_server.url, "CREATE TABLE alembic_version ()", "CREATE TABLE companies ()")
    execute(
        other_server.url,
        "CREATE SCHEMA frontdesk_transfer",
        "CREATE TABLE frontdesk_transfer.side AS SELECT 'open' AS state, 1::bigint AS epoch, now() AS until",
    )
    pair = FakeTransfer(other_server.url, started.primary)
    with Frontdesk(pair.settings(postgres_connection_timeout=1_000, postgres_query_timeout=2_000)) as desk:
        desk.database.read(lambda connection: connection.execute("SELECT 1").fetchone())
        assert desk.database.live_name == "legacy"
        getattr(other_server, fault)()
        started.set_state(started.primary, "open")
        began = time.monotonic()
        while desk.company(COMPANY_ID).upsert_client(client(1)).error is not None:
            assert time.monotonic() - began < 10
        assert desk.database.live_name == "primary"
    if fault == "freeze":
        other_server.thaw()
    assert clients(started.primary) == [1]


def test_a_read_interrupted_on_the_old_side_is_retried_on_the_live_side(
    desk: Frontdesk, started: FakeTransfer
) -> None:
    read: list[str] = []

    def name(connection: psycopg.Connection[Any]) -> str:
        read.append(connection.info.dbname)
        if len(read) == 1:
            started.hand_over(started.legacy, started.primary)
            raise psycopg.OperationalError
        return connection.info.dbname

    assert desk.database.read(name) in started.primary
    assert len(read) == 2


def test_a_write_without_a_connection_is_retried_on_the_live_side(
    desk: Frontdesk, started: FakeTransfer
) -> None:
    runs = []

    def work(uow: UnitOfWork) -> None:
        runs.append(1)
        if len(runs) == 1:
            started.hand_over(started.legacy, started.primary)
            raise NoConnectionError
        uow.clients.upsert(client(1))

    desk.transact(COMPANY_ID, work)
    assert clients(started.primary) == [1]


def test_a_transaction_whose_commit_answer_was_lost_is_not_retried(
    desk: Frontdesk, started: FakeTransfer
) -> None:
    runs = []

    def work(uow: object) -> None:
        runs.append(1)
        started.hand_over(started.legacy, started.primary)
        raise UnavailableError  # the error for a lost connection

    with pytest.raises(UnavailableError):
        desk.transact(COMPANY_ID, work)
    assert len(runs) == 1
