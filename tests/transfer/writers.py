"""Writer processes of all kinds, which detect lost writes.

Each writer has its own company. Before every change it checks that all acknowledged rows exist. It appends
each announced and each acknowledged change to a journal (journals.py).

A writer runs until the file JOURNAL.stop exists. While JOURNAL.pause exists it does not write, and confirms
this by creating JOURNAL.paused.
"""

import json
import os
import time
from collections.abc import Callable
from multiprocessing import parent_process
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import psycopg

from tests.transfer import driver_writer, psql_writer, salon_writer
from tests.transfer.journals import Journal, State


class Writer(Protocol):
    """A writer that follows the live side by itself."""

    def change(self) -> bool:
        """Make one change; return False if it must be retried."""

    def close(self) -> None:
        """Close the connections."""


class WriterKind(NamedTuple):
    """A kind of writer: its constructor, the initial state of its company, the function that reads the state,
    and the number of changes after which all of its actions have been used."""

    make: Callable[[list[str], int, str, Journal, int], Writer]
    empty: State
    read: Callable[[psycopg.Connection[Any], int], State]
    changes_per_cycle: int


FILES = ("stop", "pause", "paused", "log", "done")

KINDS: dict[str, WriterKind] = {
    **dict.fromkeys(
        driver_writer.KINDS,
        WriterKind(driver_writer.DriverWriter, driver_writer.EMPTY, driver_writer.read, 15),
    ),
    **dict.fromkeys(
        psql_writer.KINDS, WriterKind(psql_writer.PsqlWriter, psql_writer.EMPTY, psql_writer.read, 15)
    ),
    salon_writer.KIND: WriterKind(salon_writer.SalonWriter, salon_writer.EMPTY, salon_writer.read, 44),
}


def write(path: Path, company: int, name: str, seed: int, delay: float, urls: list[str]) -> None:
    """Run a writer in this process until it is stopped.

    Args:
        path: The journal.
        company: The writer's company.
        name: A key of KINDS.
        seed: Seed of its random choices.
        delay: Seconds between two small transactions.
        urls: Legacy and primary.
    """
    stop, pause, paused, log, done = (Path(f"{path}.{word}") for word in FILES)
    os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT), 2)
    kind = KINDS[name]
    writer = kind.make(urls, company, name, Journal(path, kind.empty), seed)
    longest, last = 0.0, time.monotonic()
    test = parent_process()
    while not stop.exists() and (test is None or test.is_alive()):
        if pause.exists():
            paused.touch()
            time.sleep(0.01)
            last = time.monotonic()
            continue
        paused.unlink(missing_ok=True)
        if writer.change():
            now = time.monotonic()
            longest, last = max(longest, now - last), now
            time.sleep(delay if name != salon_writer.KIND else 0)
    writer.close()
    done.write_text(json.dumps({"longest": longest}))
