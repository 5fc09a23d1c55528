"""Tests of shadow reads: they do not delay callers, and races do not count as divergences."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from prometheus_client import REGISTRY

from app import Frontdesk, Settings
from app.transfer.cutover.cutover import change_live_side
from app.transfer.protocol.endpoints import Side, Sides
from app.transfer.relay.relay import relay
from app.transfer.start import start
from app.transfer.verification import shadow_reads
from app.transfer.verification.divergence_monitor import DivergenceMonitor
from tests.processes import WAIT_TIMEOUT_SECONDS, wait_until
from tests.servers import execute
from tests.stopwatch import Stopwatch
from tests.transfer.moving import copy_by_change_log

SALON = 962302
PAUSE_SECONDS = 0.02  # between the operations of a thread, so that other tests get CPU time


@pytest.fixture(scope="module")
def moving(new_database: Callable[[], str]) -> Sides:
    sides = Sides(Side("legacy", new_database()), Side("primary", new_database()))
    execute(
        sides.legacy.url,
        f"INSERT INTO companies (company_id, title) VALUES ({SALON}, 'Salon')",
        "INSERT INTO staff (company_id, yclients_id, name)"
        f" SELECT {SALON}, n, 'A' FROM generate_series(1, 9) AS n",
    )
    start(sides)
    copy_by_change_log(sides)
    return sides


@pytest.fixture
def relaying(moving: Sides) -> Iterator[Sides]:
    """The sides of `moving` with a running relay."""
    stop = threading.Event()
    thread = threading.Thread(target=relay, args=(moving, stop))
    thread.start()
    yield moving
    stop.set()
    thread.join()


@pytest.fixture
def desk(moving: Sides, monkeypatch: pytest.MonkeyPatch) -> Iterator[Frontdesk]:
    monkeypatch.setattr(shadow_reads, "RELAY_TIMEOUT_SECONDS", WAIT_TIMEOUT_SECONDS)
    settings = Settings(
        database_url=moving.primary.url, legacy_database_url=moving.legacy.url, transfer_compare_reads=1
    )
    with Frontdesk(settings) as desk:
        assert desk._shadow_reader is not None
        desk._shadow_reader.comparer._monitor = DivergenceMonitor()
        yield desk


def seen(desk: Frontdesk) -> tuple[int, int]:
    """Return the numbers of compared and of differing reads."""
    assert desk._shadow_reader is not None
    recent = desk._shadow_reader.comparer._monitor.recent()
    return recent.compared, recent.differed


def not_compared() -> float:
    return REGISTRY.get_sample_value("frontdesk_transfer_reads_not_compared_total") or 0


def test_equal_reads_are_counted_as_compared_and_not_as_differing(desk: Frontdesk, relaying: Sides) -> None:
    for _ in range(5):
        assert len(desk.company(SALON).get_staff().unwrap()) == 9
    wait_until(lambda: seen(desk)[0] >= 5)
    assert seen(desk)[1] == 0


def test_a_differing_row_is_reported_with_its_table_and_id(desk: Frontdesk, relaying: Sides) -> None:
    with psycopg.connect(relaying.primary.url, autocommit=True) as standby:
        set_name(standby, 3, "B")
    try:
        assert desk.company(SALON).get_staff_by_id(3).unwrap().name == "A"
        wait_until(lambda: seen(desk)[1] == 1)
        assert desk._shadow_reader is not None
        ((_, keys),) = [read for read in desk._shadow_reader.comparer._monitor._seen if read[1]]
        (key,) = keys
        assert key.startswith("staff ")
    finally:
        with psycopg.connect(relaying.primary.url, autocommit=True) as standby:
            set_name(standby, 3, "A")


def set_name(connection: psycopg.Connection[Any], yclients_id: int, name: str) -> None:
    """Change a name as the relay does: bypass the fence, without an entry in the change log."""
    with connection.transaction():
        connection.execute("SELECT set_config('frontdesk_transfer.relay', pg_current_xact_id()::text, true)")
        connection.execute("UPDATE staff SET name = %s WHERE yclients_id = %s", (name, yclients_id))


def test_writes_that_are_not_applied_yet_are_not_divergences(desk: Frontdesk, moving: Sides) -> None:
    """The relay starts after the mismatch, whose recheck waits for it."""
    execute(moving.legacy.url, "UPDATE staff SET name = 'C' WHERE yclients_id = 4")
    assert desk.company(SALON).get_staff_by_id(4).unwrap().name == "C"
    time.sleep(0.3)
    stop = threading.Event()
    thread = threading.Thread(target=relay, args=(moving, stop))
    thread.start()
    wait_until(lambda: seen(desk)[0] >= 1)
    stop.set()
    thread.join()
    assert seen(desk)[1] == 0


def test_a_read_counts_as_not_compared_if_the_relay_does_not_run(
    desk: Frontdesk, moving: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow_reads, "RELAY_TIMEOUT_SECONDS", 0.2)
    execute(moving.legacy.url, "UPDATE staff SET name = 'D' WHERE yclients_id = 5")
    before = not_compared()
    desk.company(SALON).get_staff_by_id(5).unwrap()
    wait_until(lambda: not_compared() > before)
    assert seen(desk)[1] == 0


def test_concurrent_writes_a_cutover_and_a_rollback_cause_no_divergences(
    desk: Frontdesk, relaying: Sides
) -> None:
    stop = threading.Event()
    salon = desk.company(SALON)

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            salon.upsert_staff([{"yclients_id": n, "name": f"{number}"} for n in range(1, 6)]).unwrap()
            stop.wait(PAUSE_SECONDS)

    def read() -> None:
        while not stop.is_set():
            salon.get_staff().unwrap()
            salon.get_staff_by_id(2).unwrap()
            stop.wait(PAUSE_SECONDS)

    def wait_for_more() -> None:
        before = seen(desk)[0]
        wait_until(lambda: seen(desk)[0] > before)

    threads = [threading.Thread(target=target) for target in (write, read)]
    for thread in threads:
        thread.start()
    wait_for_more()
    change_live_side(relaying, "primary", max_pause=10)
    wait_for_more()
    change_live_side(relaying, "legacy", max_pause=10)
    wait_for_more()
    stop.set()
    for thread in threads:
        thread.join()
    assert seen(desk)[1] == 0


def test_a_slow_standby_does_not_delay_the_caller(desk: Frontdesk, moving: Sides) -> None:
    salon = desk.company(SALON)
    salon.get_staff().unwrap()
    wait_until(lambda: sum(seen(desk)) > 0)
    before = not_compared()
    with psycopg.connect(moving.primary.url) as blocker:
        blocker.execute("LOCK TABLE staff IN ACCESS EXCLUSIVE MODE")
        with Stopwatch() as watch:
            for _ in range(shadow_reads.QUEUE_SIZE + 50):
                salon.get_staff().unwrap()
        # A comparison waits for the standby until this timeout.
        assert watch.seconds < shadow_reads.STATEMENT_TIMEOUT_MS / 1000
        assert not_compared() >= before + 40  # samples were dropped because the queue was full
