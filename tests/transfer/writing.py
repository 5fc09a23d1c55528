"""Writers of all kinds at work while a test moves their database."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import psycopg

from app.transfer.protocol.endpoints import Side, Sides
from tests.processes import WAIT_TIMEOUT_SECONDS, wait_until
from tests.transfer import controllers
from tests.transfer.journals import Journal
from tests.transfer.writers import KINDS, write


class WriterProcesses:
    """A process for each kind of writer; the first has company 1, and each has a journal."""

    def __init__(self, sides: Sides, folder: Path, seed: int, delay: float, kinds: Sequence[str]) -> None:
        self._urls = [side.url for side in sides]
        self._folder, self._seed, self._delay = folder, seed, delay
        self.kinds = dict(enumerate(kinds, start=1))  # by company
        self._processes: dict[int, BaseProcess] = {}
        self._started = 0
        self._counted = dict.fromkeys(self.kinds, (0, 0))  # bytes of a journal, and acknowledgements in them

    def start(self, company: int) -> None:
        """Start one, or start one again that was killed; it goes on where its journal ends."""
        # Another seed for each: one that goes on would otherwise choose the same keys again.
        self._started += 1
        seed = 1000 * self._seed + self._started
        self._processes[company] = controllers.start(
            write, self._journal(company), company, self.kinds[company], seed, self._delay, self._urls
        )

    def kill(self, company: int) -> None:
        """`kill -9`, at whatever it is at."""
        self._processes[company].kill()
        self._processes[company].join()

    def wait_for_changes(self, changes: int = 0) -> None:
        """Wait until each has made so many more changes; without a number, all that it does."""
        wanted = {
            company: self._acknowledged(company) + (changes or KINDS[name].changes_per_cycle)
            for company, name in self.kinds.items()
        }
        wait_until(lambda: all(self._acknowledged(company) >= number for company, number in wanted.items()))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """While the block runs, nobody writes."""
        for company in self.kinds:
            self._file(company, "pause").touch()
        wait_until(lambda: all(self._is_paused(company) for company in self.kinds))
        yield
        for company in self.kinds:
            self._file(company, "pause").unlink()
        wait_until(lambda: not any(self._is_paused(company) for company in self.kinds))

    def stop(self) -> float:
        """Let all of them end; the longest time in seconds that one has waited for a transaction."""
        longest = 0.0
        for company, process in self._processes.items():
            self._file(company, "stop").touch()
            process.join(WAIT_TIMEOUT_SECONDS)
            assert process.exitcode == 0, self._said(company)
            longest = max(longest, json.loads(self._file(company, "done").read_text())["longest"])
        return longest

    def end(self) -> None:
        """Whatever is left of them."""
        for process in self._processes.values():
            process.kill()
            process.join()

    def check(self, side: Side) -> None:
        """What every journal says is there, and nothing else."""
        with psycopg.connect(side.url) as connection:
            for company, name in self.kinds.items():
                kind = KINDS[name]
                journal = Journal(self._journal(company), kind.empty)
                found = kind.read(connection, company)
                assert found in journal.allowed, name
                journal.close()

    def _acknowledged(self, company: int) -> int:
        """Changes so far. None of the writers may have found anything missing."""
        assert self._processes[company].is_alive(), self._said(company)
        size, count = self._counted[company]
        path = self._journal(company)
        if path.exists():
            with path.open("rb") as journal:
                journal.seek(size)
                new = journal.read()
            whole = new[: new.rfind(b"\n") + 1]
            count += sum(line.startswith(b"ack") for line in whole.splitlines())
            self._counted[company] = size + len(whole), count
        return count

    def _is_paused(self, company: int) -> bool:
        assert self._processes[company].is_alive(), self._said(company)
        return self._file(company, "paused").exists()

    def _said(self, company: int) -> str:
        return f"{self.kinds[company]}: {self._file(company, 'log').read_text()}"

    def _journal(self, company: int) -> Path:
        return self._folder / f"{company}.journal"

    def _file(self, company: int, word: str) -> Path:
        return Path(f"{self._journal(company)}.{word}")


@contextmanager
def running_writers(
    sides: Sides, folder: Path, seed: int = 1, delay: float = 0.0, kinds: Sequence[str] = tuple(KINDS)
) -> Iterator[WriterProcesses]:
    """A writer of each kind at work, on legacy at first; `delay`: seconds between small transactions."""
    crew = WriterProcesses(sides, folder, seed, delay, kinds)
    with psycopg.connect(sides.legacy.url) as connection:
        for company in crew.kinds:
            connection.execute("INSERT INTO companies (company_id, title) VALUES (%s, 'Salon')", (company,))
    try:
        for company in crew.kinds:
            crew.start(company)
        crew.wait_for_changes(1)
        yield crew
    finally:
        crew.end()
