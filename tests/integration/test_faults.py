"""Errors and recovery when the database is killed, frozen, busy or silent."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from app import Frontdesk, Settings
from app.data_layer import DataLayer, Result
from app.data_layer.unit_of_work import UnitOfWork
from app.errors import FrontdeskError
from app.migrations import runner
from tests.factories import ClientRow
from tests.processes import WAIT_TIMEOUT_SECONDS, wait_until
from tests.servers import Server
from tests.stopwatch import Stopwatch
from tests.threads import at_once
from tests.watching import SentryRecorder

COMPANY = 1
TERMINATE = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE pid <> pg_backend_pid() AND datname IS NOT NULL
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server that tests may break, as long as it runs again afterwards."""
    server = Server()
    try:
        runner.upgrade(server.url)
        yield server
    finally:
        server.delete()


@pytest.fixture
def open_desk(server: Server) -> Callable[..., Any]:
    """Opens the service on the breakable server, with short timeouts (milliseconds) by default."""

    @contextmanager
    def open_desk(**timeouts: int) -> Iterator[Frontdesk]:
        short = {"postgres_connection_timeout": 1500, **timeouts}
        with Frontdesk(Settings(database_url=server.url, **short)) as desk:
            desk.database.pool.wait(WAIT_TIMEOUT_SECONDS)
            desk.company(COMPANY).upsert_company({"title": "Salon"}).unwrap()
            yield desk

    return open_desk


def code(result: Result[Any]) -> tuple[str, bool]:
    assert result.error is not None
    return result.error.code, result.error.retryable


def until_it_works(call: Callable[[], Result[Any]], seconds: float = WAIT_TIMEOUT_SECONDS) -> Result[Any]:
    """The first success within `seconds`."""
    end = time.monotonic() + seconds
    while not (result := call()).success and time.monotonic() < end:
        time.sleep(0.05)
    return result


class TestAKilledServer:
    def test_is_unavailable_while_down_and_served_again_after(
        self, server: Server, open_desk: Callable[..., Any], sent: SentryRecorder
    ) -> None:
        with open_desk() as desk:
            salon: DataLayer = desk.company(COMPANY)
            salon.upsert_client(ClientRow(yclients_id=1)).unwrap()
            server.kill()
            try:
                assert code(salon.get_client_by_id(1)) == ("unavailable", True)
                assert code(salon.upsert_client(ClientRow())) == ("unavailable", True)
            finally:
                server.start()
            assert len(sent.events) == 2
            assert {event["tags"]["operation"] for event in sent.events} == {
                "get_client_by_id",
                "upsert_client",
            }
            assert until_it_works(lambda: salon.get_client_by_id(1)).unwrap() is not None
            assert salon.upsert_client(ClientRow()).success

    def test_back_after_a_while_is_tried_at_once_not_after_a_pause_that_grew_with_the_outage(
        self, server: Server, open_desk: Callable[..., Any]
    ) -> None:
        with open_desk(postgres_connection_timeout=500) as desk:
            salon = desk.company(COMPANY)
            server.kill()
            try:
                # The pool would wait until 7 s.
                assert not until_it_works(lambda: salon.get_client_by_id(1), seconds=3.5).success
            finally:
                server.start()
            with Stopwatch() as watch:
                assert until_it_works(lambda: salon.get_client_by_id(1)).success
            assert watch.seconds < 1.5

    def test_restarted_between_two_calls_is_not_noticed(
        self, server: Server, open_desk: Callable[..., Any], sent: SentryRecorder
    ) -> None:
        with open_desk(postgres_min_connections=3, postgres_connection_timeout=5000) as desk:
            salon = desk.company(COMPANY)
            at_once([lambda: salon.get_client_by_id(1)] * 3)
            server.kill()
            server.start()
            assert salon.upsert_client(ClientRow(yclients_id=1)).success
            assert salon.get_client_by_id(1).success
            assert sent.events == []


class TestTerminatedConnections:
    def test_are_not_noticed_by_the_next_calls_of_any_thread(
        self, server: Server, open_desk: Callable[..., Any], sent: SentryRecorder
    ) -> None:
        with open_desk(postgres_min_connections=3, postgres_connection_timeout=5000) as desk:
            salon = desk.company(COMPANY)
            for call in (
                lambda: salon.get_client_by_id(1),
                lambda: salon.upsert_client(ClientRow(yclients_id=1)),
            ):
                at_once([call] * 3)
                with psycopg.connect(server.url, autocommit=True) as connection:
                    assert connection.execute(TERMINATE).fetchall()
                assert [result.success for result in at_once([call] * 6)] == [True] * 6
            assert sent.events == []

    def test_in_the_middle_of_a_unit_of_work_roll_it_back(
        self, server: Server, open_desk: Callable[..., Any]
    ) -> None:
        def work(uow: UnitOfWork) -> None:
            uow.clients.upsert(ClientRow(yclients_id=4711))
            with psycopg.connect(server.url, autocommit=True) as connection:
                connection.execute(TERMINATE)
            uow.clients.count()

        with open_desk() as desk:
            with pytest.raises(FrontdeskError) as failure:
                desk.transact(COMPANY, work)
            assert failure.value.code == "unavailable"
            assert desk.company(COMPANY).get_client_by_id(4711).unwrap() is None


