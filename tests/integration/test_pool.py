"""The pool: every setting has an effect, connections are not lost, and metrics report its use."""

import contextvars
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg
import pytest
from prometheus_client import REGISTRY

from app import Frontdesk, Settings
from app.data_layer.unit_of_work import UnitOfWork
from app.errors import FrontdeskError, UnavailableError
from app.observability import metrics
from tests.processes import WAIT_TIMEOUT_SECONDS, wait_until
from tests.stopwatch import Stopwatch
from tests.threads import at_once
from tests.watching import SentryRecorder

Opener = Callable[..., Any]


@pytest.fixture
def open_desk(database_url: str) -> Opener:
    """Return a function that opens a Frontdesk with these settings on an empty database."""

    @contextmanager
    def open_desk(**settings: Any) -> Iterator[Frontdesk]:
        with Frontdesk(Settings(database_url=database_url, service_name="pooled", **settings)) as desk:
            yield desk

    return open_desk


@pytest.fixture
def sessions(database_url: str) -> Callable[[], list[int]]:
    """Return a function that reads the process ids of the pool's sessions from the server."""

    def pids() -> list[int]:
        with psycopg.connect(database_url) as connection:
            rows = connection.execute(
                "SELECT pid FROM pg_stat_activity WHERE application_name = 'pooled'"
                " AND datname = current_database() ORDER BY pid"  # other test processes have sessions too
            )
            return [pid for (pid,) in rows]

    return pids


def acquire(desk: Frontdesk, count: int, stack: ExitStack) -> None:
    """Acquire connections until `stack` is closed."""
    for _ in range(count):
        stack.enter_context(desk.database.pool.connection(timeout=WAIT_TIMEOUT_SECONDS))


def metric(name: str) -> float:
    return REGISTRY.get_sample_value(f"frontdesk_db_pool_{name}") or 0.0


def test_the_pool_never_exceeds_its_maximum(open_desk: Opener, sessions: Callable[[], list[int]]) -> None:
    with open_desk() as desk:
        desk.company(1).upsert_company({"title": "Salon"}).unwrap()
        at_once([lambda: desk.company(1).get_company().unwrap()] * 30)
        assert 1 <= len(sessions()) <= 3
    wait_until(lambda: sessions() == [])


def test_a_call_fails_after_the_connection_timeout(open_desk: Opener) -> None:
    with open_desk(postgres_max_connections=2, postgres_connection_timeout=300) as desk, ExitStack() as stack:
        acquire(desk, 2, stack)
        began = time.monotonic()
        with Stopwatch() as watch:
            assert desk.company(1).get_company().error.code == "unavailable"
        assert time.monotonic() - began >= 0.3
        assert watch.seconds < 2


def test_idle_connections_above_the_minimum_are_closed(
    open_desk: Opener, sessions: Callable[[], list[int]]
) -> None:
    with open_desk(postgres_idle_timeout=300) as desk:
        with ExitStack() as stack:
            acquire(desk, 3, stack)
            wait_until(lambda: len(sessions()) == 3)  # closed sessions may remain for a moment
        wait_until(lambda: len(sessions()) == 1)
        time.sleep(0.7)
        assert len(sessions()) == 1


def test_connections_are_replaced_after_their_maximum_lifetime(
    open_desk: Opener, sessions: Callable[[], list[int]]
) -> None:
    with open_desk(postgres_max_lifetime=500) as desk:
        desk.database.pool.wait()
        first = sessions()
        time.sleep(0.6)

        def is_new() -> bool:
            desk.database.read(lambda connection: connection.execute("SELECT 1").fetchone())
            return bool(now := sessions()) and not set(now) & set(first)

        wait_until(is_new)


def test_sessions_have_the_configured_settings(open_desk: Opener) -> None:
    wanted = {
        "statement_timeout": "11s",
        "lock_timeout": "12s",
        "idle_in_transaction_session_timeout": "13s",
        "TimeZone": "UTC",
        "application_name": "pooled",
    }
    with open_desk(
        postgres_statement_timeout=11_000, postgres_lock_timeout=12_000, postgres_query_timeout=13_000
    ) as desk:
        for name, value in wanted.items():
            statement = f"SELECT current_setting('{name}')"
            single = desk.database.read(
                lambda connection, text=statement: connection.execute(text).fetchone()
            )
            with desk.unit_of_work(1) as uow:
                of_unit = uow.session.connection().exec_driver_sql(statement).scalar()
            assert (single, of_unit) == ((value,), value)


def test_the_pool_replaces_connections_that_are_lost_in_a_unit_of_work(
    open_desk: Opener, database_url: str
) -> None:
    def lose_the_connection(uow: UnitOfWork) -> None:
        mine = uow.session.connection().exec_driver_sql("SELECT pg_backend_pid()").scalar()
        with psycopg.connect(database_url, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s, 5000)", (mine,))
        uow.clients.count()

    with open_desk(postgres_max_connections=2, postgres_connection_timeout=2000) as desk:
        for _ in range(5):
            with pytest.raises(UnavailableError):
                desk.transact(1, lose_the_connection)
        assert desk.database.pool.in_use == 0
        with ExitStack() as stack:
            acquire(desk, 2, stack)


