"""All migrations while writers write: no stalled, failed or lost writes, also after kills."""

import logging
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import Engine, event

from app.migrations import runner
from tests.migrations import live
from tests.migrations.databases import Database
from tests.migrations.test_runs import alembic, finished

MAX_STALL_SECONDS = 0.25


@contextmanager
def announced_rewrites() -> Iterator[list[tuple[float, float]]]:
    """Yield the list of time windows from the log message of each rewrite to its commit."""
    windows: list[tuple[float, float]] = []
    begun: list[float] = []

    class Announcements(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith("Rewriting"):
                begun.append(time.monotonic())

    def committed(_: object) -> None:
        windows.extend((start, time.monotonic()) for start in begun)
        begun.clear()

    handler = Announcements()
    log = logging.getLogger("alembic.frontdesk")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    event.listen(Engine, "commit", committed)
    try:
        yield windows
    finally:
        event.remove(Engine, "commit", committed)
        log.removeHandler(handler)


@pytest.mark.parametrize(
    ("clients", "bookings"),
    [(2_000, 4_000), pytest.param(500_000, 1_000_000, marks=pytest.mark.full)],
)
def test_all_migrations_run_while_writers_write(old: Database, clients: int, bookings: int) -> None:
    live.fill(old, clients, bookings)
    with live.running_writers(old, clients, bookings) as watch, announced_rewrites() as windows:
        time.sleep(0.3)
        old.upgrade(dedupe="keep-earliest", rewrite="yes")
        time.sleep(0.3)
    old.check()
    assert watch.failures == []
    assert watch.lost == []
    assert len(windows) > 4  # rewrites of tables with rows
    assert watch.stalls(MAX_STALL_SECONDS, apart_from=windows) == []
    # Once the constraint is in force, duplicates fail with 23505. No other write fails.
    assert set(watch.refused) == {"staff_yclients_company_unique"}
    assert old.value("SELECT count(*) - count(DISTINCT (yclients_id, company_id)) FROM staff") == 0
    kept = old.value("SELECT count(*) FROM bookings")
    assert kept + len(old.archived("bookings")) == bookings
    assert old.value("SELECT count(*) FROM booking_services") == kept
    assert old.value("SELECT count(*) FROM clients WHERE company_id = 1 AND phone NOT LIKE '+7%%'") == 0


@pytest.mark.full
def test_a_repeatedly_killed_upgrade_continues_while_writers_write(old: Database) -> None:
    live.fill(old, 1_000, 2_000)
    chance, order = random.Random(7), list(reversed(runner.revisions()))
    killed = 0
    with live.running_writers(old, 1_000, 2_000, pause=0.01) as watch:
        for steps in (2, 4, 9, 13, 17, 20):
            deploy = alembic(old.url, "-x", "dedupe=keep-earliest", "upgrade", "head")
            while deploy.poll() is None and order.index(str(old.revision)) < steps:
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 0.2))
            deploy.kill()
            deploy.communicate()
            killed += deploy.returncode == -signal.SIGKILL
        assert killed > 3
        code, output = finished(alembic(old.url, "-x", "dedupe=keep-earliest", "upgrade", "head"))
        assert code == 0, output
    assert (watch.failures, watch.lost) == ([], [])
    old.check()
    assert old.value("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == 0
    assert old.value("SELECT count(*) FROM bookings") + len(old.archived("bookings")) == 2_000
