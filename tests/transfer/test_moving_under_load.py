"""Tests of a whole transfer with a rollback and a second cutover under all kinds of writers."""

import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
from alembic import command

from app.migrations import runner
from app.transfer.copying.copy import copy
from app.transfer.cutover.cutover import change_live_side
from app.transfer.finish import finish
from app.transfer.protocol.endpoints import Side, SideName, Sides
from app.transfer.protocol.status import read_status
from app.transfer.relay.relay import drain
from app.transfer.start import start
from app.transfer.verification.verify import verify
from tests.processes import wait_until
from tests.servers import Server, execute, url_of
from tests.transfer.controllers import POINTS, WHEN, run_relay, run_switch
from tests.transfer.controllers import start as run
from tests.transfer.moving import copy_by_change_log, rows, switch_with_retries
from tests.transfer.writing import WriterProcesses, running_writers


@pytest.fixture
def apart(servers: tuple[Server, Server]) -> Iterator[Sides]:
    """Two databases at the latest revision, on two servers."""
    urls = []
    for server in servers:
        execute(server.url, "CREATE DATABASE moved")
        urls.append(url_of(server.url, "moved"))
        runner.upgrade(urls[-1])
    yield Sides(Side("legacy", urls[0]), Side("primary", urls[1]))
    for server in servers:
        execute(server.url, "DROP DATABASE moved WITH (FORCE)")


GENERATED = """
    SELECT * FROM (
        SELECT 'public.' || table_name, column_name, pg_get_serial_sequence(table_name, column_name)
        FROM information_schema.columns WHERE table_schema = 'public'
    ) AS columns (name, column_name, sequence) WHERE sequence IS NOT NULL
"""


def generated(side: Side) -> dict[str, tuple[int, int]]:
    """Return, for each column with a sequence, its highest value and the last value of the sequence."""
    numbers = {}
    with psycopg.connect(side.url) as connection:
        for table, column, sequence in connection.execute(GENERATED).fetchall():
            # The statement reads the sequence last, so that concurrent inserts cannot make it look behind.
            row = connection.execute(
                f"SELECT highest, coalesce(pg_sequence_last_value('{sequence}'), 0)"
                f" FROM (SELECT coalesce(max({column}), 0) AS highest FROM {table} OFFSET 0) AS own"
            ).fetchone()
            assert row is not None
            numbers[table] = (row[0], row[1])
    assert numbers
    return numbers


class LiveSideCheck:
    """Checks of the new live side after a cutover: it generates unused ids, and all tables are written."""

    def __init__(self, side: Side) -> None:
        self._side = side
        self._generated = generated(side)
        self._rows = rows(side)
        repeated = {table for table, (highest, last) in self._generated.items() if highest > last}
        assert repeated == set(), "a sequence would generate existing ids"

    def check(self) -> None:
        """Check that every table was written since construction; tables with sequences got new rows."""
        numbers, now = generated(self._side), rows(self._side)
        untouched = {table for table in now.keys() - numbers.keys() if now[table] == self._rows[table]}
        untouched |= {table for table in numbers if numbers[table][1] <= self._generated[table][1]}
        assert untouched == set()


def check(sides: Sides, writers: WriterProcesses, live: SideName) -> None:
    """Check that the live side has all acknowledged writes and that the sides are equal."""
    drain(sides)
    assert read_status(sides).in_the_way == []
    writers.check(sides.named(live))
    assert rows(sides.legacy) == rows(sides.primary)


def salons_on(side: Side) -> int:
    """Return the number of sessions of data layers on the side."""
    with psycopg.connect(side.url) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE application_name LIKE 'salon-%' AND datname = current_database()"
        ).fetchone()
    assert row is not None
    return int(row[0])


def move_under_load(sides: Sides, folder: Path, changes: int, rest: float = 0.0) -> None:
    """Run a whole transfer with cutover, rollback and second cutover while writers are active.

    Between the steps, each writer makes `changes` changes.
    """
    directions: tuple[SideName, ...] = ("primary", "legacy", "primary")
    with running_writers(sides, folder, delay=rest) as writers:
        writers.wait_for_changes(changes)
        start(sides)
        assert copy(sides).is_complete
        relay = run(run_relay, sides)
        try:
            for to in directions:
                left = sides.other(sides.named(to))
                writers.wait_for_changes(changes)
                # A long pause is allowed, so that the test passes on a busy machine.
                assert change_live_side(sides, to, max_pause=10).pause is not None
                live_side = LiveSideCheck(sides.named(to))
                writers.wait_for_changes()
                with writers.paused():
                    check(sides, writers, to)
                    live_side.check()
                    # The data layer has closed its connections to the other side.
                    wait_until(lambda left=left: salons_on(left) == 0)
            assert verify(sides).is_equal
            finish(sides)
            writers.wait_for_changes(changes)
        finally:
            relay.kill()
        writers.stop()
        writers.check(sides.primary)
        for side in sides:
            command.check(runner.alembic_config(side.url))  # raises if the schema differs from the models


