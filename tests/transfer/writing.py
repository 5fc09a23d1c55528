"""A writer of each kind at work, in processes of their own, while a database is moved."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from app.transfer.sides import Side, Sides
from tests.processes import PATIENCE, wait_until
from tests.transfer import writers

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
