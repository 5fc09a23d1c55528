"""Writers of all kinds, a process each, that know what they have been promised.

A writer owns a company. It checks everything that was acknowledged before every change, and appends what it
is about to do and what was acknowledged to a journal (journals.py).

It writes until there is a file JOURNAL.stop, and rests while there is a file JOURNAL.pause, which it answers
with JOURNAL.paused.
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
    """One writer, which follows the live side by itself."""

    def change(self) -> bool:
        """One change; False where it has to be tried again."""

    def close(self) -> None:
        """Let go of the servers."""


class WriterKind(NamedTuple):
    """How a writer is made, what its company holds at first, how that is read, and after how many changes
    it has done all that it does."""

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
    """Write in this process, as the kind of that name; `delay`: seconds between two small transactions."""
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
