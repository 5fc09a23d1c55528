"""The network between a service and the databases is cut, silent or slow; commands go on elsewhere."""

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

pytestmark = pytest.mark.xdist_group("network")  # one pair of servers for all

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
# A look at each side (a second for an answer, two to connect), one for a connection, one for an answer.
WITHIN = 2 * 3 + 1 + 1


@pytest.fixture
def moving(distant: RemoteSides) -> RemoteSides:
    with psycopg.connect(distant.direct.legacy.url, autocommit=True) as legacy:
        legacy.execute("INSERT INTO companies (company_id, title) VALUES (1, 'Salon')")
        legacy.execute("INSERT INTO clients (company_id, yclients_id, name) VALUES (1, 1, 'a')")
    start(distant.direct)
    copy_by_change_log(distant.direct)
    return distant


@pytest.fixture
def desk(moving: RemoteSides) -> Iterator[Frontdesk]:
    settings = Settings(
        database_url=moving.services.primary.url,
        legacy_database_url=moving.services.legacy.url,
        service_name=NAME,
        postgres_connection_timeout=1_000,
        postgres_query_timeout=1_000,
    )
    with Frontdesk(settings) as desk:
        desk.company(SALON).get_company().unwrap()
        yield desk


def visit(uow: UnitOfWork) -> None:
    client = uow.clients.find_one(yclients_id=1)
    assert client is not None
    uow.clients.upsert({"yclients_id": 1, "name": "a", "visit_count": client.visit_count + 1})


def visits(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT visit_count FROM clients WHERE yclients_id = 1").fetchone()
    assert row
    return int(row[0])


@each_fault
def test_calls_end_within_their_deadlines_and_go_on_without_a_restart(
    desk: Frontdesk, moving: RemoteSides, fault: Callable[[TcpProxy], None]
) -> None:
    salon: DataLayer = desk.company(SALON)
    calls: list[Callable[[], Result[Any]]] = [
        salon.get_company,
        lambda: salon.upsert_client({"yclients_id": 2, "name": "b"}),
    ]
    fault(moving.services_to_legacy)
    for call in calls:
        began = time.monotonic()
        error = call().error
        assert error is not None
        assert (error.code in ("unavailable", "timeout"), error.retryable) == (True, True)
        assert time.monotonic() - began < WITHIN
    moving.heal()
    wait_until(lambda: all(call().success for call in calls))
    desk.transact(SALON, visit)
    assert visits(moving.direct.legacy.url) == 1


def test_a_write_whose_answer_was_lost_is_there_once_and_is_not_made_again(
    desk: Frontdesk, moving: RemoteSides
) -> None:
    moving.services_to_legacy.inject_fault_on(b"COMMIT", CUT)
    with pytest.raises(FrontdeskError) as lost:
        desk.transact(SALON, visit)
    moving.heal()
    assert (lost.value.code, lost.value.retryable) == ("unavailable", True)
    assert visits(moving.direct.legacy.url) == 1


@each_fault
def test_a_service_that_has_lost_the_old_side_finds_the_new_one_when_it_is_live(
    desk: Frontdesk, moving: RemoteSides, fault: Callable[[TcpProxy], None]
) -> None:
    desk.transact(SALON, visit)
    fault(moving.services_to_legacy)
    change_live_side(moving.direct, "primary", max_pause=10)
    salon = desk.company(SALON)
    wait_until(lambda: salon.upsert_client({"yclients_id": 2, "name": "b"}).success)
    desk.transact(SALON, visit)
    assert visits(moving.direct.primary.url) == 2


def test_a_slow_network_only_takes_time(desk: Frontdesk, moving: RemoteSides) -> None:
    for line in (moving.services_to_legacy, moving.services_to_primary):
        line.slow(0.01, 200_000)
    desk.transact(SALON, visit)
    mover = threading.Thread(
        target=change_live_side, args=(moving.direct, "primary"), kwargs={"max_pause": 10}
    )
    mover.start()
    while mover.is_alive():
        desk.transact(SALON, visit)
    desk.transact(SALON, visit)
    assert desk.database.live_name == "primary"


def test_a_service_that_is_gone_in_the_middle_of_a_transaction_holds_up_no_switch(
    moving: RemoteSides, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its server notices by itself, also where a COPY waits for its client."""
    soon = {"tcp_keepalives_idle": "1", "tcp_keepalives_interval": "1", "tcp_user_timeout": "2s"}
    monkeypatch.setattr(connection, "SERVER_KEEPALIVES", connection.SERVER_KEEPALIVES | soon)
    settings = Settings(database_url=moving.services.legacy.url)
    parameters = connection.connection_parameters(settings, moving.services.legacy.url)
    lost = psycopg.connect(**parameters)
    lost.execute("UPDATE clients SET name = 'b'")
    copying = lost.cursor().copy("COPY clients (company_id, name) FROM STDIN")
    with pytest.raises(psycopg.OperationalError), copying:  # noqa: PT012 - as long as it is open
        moving.services_to_legacy.black_hole()
        change_live_side(moving.direct, "primary", max_pause=5)
        lost.pgconn.finish()
    assert read_status(moving.direct).live == "primary"
