"""Writers of all kinds at full speed while the database moves there and back: no write is lost."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from tests.processes import PATIENCE, wait_until
from tests.servers import Server, execute, url_of
from tests.transfer import writers
from tests.transfer.controllers import POINTS, WHEN, relaying, switching
from tests.transfer.controllers import start as run
from tests.transfer.moving import copy_by_the_log, patiently_switch, rows

ROOT = Path(__file__).parents[2]


class Writers:
    """One process for each kind of writer, each with a company and a journal."""

    def __init__(self, sides: Sides, folder: Path, seed: int, rest: float) -> None:
        self._sides, self._folder, self._seed, self._rest = sides, folder, seed, rest
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._started = 0

    def start(self, company: int) -> None:
        """Start one, or start one again that was killed; it goes on where its journal ends."""
        kind = writers.KINDS[company % len(writers.KINDS)]
        urls = [side.url for side in self._sides]
        # Another seed for each: one that goes on would otherwise choose the same keys again.
        self._started += 1
        seed = str(1000 * self._seed + self._started)
        arguments = [str(self.journal(company)), str(company), kind, seed, str(self._rest), *urls]
        with self.journal(company).with_suffix(".log").open("ab") as log:
            self._processes[company] = subprocess.Popen(
                [sys.executable, "-m", "tests.transfer.writers", *arguments], cwd=ROOT, stderr=log
            )

    def journal(self, company: int) -> Path:
        return self._folder / f"{company}.journal"

    def kill(self, company: int) -> None:
        """`kill -9`, at whatever it is at."""
        self._processes[company].kill()
        self._processes[company].wait()

    def alive(self) -> None:
        """None of them has found anything missing."""
        for company, process in self._processes.items():
            assert process.poll() is None, self.journal(company).with_suffix(".log").read_text()

    def acknowledged(self) -> int:
        """Transactions so far, of all."""
        return sum(
            self.journal(company).read_text().count("ack")
            for company in self._processes
            if self.journal(company).exists()
        )

    def stop(self) -> float:
        """Let all of them end; the longest time in seconds that one has waited for a transaction."""
        longest = 0.0
        for company, process in self._processes.items():
            Path(f"{self.journal(company)}.stop").touch()
            assert process.wait(PATIENCE) == 0, self.journal(company).with_suffix(".log").read_text()
            longest = max(longest, json.loads(Path(f"{self.journal(company)}.done").read_text())["longest"])
        return longest

    def end(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()

    def check(self, side: Side) -> None:
        """What every journal says is there, and nothing else."""
        with psycopg.connect(side.url) as connection:
            for company in self._processes:
                found = writers.read(connection, company)
                assert found in writers.Journal(self.journal(company)).allowed


@contextmanager
def writing(sides: Sides, folder: Path, seed: int, rest: float = 0.0) -> Iterator[Writers]:
    """A writer of each kind at work; `rest`: seconds between its transactions."""
    count = len(writers.KINDS)
    with psycopg.connect(sides.legacy.url) as connection:
        writers.seed(connection, count)
    all_of_them = Writers(sides, folder, seed, rest)
    try:
        for company in range(1, count + 1):
            all_of_them.start(company)
        wait_until(lambda: all_of_them.acknowledged() > 20)
        yield all_of_them
    finally:
        all_of_them.end()


def let_them_write(them: Writers, transactions: int) -> None:
    wanted = them.acknowledged() + transactions
    wait_until(lambda: them.acknowledged() >= wanted)
    them.alive()


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
