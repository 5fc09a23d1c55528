"""Processes of the assistant during a whole move: they follow by themselves, and find what they wrote."""

import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from app.transfer.finish import finish
from app.transfer.relay import relay
from app.transfer.sides import Side, SideName, Sides
from app.transfer.start import start
from app.transfer.switch import switch
from tests.processes import Process, wait_until
from tests.transfer.moving import copy_by_the_log

ROOT = Path(__file__).parents[2]
COMPANIES = (1, 2)


class Workers:
    """One process for each company."""

    def __init__(self, sides: Sides, folder: Path) -> None:
        urls = [side.url for side in sides]
        self._processes = {
            company: Process(
                [sys.executable, "-m", "tests.transfer.salon_worker", str(company), *urls],
                folder / f"{company}.txt",
                ROOT,
            )
            for company in COMPANIES
        }

    def work_on(self) -> None:
        """Wait until each has done some more."""
        before = self._done()
        wait_until(lambda: all(now > then + 1 for now, then in zip(self._done(), before, strict=True)))

    def stop(self) -> dict[int, dict[str, int]]:
        """Let all of them end; what each was promised."""
        promised = {}
        for company, process in self._processes.items():
            process.send(signal.SIGTERM)
            assert process.wait() == 0, process.output
            promised[company] = json.loads(process.output.splitlines()[-1])
        return promised

    def kill(self) -> None:
        for process in self._processes.values():
            process.end()

    def _done(self) -> list[int]:
        outputs = [process.output for process in self._processes.values()]
        assert not any("Traceback" in output for output in outputs), outputs
        return [output.count("done\n") for output in outputs]


@contextmanager
def relaying(sides: Sides) -> Iterator[None]:
    """A relay that runs beside everything else."""
    stop = threading.Event()
    thread = threading.Thread(target=relay, args=(sides, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.fixture
def workers(sides: Sides, tmp_path: Path) -> Iterator[Workers]:
    with psycopg.connect(sides.legacy.url) as connection:
        for company in COMPANIES:
            connection.execute("INSERT INTO companies (company_id, title) VALUES (%s, 'Salon')", (company,))
            connection.execute(
                "INSERT INTO staff (company_id, yclients_id, name) VALUES (%s, 7, 'Olga')", (company,)
            )
    workers = Workers(sides, tmp_path)
    yield workers
    workers.kill()


def sessions(side: Side) -> int:
    with psycopg.connect(side.url) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE application_name LIKE 'worker-%' AND datname = current_database()"
        ).fetchone()
    assert row
    return int(row[0])


def found(side: Side, company: int) -> dict[str, int]:
    with psycopg.connect(side.url) as connection:
        row = connection.execute(
            "SELECT (SELECT visit_count FROM clients WHERE company_id = %(c)s AND yclients_id = 1),"
            " (SELECT count(*) FROM clients WHERE company_id = %(c)s),"
            " (SELECT count(*) FROM bookings WHERE company_id = %(c)s),"
            " (SELECT min((convert_from(value, 'UTF8')::jsonb ->> 'n')::int) FROM whatsapp_keys"
            " WHERE company_id = %(c)s)",
            {"c": company},
        ).fetchone()
    assert row
    return dict(zip(("visits", "clients", "bookings", "keys"), row, strict=True))


def test_the_services_follow_a_whole_move_without_a_restart(sides: Sides, workers: Workers) -> None:
    workers.work_on()
    start(sides)
    workers.work_on()
    copy_by_the_log(sides)
    turns: list[tuple[SideName, SideName]] = [("legacy", "primary"), ("primary", "legacy")]
    with relaying(sides):
        for left, live in (*turns, turns[0]):
            switch(sides, live, max_pause=10)
            workers.work_on()
            wait_until(lambda left=left: sessions(sides.named(left)) == 0)
    finish(sides)
    workers.work_on()
    for company, promised in workers.stop().items():
        promised.pop("fenced")
        assert found(sides.primary, company) == promised
