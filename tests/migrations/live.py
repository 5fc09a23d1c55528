"""Writers that run during migrations. They use columns that no migration changes, and detect lost writes."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import psycopg

from tests.migrations.databases import Database
from tests.processes import WAIT_TIMEOUT_SECONDS


@dataclass
class WriteLog:
    """Results of the writers: start and end of each write, failures, refused duplicates, lost writes."""

    writes: list[tuple[float, float]] = field(default_factory=list)
    control: list[tuple[float, float]] = field(default_factory=list)  # statements that touch no table
    failures: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)

    def stalls(self, longer_than: float, apart_from: list[tuple[float, float]]) -> list[float]:
        """Return the seconds of each write longer than `longer_than`, except in the windows `apart_from`.

        Delays of a slow machine are subtracted: the time by which the control statements during the write
        exceeded their median.
        """
        usual = median(to - from_ for from_, to in self.control)
        stalled = []
        for start, end in self.writes:
            if end - start <= longer_than or any(start < to and end > from_ for from_, to in apart_from):
                continue
            meanwhile = [min(to, end) - max(from_, start) for from_, to in self.control]
            machine = sum(seconds - usual for seconds in meanwhile if seconds > usual)
            if end - start - machine > longer_than:
                stalled.append(end - start)
        return stalled


def fill(database: Database, clients: int, bookings: int) -> None:
    """Insert clients and bookings of two companies; every hundredth booking is a duplicate."""
    database.execute("INSERT INTO companies (company_id, title) VALUES (1, 'One'), (2, 'Two')")
    database.execute(
        "INSERT INTO clients (yclients_id, company_id, phone, name)"
        " SELECT n, 1 + n %% 2, '8' || (9000000000 + n), 'Клиент ' || n FROM generate_series(1, %s) AS n",
        clients,
    )
    database.execute(
        "INSERT INTO bookings"
        " (yclients_id, company_id, client_phone, staff_id, service_ids, datetime, duration)"
        " SELECT n - (n %% 100 = 0)::int, 1, '8' || (9000000000 + n %% %s), n %% 50,"
        " jsonb_build_array(1 + n %% 40), now() + n %% 3 * interval '1 day' - interval '2 days', 3600"
        " FROM generate_series(1, %s) AS n",
        clients,
        bookings,
    )
    database.execute(
        "INSERT INTO staff (yclients_id, company_id, name) SELECT n, 1, 'S' FROM generate_series(1, 50) AS n;"
        "INSERT INTO services (yclients_id, company_id, title)"
        " SELECT n, 1, 'S' FROM generate_series(1, 40) AS n;"
        "ANALYZE"
    )


@contextmanager
def running_writers(
    database: Database, clients: int, bookings: int, pause: float = 0.005
) -> Iterator[WriteLog]:
    """Run writers, each on its own connection, until the block ends; yield their results."""
    watch, stop = WriteLog(), threading.Event()

    def loop(write: Callable[[Any, int], None]) -> None:
        # Prepared statements fail after a change of the table's columns.
        with database.connect(prepare_threshold=None) as connection:
            number = 0
            while not stop.is_set():
                number += 1
                try:
                    write(connection, number)
                except psycopg.errors.UniqueViolation as error:
                    watch.refused[error.diag.constraint_name or ""] += 1
                except psycopg.Error as error:
                    watch.failures.append(f"{error.sqlstate}: {error}")
                time.sleep(pause)

    def timed(connection: Any, statement: str, *values: Any) -> int:
        start = time.monotonic()
        try:
            return connection.execute(statement, values).rowcount
        finally:
            watch.writes.append((start, time.monotonic()))

    def change_own_client(connection: Any, number: int) -> None:
        row_id = 1 + number * 7919 % clients
        before = mails.get(row_id)
        after = f"{number}@example.org"
        changed = timed(
            connection,
            "UPDATE clients SET email = %s"
            " WHERE id = %s AND company_id = %s AND email IS NOT DISTINCT FROM %s",
            after, row_id, 1 + row_id % 2, before,
        )  # fmt: skip
        if changed != 1:
            watch.lost.append(f"client {row_id}")
        mails[row_id] = after

    def change_own_booking(connection: Any, number: int) -> None:
        row_id = 1 + number * 7907 % bookings
        if row_id % 100 in (0, 99):
            return  # a duplicate, which may be merged into its group
        before = phones.get(row_id, f"%{9000000000 + row_id % clients}")
        after = f"+791{number % 10}{row_id:07d}"
        changed = timed(
            connection,
            "UPDATE bookings SET client_phone = %s"
            " WHERE id = %s AND company_id = 1 AND client_phone LIKE %s",
            after, row_id, before,
        )  # fmt: skip
        if changed != 1:
            watch.lost.append(f"booking {row_id}")
        phones[row_id] = after

    def add_rows(connection: Any, number: int) -> None:
        timed(
            connection,
            "INSERT INTO clients (yclients_id, company_id, phone, name) VALUES (%s, 1, %s, 'Новый')",
            10_000_000 + number, f"+7912{number:07d}",
        )  # fmt: skip
        timed(connection, "UPDATE companies SET title = %s WHERE company_id = 2", f"Two {number}")
        if number % 20 == 0:  # every id twice: duplicates until the constraint is in force
            timed(
                connection,
                "INSERT INTO staff (yclients_id, company_id, name) VALUES (%s, 1, 'S')",
                1_000 + number // 40,
            )

    def touch_nothing(connection: Any, _: int) -> None:
        start = time.monotonic()
        connection.execute("SELECT txid_current()")
        watch.control.append((start, time.monotonic()))

    mails: dict[int, str] = {}
    phones: dict[int, str] = {}
    writers = [
        threading.Thread(target=loop, args=[write])
        for write in (change_own_client, change_own_booking, add_rows, touch_nothing)
    ]
    for writer in writers:
        writer.start()
    try:
        yield watch
    finally:
        stop.set()
        for writer in writers:
            writer.join(WAIT_TIMEOUT_SECONDS)
            assert not writer.is_alive(), "a writer did not end"