@pytest.mark.parametrize(
    ("changes", "rest"),
    [
        pytest.param(3, 0.1, id="slow writers"),
        pytest.param(100, 0, id="writers at full speed", marks=pytest.mark.full),
    ],
)
def test_no_write_is_lost_by_a_cutover_a_rollback_and_a_second_cutover(
    apart: Sides, tmp_path: Path, changes: int, rest: float
) -> None:
    move_under_load(apart, tmp_path, changes, rest)


OLD = Path("/usr/lib/postgresql/15/bin")  # the path on Debian


@pytest.fixture
def old_server() -> Iterator[str]:
    """The libpq URL of a temporary PostgreSQL 15 server."""
    folder = Path(tempfile.mkdtemp(prefix="fd15"))
    user = "postgres" if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
    if user:
        shutil.chown(folder, user)

    def call(*command: str | Path) -> None:
        subprocess.run(command, check=True, user=user, cwd=folder, stdout=subprocess.DEVNULL)

    call(
        OLD / "initdb", "-D", folder / "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale", "C"
    )
    options = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off"
    call(OLD / "pg_ctl", "-D", folder / "data", "-l", folder / "log", "-w", "-o", options, "start")
    yield f"postgresql://postgres@/postgres?host={folder}"
    call(OLD / "pg_ctl", "-D", folder / "data", "-m", "immediate", "stop")
    shutil.rmtree(folder)


@pytest.mark.full
@pytest.mark.skipif(not OLD.exists(), reason="PostgreSQL 15 is not installed")
def test_no_write_is_lost_between_major_versions(
    old_server: str, new_database: Callable[[], str], tmp_path: Path
) -> None:
    execute(old_server, "CREATE DATABASE moved")
    legacy = Side("legacy", url_of(old_server, "moved"))
    runner.upgrade(legacy.url)
    move_under_load(Sides(legacy, Side("primary", new_database())), tmp_path, changes=20, rest=0.01)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(1, 6))
def test_no_write_is_lost_if_processes_or_servers_are_killed_or_frozen(
    apart: Sides, servers: tuple[Server, Server], tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    directions: tuple[SideName, ...] = ("primary", "legacy")
    with running_writers(apart, tmp_path, seed, delay=0.05) as writers:
        start(apart)
        copy_by_change_log(apart)
        relay = run(run_relay, apart)
        for round_ in range(10):
            to = directions[round_ % 2]
            writers.wait_for_changes(5)
            step = (chance.choice(list(POINTS)), chance.choice(WHEN))
            with_ = chance.choice([signal.SIGKILL, signal.SIGSTOP])
            switching_ = run(run_switch, apart, to, at=(*step, with_)) if chance.random() < 0.7 else None
            match chance.choice(["writer", "relay", "server", "freeze", "nothing"]):
                case "writer":
                    company = chance.choice(list(writers.kinds))
                    writers.kill(company)
                    writers.start(company)
                case "relay":
                    relay.kill()
                    relay.join()
                    relay = run(run_relay, apart)
                case "server":
                    time.sleep(chance.uniform(0, 0.5))
                    server = chance.choice(servers)
                    server.kill()
                    time.sleep(chance.uniform(0, 1))
                    server.start()
                case "freeze":
                    time.sleep(chance.uniform(0, 0.5))
                    server = chance.choice(servers)
                    server.freeze()
                    time.sleep(chance.uniform(0.1, 2))
                    server.thaw()
            switch_with_retries(apart, to)
            if switching_ is not None and switching_.is_alive():
                psutil.Process(switching_.pid).resume()
                switching_.join(60)
            switch_with_retries(apart, to)
        writers.wait_for_changes()
        writers.stop()
        relay.kill()
        check(apart, writers, to)
