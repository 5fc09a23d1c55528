"""Errors that callers get while the server is killed, frozen or busy, and the recovery afterwards."""

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
    """Yield a server that tests may kill or freeze. A test must leave it running."""
    server = Server()
    try:
        runner.upgrade(server.url)
        yield server
    finally:
        server.delete()


@pytest.fixture
def open_desk(server: Server) -> Callable[..., Any]:
    """Return a function that opens a Frontdesk on that server, with short timeouts in milliseconds."""

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
    """Repeat the call until it succeeds or `seconds` have passed; return the last result."""
    end = time.monotonic() + seconds
    while not (result := call()).success and time.monotonic() < end:
        time.sleep(0.05)
    return result


class TestAKilledServer:
    def test_calls_fail_while_the_server_is_down_and_succeed_after_its_restart(
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

    def test_calls_succeed_soon_after_a_long_outage(
        self, server: Server, open_desk: Callable[..., Any]
    ) -> None:
        with open_desk(postgres_connection_timeout=500) as desk:
            salon = desk.company(COMPANY)
            server.kill()
            try:
                # The pool doubles its pauses, so without a limit it would connect again only after 7 s.
                assert not until_it_works(lambda: salon.get_client_by_id(1), seconds=3.5).success
            finally:
                server.start()
            with Stopwatch() as watch:
                assert until_it_works(lambda: salon.get_client_by_id(1)).success
            assert watch.seconds < 1.5

    def test_a_restart_between_two_calls_causes_no_error(
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
    def test_cause_no_error_if_no_call_is_in_progress(
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

    def test_roll_back_a_unit_of_work_in_progress(
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


def test_an_exhausted_pool_is_reported_within_the_timeout_and_recovers(
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


def test_a_write_that_waits_too_long_for_a_lock_times_out(
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


def test_a_slow_statement_times_out(open_desk: Callable[..., Any]) -> None:
    with open_desk(postgres_statement_timeout=200) as desk:
        with pytest.raises(FrontdeskError) as failure, desk.unit_of_work(COMPANY) as uow:
            uow.session.connection().exec_driver_sql("SELECT pg_sleep(5)")
        assert (failure.value.code, failure.value.retryable) == ("timeout", True)
        assert desk.company(COMPANY).get_client_by_id(1).success


@pytest.mark.parametrize("idle", [1, 3])
def test_calls_to_a_frozen_server_fail_within_the_timeouts_and_recover(
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
                # The connection timeout and the query timeout can both elapse.
                assert watch.seconds < 1.8
        finally:
            server.thaw()
        assert len(sent.events) == 2
        assert until_it_works(lambda: salon.upsert_client(ClientRow())).success


def test_the_query_timeout_does_not_apply_to_a_large_result_as_a_whole(
    open_desk: Callable[..., Any],
) -> None:
    with open_desk(postgres_query_timeout=1000) as desk, desk.unit_of_work(COMPANY) as uow:
        rows = uow.session.connection().exec_driver_sql(
            "SELECT repeat('x', 1000) FROM generate_series(1, 50000)"
        )
        assert len(rows.all()) == 50_000


def test_calls_after_closing_report_unavailable(open_desk: Callable[..., Any]) -> None:
    with open_desk() as desk:
        salon = desk.company(COMPANY)
    assert code(salon.get_client_by_id(1))[0] == "unavailable"
    assert code(salon.upsert_client(ClientRow()))[0] == "unavailable"


def test_expected_errors_are_not_sent_to_sentry(open_desk: Callable[..., Any], sent: SentryRecorder) -> None:
    with open_desk() as desk:
        salon = desk.company(COMPANY)
        assert code(salon.cancel_booking(10**12))[0] == "not_found"
        assert code(salon.upsert_client({}))[0] == "invalid"
        assert code(desk.company(2).upsert_client(ClientRow()))[0] == "unknown_company"
        assert sent.events == []


def test_a_failure_is_reported_once_and_without_the_arguments(
    open_desk: Callable[..., Any],
    sent: SentryRecorder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    name, phone = "dohpaZ"[::-1], "8844846869"[::-1]  # reversed: a source line in an event must not match
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


def test_closing_leaves_no_thread_and_no_connection(server: Server, open_desk: Callable[..., Any]) -> None:
    threads = threading.active_count()
    with open_desk() as desk:
        at_once([lambda: desk.company(COMPANY).get_client_by_id(1)] * 8)
    assert threading.active_count() == threads
    with psycopg.connect(server.url, autocommit=True) as connection:
        left = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'frontdesk'"
        # The server ends a session shortly after the client has closed it.
        wait_until(lambda: connection.execute(left).fetchone() == (0,))
