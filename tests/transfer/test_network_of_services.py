"""Tests of a service whose network to the databases fails or is slow, while that of the commands works."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from app import Frontdesk, Settings
from app.data_layer import DataLayer, Result
from app.data_layer.unit_of_work import UnitOfWork
from app.database import connection
from app.errors import FrontdeskError
from app.transfer.cutover.cutover import change_live_side
from app.transfer.protocol.status import read_status
from app.transfer.start import start
from tests.network import CUT, TcpProxy
from tests.processes import wait_until
from tests.transfer.distant import RemoteSides
from tests.transfer.moving import copy_by_change_log

pytestmark = pytest.mark.xdist_group("network")  # all tests share one pair of servers

SALON = 1
NAME = "distant"
each_fault = pytest.mark.parametrize(
    "fault",
    [
        pytest.param(TcpProxy.cut, id="cut", marks=pytest.mark.full),
        pytest.param(TcpProxy.black_hole, id="black hole"),
        pytest.param(TcpProxy.mute, id="mute", marks=pytest.mark.full),
    ],
)
# Seconds: reading the state of each side (one for the answer, two to connect), then one to get a connection
# and one for the answer to the call.
CALL_TIMEOUT_SECONDS = 2 * 3 + 1 + 1


@pytest.fixture
def copied_sides(distant: RemoteSides) -> RemoteSides:
    """Two sides of a transfer whose copy is complete."""
    with psycopg.connect(distant.direct.legacy.url, autocommit=True) as legacy:
        legacy.execute("INSERT INTO companies (company_id, title) VALUES (1, 'Salon')")
        legacy.execute("INSERT INTO clients (company_id, yclients_id, name) VALUES (1, 1, 'a')")
    start(distant.direct)
    copy_by_change_log(distant.direct)
    return distant


@pytest.fixture
def desk(copied_sides: RemoteSides) -> Iterator[Frontdesk]:
    """A service on both sides, whose connections go through the proxies."""
    settings = Settings(
        database_url=copied_sides.services.primary.url,
        legacy_database_url=copied_sides.services.legacy.url,
        service_name=NAME,
        postgres_connection_timeout=1_000,
        postgres_query_timeout=1_000,
    )
    with Frontdesk(settings) as desk:
        desk.company(SALON).get_company().unwrap()
        yield desk


def visit(uow: UnitOfWork) -> None:
    """Add one to the visit count of the client."""
    client = uow.clients.find_one(yclients_id=1)
    assert client is not None
    uow.clients.upsert({"yclients_id": 1, "name": "a", "visit_count": client.visit_count + 1})


def visits(url: str) -> int:
    """Return the visit count of the client in this database."""
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT visit_count FROM clients WHERE yclients_id = 1").fetchone()
    assert row
    return int(row[0])


@each_fault
def test_calls_fail_within_their_deadlines_and_succeed_later_without_a_restart(
    desk: Frontdesk, copied_sides: RemoteSides, fault: Callable[[TcpProxy], None]
) -> None:
    salon: DataLayer = desk.company(SALON)
    calls: list[Callable[[], Result[Any]]] = [
        salon.get_company,
        lambda: salon.upsert_client({"yclients_id": 2, "name": "b"}),
    ]
    fault(copied_sides.services_to_legacy)
    for call in calls:
        began = time.monotonic()
        error = call().error
        assert error is not None
        assert (error.code in ("unavailable", "timeout"), error.retryable) == (True, True)
        assert time.monotonic() - began < CALL_TIMEOUT_SECONDS
    copied_sides.heal()
    wait_until(lambda: all(call().success for call in calls))
    desk.transact(SALON, visit)
    assert visits(copied_sides.direct.legacy.url) == 1


def test_a_write_whose_answer_was_lost_is_committed_once_and_not_retried(
    desk: Frontdesk, copied_sides: RemoteSides
) -> None:
    copied_sides.services_to_legacy.inject_fault_on(b"COMMIT", CUT)
    with pytest.raises(FrontdeskError) as lost:
        desk.transact(SALON, visit)
    copied_sides.heal()
    assert (lost.value.code, lost.value.retryable) == ("unavailable", True)
    assert visits(copied_sides.direct.legacy.url) == 1


@each_fault
def test_a_service_that_has_lost_the_old_side_uses_the_new_one_when_it_is_live(
    desk: Frontdesk, copied_sides: RemoteSides, fault: Callable[[TcpProxy], None]
) -> None:
    desk.transact(SALON, visit)
    fault(copied_sides.services_to_legacy)
    change_live_side(copied_sides.direct, "primary", max_pause=10)
    salon = desk.company(SALON)
    wait_until(lambda: salon.upsert_client({"yclients_id": 2, "name": "b"}).success)
    desk.transact(SALON, visit)
    assert visits(copied_sides.direct.primary.url) == 2


def test_a_slow_network_causes_no_errors(desk: Frontdesk, copied_sides: RemoteSides) -> None:
    for line in (copied_sides.services_to_legacy, copied_sides.services_to_primary):
        line.slow(0.01, 200_000)
    desk.transact(SALON, visit)
    mover = threading.Thread(
        target=change_live_side, args=(copied_sides.direct, "primary"), kwargs={"max_pause": 10}
    )
    mover.start()
    while mover.is_alive():
        desk.transact(SALON, visit)
    desk.transact(SALON, visit)
    assert desk.database.live_name == "primary"


def test_a_service_that_disappears_within_a_transaction_does_not_block_a_switch(
    copied_sides: RemoteSides, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TCP keepalives end the session on the server, even while a COPY waits for its client."""
    short_keepalives = {"tcp_keepalives_idle": "1", "tcp_keepalives_interval": "1", "tcp_user_timeout": "2s"}
    monkeypatch.setattr(connection, "SERVER_KEEPALIVES", connection.SERVER_KEEPALIVES | short_keepalives)
    settings = Settings(database_url=copied_sides.services.legacy.url)
    parameters = connection.connection_parameters(settings, copied_sides.services.legacy.url)
    lost = psycopg.connect(**parameters)
    lost.execute("UPDATE clients SET name = 'b'")
    copying = lost.cursor().copy("COPY clients (company_id, name) FROM STDIN")
    with pytest.raises(psycopg.OperationalError), copying:  # noqa: PT012 - leaving the block fails
        copied_sides.services_to_legacy.black_hole()
        change_live_side(copied_sides.direct, "primary", max_pause=5)
        lost.pgconn.finish()
    assert read_status(copied_sides.direct).live == "primary"