def test_each_episode_of_high_usage_is_logged_once(
    open_desk: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    def warnings() -> list[str]:
        return [each.getMessage() for each in caplog.records if each.name == "app.database.pool"]

    with caplog.at_level(logging.WARNING), open_desk(postgres_max_connections=5) as desk:
        with ExitStack() as stack:
            acquire(desk, 4, stack)
            assert warnings() == []
            for _ in range(20):
                with desk.database.pool.connection():
                    pass
        assert warnings() == ["The pool is above 80 %: 5 of 5 connections are in use, 0 requests are waiting"]
        with ExitStack() as stack:
            acquire(desk, 5, stack)
        assert len(warnings()) == 2


def test_warnings_about_frequent_high_usage_are_rate_limited(
    open_desk: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    before = metric("high_episodes_total")
    with caplog.at_level(logging.WARNING), open_desk(postgres_max_connections=1) as desk:
        for _ in range(100):
            desk.database.read(lambda connection: connection.execute("SELECT 1").fetchone())
    assert metric("high_episodes_total") == before + 100
    assert len([each for each in caplog.records if each.name == "app.database.pool"]) == 5


def test_gauges_are_exact_after_requests_have_timed_out(open_desk: Opener) -> None:
    maximum, in_use, timeouts = (
        metric("max_connections"),
        metric("in_use_connections"),
        metric("timeouts_total"),
    )
    with open_desk(postgres_max_connections=2, postgres_connection_timeout=200) as desk:
        with ExitStack() as stack:
            acquire(desk, 2, stack)
            assert metric("max_connections") == maximum + 2
            assert metric("in_use_connections") == in_use + 2
            at_once([lambda: desk.company(1).get_company()] * 3)
            assert metric("timeouts_total") == timeouts + 3
            assert (desk.database.pool.in_use, desk.database.pool.waiting) == (2, 0)
            assert metric("waiting_requests") == 0
        assert metric("in_use_connections") == in_use
    assert metric("max_connections") == maximum


def test_waiting_requests_are_counted(open_desk: Opener) -> None:
    with open_desk(postgres_max_connections=1) as desk:
        waiting: list[int] = []

        def hold() -> None:
            with desk.database.pool.connection():
                wait_until(lambda: desk.database.pool.waiting == 2)
                waiting.append(desk.database.pool.waiting)

        def read() -> None:
            wait_until(lambda: desk.database.pool.in_use == 1)
            desk.database.read(lambda connection: connection.execute("SELECT 1").fetchone())

        at_once([hold, read, read])
        assert waiting == [2]
        assert desk.database.pool.waiting == 0


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 warns about threads
def test_a_child_process_has_a_pool_of_its_own(open_desk: Opener, sessions: Callable[[], list[int]]) -> None:
    """After a fork, the child opens new connections, and the parent keeps its connections."""
    with open_desk() as desk:
        desk.company(1).upsert_company({"title": "Salon"}).unwrap()
        before = sessions()
        child = os.fork()
        if child == 0:
            succeeded = desk.company(1).get_company().success and desk.transact(1, lambda uow: True)
            in_use = {pool.max_size for pool in metrics.open_pools if pool is desk.database.pool}
            os._exit(0 if succeeded and in_use == {3} else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert desk.company(1).get_company().success
        assert set(before) <= set(sessions())


def test_a_unit_of_work_may_end_in_another_context(open_desk: Opener) -> None:
    """Some web frameworks run the two halves of a generator in different threads."""
    with open_desk() as desk:
        desk.company(1).upsert_company({"title": "Salon"}).unwrap()
        uow = desk.unit_of_work(1)
        contextvars.copy_context().run(uow.__enter__)
        uow.clients.upsert({"yclients_id": 1, "name": "Olga"})
        contextvars.copy_context().run(uow.__exit__, None, None, None)
        assert desk.database.pool.in_use == 0
        assert desk.company(1).get_client_by_id(1).unwrap() is not None


def test_a_pool_timeout_is_sent_to_sentry_once_with_its_tags(open_desk: Opener, sent: SentryRecorder) -> None:
    with open_desk(postgres_max_connections=1, postgres_connection_timeout=100) as desk, ExitStack() as stack:
        acquire(desk, 1, stack)
        with pytest.raises(FrontdeskError):
            desk.company(4711).get_client_by_id(1).unwrap()
    (event,) = sent.events
    assert (
        event["tags"].items()
        >= {
            "component": "data_layer",
            "operation": "get_client_by_id",
            "table": "clients",
            "backend": "postgresql",
            "company_id": 4711,
            "code": "unavailable",
        }.items()
    )
    assert event["tags"]["duration_ms"] >= 100
