"""Writers of all kinds at full speed while the database moves there and back: no write is lost."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from app.transfer.relay import drain
from app.transfer.sides import Side, SideName, Sides
from app.transfer.start import start
from app.transfer.status import status
from app.transfer.switch import switch
from tests.processes import PATIENCE, wait_until
from tests.transfer import writers
from tests.transfer.controllers import relaying
from tests.transfer.controllers import start as run
from tests.transfer.moving import copy_by_the_log, rows

ROOT = Path(__file__).parents[2]
Connection = psycopg.Connection[Any]


class Writers:
    """One process for each kind of writer, each with a company and a journal."""

    def __init__(self, sides: Sides, folder: Path, seed: int) -> None:
        self._sides, self._folder, self._seed = sides, folder, seed
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, company: int) -> None:
        """Start one, or start one again that was killed; it goes on where its journal ends."""
        kind = writers.KINDS[company % len(writers.KINDS)]
        urls = [side.url for side in self._sides]
        arguments = [str(self.journal(company)), str(company), kind, str(self._seed * 100 + company), *urls]
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
def writing(sides: Sides, folder: Path, seed: int, count: int = 4) -> Iterator[Writers]:
    """Writers at work, on a database that is being moved."""
    with psycopg.connect(sides.legacy.url) as connection:
        writers.seed(connection, count)
    all_of_them = Writers(sides, folder, seed)
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


def test_nothing_is_lost_on_the_way_there_and_back_and_there_again(sides: Sides, tmp_path: Path) -> None:
    with writing(sides, tmp_path, seed=1) as them:
        start(sides)
        copy_by_the_log(sides)
        relay = run(relaying, sides)
        try:
            for to in ("primary", "legacy", "primary"):
                let_them_write(them, 100)
                report = switch(sides, to, max_pause=10)  # a busy machine is no failure
                assert report.pause is not None
                with psycopg.connect(sides.named(to).url) as connection:
                    connection.execute(
                        "INSERT INTO archived_rows (table_name, row, reason) VALUES ('a', '{}', 'b')"
                    )
            let_them_write(them, 100)
        finally:
            relay.kill()
        check(sides, them, "primary")
