"""Writers of all kinds at full speed while the database moves there and back: no write is lost."""

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

from app.database import migrations
from app.transfer.relay import drain
from app.transfer.sides import Side, SideName, Sides
from app.transfer.start import start
from app.transfer.status import status
from app.transfer.switch import switch
from tests.servers import Server, execute, url_of
from tests.transfer.controllers import POINTS, WHEN, relaying, switching
from tests.transfer.controllers import start as run
from tests.transfer.moving import copy_by_the_log, patiently_switch, rows
from tests.transfer.writing import Writers, let_them_write, writing


def check(sides: Sides, them: Writers, live: SideName) -> None:
    them.stop()
    drain(sides)
    assert status(sides).in_the_way == []
    them.check(sides.named(live))
    assert rows(sides.legacy) == rows(sides.primary)


def move_under_load(sides: Sides, folder: Path, transactions: int, rest: float = 0.0) -> None:
    """There, back, and there again, with writers at work."""
    directions: tuple[SideName, ...] = ("primary", "legacy", "primary")
    with writing(sides, folder, 1, rest) as them:
        start(sides)
        copy_by_the_log(sides)
        relay = run(relaying, sides)
        try:
            for to in directions:
                let_them_write(them, transactions)
                assert switch(sides, to, max_pause=10).pause is not None  # a busy machine is no failure
                with psycopg.connect(sides.named(to).url) as connection:  # its sequences hand out fresh ids
                    connection.execute(
                        "INSERT INTO archived_rows (table_name, row, reason) VALUES ('a', '{}', 'b')"
                    )
            let_them_write(them, transactions)
        finally:
            relay.kill()
        check(sides, them, "primary")


def test_nothing_is_lost_on_the_way_there_and_back_and_there_again(sides: Sides, tmp_path: Path) -> None:
    move_under_load(sides, tmp_path, transactions=30, rest=0.02)


OLD = Path("/usr/lib/postgresql/15/bin")  # Debian's place


@pytest.fixture
def old_server() -> Iterator[str]:
    """The libpq URL of a PostgreSQL 15 of this test's own."""
    folder = Path(tempfile.mkdtemp(prefix="fd15"))
    user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
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
@pytest.mark.skipif(not OLD.exists(), reason="there is no PostgreSQL 15 on this machine")
def test_nothing_is_lost_between_major_versions(
    old_server: str, new_database: Callable[[], str], tmp_path: Path
) -> None:
    execute(old_server, "CREATE DATABASE moved")
    legacy = Side("legacy", url_of(old_server, "moved"))
    migrations.upgrade(legacy.url)
    move_under_load(Sides(legacy, Side("primary", new_database())), tmp_path, transactions=100)


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Server, Server]]:
    """Two servers that tests may kill and freeze."""
    pair = (Server(), Server())
    yield pair
    for server in pair:
        server.delete()


@pytest.fixture
def apart(servers: tuple[Server, Server]) -> Iterator[Sides]:
    """Two databases at head, on two servers."""
    urls = []
    for server in servers:
        execute(server.url, "CREATE DATABASE moved")
        urls.append(url_of(server.url, "moved"))
        migrations.upgrade(urls[-1])
    yield Sides(Side("legacy", urls[0]), Side("primary", urls[1]))
    for server in servers:
        execute(server.url, "DROP DATABASE moved WITH (FORCE)")


@pytest.mark.full
@pytest.mark.parametrize("seed", range(1, 6))
def test_nothing_is_lost_whatever_is_killed_or_frozen(
    apart: Sides, servers: tuple[Server, Server], tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    directions: tuple[SideName, ...] = ("primary", "legacy")
    with writing(apart, tmp_path, seed) as them:
        start(apart)
        copy_by_the_log(apart)
        relay = run(relaying, apart)
        for round_ in range(10):
            to = directions[round_ % 2]
            let_them_write(them, 30)
            step = (chance.choice(list(POINTS)), chance.choice(WHEN))
            with_ = chance.choice([signal.SIGKILL, signal.SIGSTOP])
            switching_ = run(switching, apart, to, at=(*step, with_)) if chance.random() < 0.7 else None
            match chance.choice(["writer", "relay", "server", "freeze", "nothing"]):
                case "writer":
                    company = chance.randint(1, 4)
                    them.kill(company)
                    them.start(company)
                case "relay":
                    relay.kill()
                    relay.join()
                    relay = run(relaying, apart)
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
            patiently_switch(apart, to)
            if switching_ is not None and switching_.is_alive():
                psutil.Process(switching_.pid).resume()
                switching_.join(60)
            patiently_switch(apart, to)
        let_them_write(them, 30)
        relay.kill()
        check(apart, them, to)