def test_an_exhausted_pool_says_so_in_time_and_recovers(
    open_desk: Callable[..., Any], sent: SentryRecorder
) -> None:
    with open_desk(
        postgres_max_connections=1, postgres_connection_timeout=300, postgres_query_timeout=9000
    ) as desk:
        salon = desk.company(COMPANY)
        with desk.unit_of_work(COMPANY) as uow:
            uow.clients.count()
            with Stopwatch() as watch:
                assert code(salon.get_client_by_id(1)) == ("unavailable", True)
            assert watch.seconds < 1
        assert salon.get_client_by_id(1).success
        assert len(sent.events) == 1


def test_a_lock_that_is_not_released_ends_in_timeout(
    server: Server, open_desk: Callable[..., Any], sent: SentryRecorder
) -> None:
    with open_desk(postgres_lock_timeout=200) as desk:
        salon = desk.company(COMPANY)
        salon.upsert_client(ClientRow(yclients_id=1)).unwrap()
        with psycopg.connect(server.url) as other:
            other.execute("SELECT FROM clients WHERE yclients_id = 1 FOR UPDATE")
            assert code(salon.upsert_client(ClientRow(yclients_id=1))) == ("timeout", True)
        assert salon.upsert_client(ClientRow(yclients_id=1)).success
        assert len(sent.events) == 1


def test_a_statement_that_takes_too_long_ends_in_timeout(open_desk: Callable[..., Any]) -> None:
    with open_desk(postgres_statement_timeout=200) as desk:
        with pytest.raises(FrontdeskError) as failure, desk.unit_of_work(COMPANY) as uow:
            uow.session.connection().exec_driver_sql("SELECT pg_sleep(5)")
        assert (failure.value.code, failure.value.retryable) == ("timeout", True)
        assert desk.company(COMPANY).get_client_by_id(1).success


@pytest.mark.parametrize("idle", [1, 3])
def test_a_frozen_server_ends_in_an_answer_within_the_deadlines_and_recovers(
    server: Server, open_desk: Callable[..., Any], sent: SentryRecorder, idle: int
) -> None:
    with open_desk(
        postgres_query_timeout=500, postgres_connection_timeout=1000, postgres_min_connections=idle
    ) as desk:
        salon = desk.company(COMPANY)
        at_once([lambda: salon.get_client_by_id(1)] * 3)
        server.freeze()
        try:
            for call in (lambda: salon.get_client_by_id(1), lambda: salon.upsert_client(ClientRow())):
                with Stopwatch() as watch:
                    assert code(call())[0] in ("timeout", "unavailable")
                # One wait for a connection, one for an answer on it.
                assert watch.seconds < 1.8
        finally:
            server.thaw()
        assert len(sent.events) == 2
        assert until_it_works(lambda: salon.upsert_client(ClientRow())).success


def test_a_query_that_the_server_answers_in_pieces_is_not_cut_off_by_the_clients_deadline(
    open_desk: Callable[..., Any],
) -> None:
    with open_desk(postgres_query_timeout=1000) as desk, desk.unit_of_work(COMPANY) as uow:
        rows = uow.session.connection().exec_driver_sql(
            "SELECT repeat('x', 1000) FROM generate_series(1, 50000)"
        )
        assert len(rows.all()) == 50_000


def test_a_service_that_is_closed_says_that_it_is_unavailable(open_desk: Callable[..., Any]) -> None:
    with open_desk() as desk:
        salon = desk.company(COMPANY)
    assert code(salon.get_client_by_id(1))[0] == "unavailable"
    assert code(salon.upsert_client(ClientRow()))[0] == "unavailable"


def test_expected_answers_are_no_errors_to_sentry(
    open_desk: Callable[..., Any], sent: SentryRecorder
) -> None:
    with open_desk() as desk:
        salon = desk.company(COMPANY)
        assert code(salon.cancel_booking(10**12))[0] == "not_found"
        assert code(salon.upsert_client({}))[0] == "invalid"
        assert code(desk.company(2).upsert_client(ClientRow()))[0] == "unknown_company"
        assert sent.events == []


def test_a_failure_is_reported_once_and_without_what_the_caller_passed(
    open_desk: Callable[..., Any],
    sent: SentryRecorder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    name, phone = "dohpaZ"[::-1], "8844846869"[::-1]  # written so because events show lines of the source
    with open_desk() as desk:
        salon = desk.company(COMPANY)

        def broken(*_: Any) -> None:
            raise ZeroDivisionError(name)

        monkeypatch.setattr("app.repositories.base.Repository._merge_uniform_rows", broken)
        monkeypatch.setattr("app.repositories.clients.ClientRepository._merge_uniform_rows", broken)
        result = salon.upsert_client(ClientRow(name=name, phone=f"+7{phone}"))
    assert code(result) == ("internal", False)
    assert len(sent.events) == 1
    for place in (repr(sent.payloads), caplog.text, repr(result)):
        assert name not in place
        assert phone not in place


def test_no_thread_and_no_connection_is_left_after_closing(
    server: Server, open_desk: Callable[..., Any]
) -> None:
    threads = threading.active_count()
    with open_desk() as desk:
        at_once([lambda: desk.company(COMPANY).get_client_by_id(1)] * 8)
    assert threading.active_count() == threads
    with psycopg.connect(server.url, autocommit=True) as connection:
        left = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'frontdesk'"
        wait_until(
            lambda: connection.execute(left).fetchone() == (0,)
        )  # the server ends sessions a bit later
