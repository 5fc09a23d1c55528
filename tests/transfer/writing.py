"""Control of the writer processes that run while a test transfers their database."""

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
    """One process with a journal for each kind of writer. The companies are numbered from 1."""

    def __init__(self, sides: Sides, folder: Path, seed: int, delay: float, kinds: Sequence[str]) -> None:
        self._urls = [side.url for side in sides]
        self._folder, self._seed, self._delay = folder, seed, delay
        self.kinds = dict(enumerate(kinds, start=1))  # by company
        self._processes: dict[int, BaseProcess] = {}
        self._started = 0
        # By company: the bytes of the journal that were read, and the acknowledgements in them.
        self._counted = dict.fromkeys(self.kinds, (0, 0))

    def start(self, company: int) -> None:
        """Start a writer, or restart a killed one, which continues where its journal ends."""
        # Every start has its own seed: a restarted writer would otherwise choose the same keys again.
        self._started += 1
        seed = 1000 * self._seed + self._started
        self._processes[company] = controllers.start(
            write, self._journal(company), company, self.kinds[company], seed, self._delay, self._urls
        )

    def kill(self, company: int) -> None:
        """Kill a writer with SIGKILL."""
        self._processes[company].kill()
        self._processes[company].join()

    def wait_for_changes(self, changes: int = 0) -> None:
        """Wait until each writer has made `changes` more changes.

        Without a number, wait until each writer has used all of its actions.
        """
        targets = {
            company: self._acknowledged(company) + (changes or KINDS[name].changes_per_cycle)
            for company, name in self.kinds.items()
        }
        wait_until(lambda: all(self._acknowledged(company) >= number for company, number in targets.items()))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Pause all writers while the `with` block runs."""
        for company in self.kinds:
            self._file(company, "pause").touch()
        wait_until(lambda: all(self._is_paused(company) for company in self.kinds))
        yield
        for company in self.kinds:
            self._file(company, "pause").unlink()
        wait_until(lambda: not any(self._is_paused(company) for company in self.kinds))

    def stop(self) -> float:
        """Stop all writers; return the longest time between two changes of a writer, in seconds."""
        longest = 0.0
        for company, process in self._processes.items():
            self._file(company, "stop").touch()
            process.join(WAIT_TIMEOUT_SECONDS)
            assert process.exitcode == 0, self._log_of(company)
            longest = max(longest, json.loads(self._file(company, "done").read_text())["longest"])
        return longest

    def end(self) -> None:
        """Kill the writers that are still running."""
        for process in self._processes.values():
            process.kill()
            process.join()

    def check(self, side: Side) -> None:
        """Check that the side holds exactly what the journals allow."""
        with psycopg.connect(side.url) as connection:
            for company, name in self.kinds.items():
                kind = KINDS[name]
                journal = Journal(self._journal(company), kind.empty)
                state = kind.read(connection, company)
                assert state in journal.allowed, name
                journal.close()

    def _acknowledged(self, company: int) -> int:
        """Return the number of acknowledged changes. Fails if the writer has exited after a lost write."""
        assert self._processes[company].is_alive(), self._log_of(company)
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
        assert self._processes[company].is_alive(), self._log_of(company)
        return self._file(company, "paused").exists()

    def _log_of(self, company: int) -> str:
        return f"{self.kinds[company]}: {self._file(company, 'log').read_text()}"

    def _journal(self, company: int) -> Path:
        return self._folder / f"{company}.journal"

    def _file(self, company: int, word: str) -> Path:
        return Path(f"{self._journal(company)}.{word}")


@contextmanager
def running_writers(
    sides: Sides, folder: Path, seed: int = 1, delay: float = 0.0, kinds: Sequence[str] = tuple(KINDS)
) -> Iterator[WriterProcesses]:
    """Run one writer of each kind, on legacy at first. `delay` is in seconds, between small transactions."""
    writers = WriterProcesses(sides, folder, seed, delay, kinds)
    with psycopg.connect(sides.legacy.url) as connection:
        for company in writers.kinds:
            connection.execute("INSERT INTO companies (company_id, title) VALUES (%s, 'Salon')", (company,))
    try:
        for company in writers.kinds:
            writers.start(company)
        writers.wait_for_changes(1)
        yield writers
    finally:
        writers.end()
