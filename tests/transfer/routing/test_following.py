"""Tests of processes that follow the live side during cutovers and rollbacks."""

import logging
import threading
import time

import pytest

from app import Frontdesk
from app.database import embedded_server, live_database, side_state
from app.errors import FencedError
from app.observability import sentry
from app.whatsapp.health_monitor import check_health
from app.yclients.api.rate_limit import RateLimiter
from tests.moves import COMPANY_ID, FakeTransfer, client, clients, sessions
from tests.processes import WAIT_TIMEOUT_SECONDS, wait_until
from tests.threads import at_once


def test_writers_follow_cutovers_and_rollbacks_without_losing_a_write(
    desk: Frontdesk, started: FakeTransfer
) -> None:
    written: dict[int, list[int]] = {n: [] for n in range(3)}
    stop = threading.Event()

    def write(worker: int) -> None:
        number = worker * 100_000
        while not stop.is_set():
            number += 1
            desk.company(COMPANY_ID).upsert_client(client(number)).unwrap()
            written[worker].append(number)

    def wait_for_more() -> None:
        before = [len(numbers) for numbers in written.values()]
        wait_until(
            lambda: all(len(now) > then + 2 for now, then in zip(written.values(), before, strict=True))
        )

    threads = [threading.Thread(target=write, args=(worker,)) for worker in written]
    for thread in threads:
        thread.start()
    urls = [started.legacy, started.primary]
    for round_ in range(4):
        wait_for_more()
        move_from, move_to = urls[round_ % 2], urls[1 - round_ % 2]
        started.set_state(move_from, "closing")
        time.sleep(0.05)  # time for a drain
        started.set_state(move_from, "standby")
        time.sleep(0.02)  # neither side is live
        started.set_state(move_to, "open")
    wait_for_more()
    stop.set()
    for thread in threads:
        thread.join()
    acknowledged = sorted(number for numbers in written.values() for number in numbers)
    stored = [clients(url) for url in urls]
    assert sorted(stored[0] + stored[1]) == acknowledged  # each exactly once


def test_reads_follow_the_live_side_within_a_second(desk: Frontdesk, started: FakeTransfer) -> None:
    assert desk.company(COMPANY_ID).get_company().unwrap().title == "legacy"
    started.hand_over(started.legacy, started.primary)
    time.sleep(live_database.REFRESH_INTERVAL_SECONDS)
    assert desk.company(COMPANY_ID).get_company().unwrap().title == "primary"
    assert live_database.REFRESH_INTERVAL_SECONDS < 1


def test_reads_wait_while_neither_side_is_live(desk: Frontdesk, started: FakeTransfer) -> None:
    started.set_state(started.legacy, "standby")

    def open_soon() -> None:
        time.sleep(0.3)
        started.set_state(started.primary, "open")

    def read() -> None:
        assert desk.company(COMPANY_ID).get_company().unwrap() is not None

    at_once([open_soon, read, read])
    assert desk.database.live_name == "primary"


def test_a_fenced_unit_of_work_raises_a_retryable_error_and_the_next_one_uses_the_live_side(
    desk: Frontdesk, started: FakeTransfer
) -> None:
    with pytest.raises(FencedError) as fenced, desk.unit_of_work(COMPANY_ID) as uow:  # noqa: PT012 - one unit of work
        uow.companies.get()
        started.hand_over(started.legacy, started.primary)
        uow.clients.upsert(client(1))
    assert fenced.value.retryable
    with desk.unit_of_work(COMPANY_ID) as uow:
        uow.clients.upsert(client(1))
    assert (clients(started.legacy), clients(started.primary)) == ([], [1])


def test_a_side_that_stays_closed_too_long_causes_a_retryable_error_and_no_warning(
    desk: Frontdesk, started: FakeTransfer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(live_database, "OPEN_TIMEOUT_SECONDS", 0.3)
    desk.company(COMPANY_ID).upsert_client(client(1)).unwrap()
    started.set_state(started.legacy, "closing")
    began = time.monotonic()
    error = desk.company(COMPANY_ID).upsert_client(client(2)).error
    assert error is not None
    assert (error.code, error.retryable) == ("fenced", True)
    assert 0.3 <= time.monotonic() - began < 5
    assert desk.company(COMPANY_ID).get_company().unwrap() is not None  # reads are still possible
    assert [line for line in caplog.records if line.levelno >= logging.WARNING] == []
    started.set_state(started.legacy, "open")  # the cutover was aborted
    desk.company(COMPANY_ID).upsert_client(client(2)).unwrap()
    assert clients(started.legacy) == [1, 2]


def test_only_the_live_side_has_connections(desk: Frontdesk, started: FakeTransfer) -> None:
    salon = desk.company(COMPANY_ID)
    for old, new in ((started.legacy, started.primary), (started.primary, started.legacy)):
        at_once([lambda: salon.get_company().unwrap()] * 8)
        assert 1 <= sessions(old) <= 3
        assert sessions(new) == 0
        started.hand_over(old, new)
        time.sleep(live_database.REFRESH_INTERVAL_SECONDS)
        salon.get_company().unwrap()
        wait_until(lambda left=old: sessions(left) == 0)


def test_a_busy_process_respects_its_connection_limit_and_its_checks_do_not_wait_for_the_pool(
    desk: Frontdesk, started: FakeTransfer, monkeypatch: pytest.MonkeyPatch
) -> None:
    salon = desk.company(COMPANY_ID)
    stop, seen = threading.Event(), list[int]()

    def work() -> None:
        while not stop.is_set():
            desk.database.read(lambda connection: connection.execute("SELECT pg_sleep(0.05)").fetchone())

    threads = [threading.Thread(target=work) for _ in range(9)]
    for thread in threads:
        thread.start()
    wait_until(lambda: sessions(started.legacy) >= 3)
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        seen.append(sessions(started.legacy))
    stop.set()
    for thread in threads:
        thread.join()
    assert max(seen) == 3
    held = [desk.database.pool.getconn() for _ in range(3)]
    time.sleep(live_database.REFRESH_INTERVAL_SECONDS)
    with monkeypatch.context() as patch:
        # A query for the live side would wait for one of the three pool connections.
        patch.setattr(side_state, "read_side", lambda database: pytest.fail("a check waits for the pool"))
        desk.database.connect_outside_pool(1_000).close()
    for connection in held:
        connection.close()
    salon.get_company().unwrap()


def test_a_caller_waiting_for_a_connection_to_the_old_side_gets_one_to_the_new_side(
    desk: Frontdesk, started: FakeTransfer
) -> None:
    salon = desk.company(COMPANY_ID)
    salon.get_company().unwrap()
    held = [desk.database.pool.getconn() for _ in range(3)]
    old = desk.database.pool
    done = threading.Thread(target=lambda: salon.upsert_client(client(1)).unwrap())
    done.start()
    wait_until(lambda: old.waiting == 1)
    started.hand_over(started.legacy, started.primary)
    time.sleep(live_database.REFRESH_INTERVAL_SECONDS)
    desk.database.live()
    done.join(WAIT_TIMEOUT_SECONDS)
    assert clients(started.primary) == [1]
    for connection in held:
        connection.close()


def test_the_rate_limiter_the_health_check_and_migrations_follow_the_live_side(
    desk: Frontdesk, started: FakeTransfer
) -> None:
    limiter = RateLimiter(desk.database, "moved.example")
    limiter.reserve()
    check_health(desk.database, desk.settings)
    started.hand_over(started.legacy, started.primary)
    limiter.reserve()
    limiter.pause(5)
    assert desk.database.live_name == "primary"
    check_health(desk.database, desk.settings)
    assert embedded_server.resolve_migration_url(desk.database.live().settings) == started.primary


def test_failures_are_tagged_with_the_live_side(desk: Frontdesk, started: FakeTransfer) -> None:
    for url, name in ((started.legacy, "legacy"), (started.primary, "primary")):
        desk.company(COMPANY_ID).upsert_client(client(1)).unwrap()
        assert sentry.backend == name
        started.hand_over(url, started.primary if name == "legacy" else started.legacy)
