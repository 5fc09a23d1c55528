"""A writer that uses psycopg with one isolation level. It swaps unique values, changes keys, deletes parents.

Before each change the writer reads all of its rows, in the transaction of the change, and compares them with
the acknowledged state. A lost write is therefore detected before a later write can hide it.
"""

import random
import time
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from typing import Any

import psycopg
from psycopg import IsolationLevel
from psycopg.conninfo import make_conninfo

from tests.transfer.journals import (
    FENCED_SQLSTATE,
    RETRYABLE_SQLSTATES,
    UNKNOWN_OUTCOME_SQLSTATES,
    Journal,
    State,
)

AUTOCOMMIT = "autocommit"
KINDS = (AUTOCOMMIT, "read committed", "repeatable read", "serializable")
MERGED_ROWS = 40  # rows in each bulk merge

# {"clients": [[id, yclients_id, visits], …], "bookings": [[id, [positions]], …]}
EMPTY: State = {"clients": [], "bookings": []}
Connection = psycopg.Connection[Any]

_CLIENTS = "SELECT id, yclients_id, visit_count FROM clients WHERE company_id = %s ORDER BY id"
_BOOKINGS = """
    SELECT bookings.id,
        coalesce(array_agg(position ORDER BY position) FILTER (WHERE booking IS NOT NULL), '{}')
    FROM bookings LEFT JOIN booking_services
        ON (booking_services.company_id, booking) = (bookings.company_id, bookings.id)
    WHERE bookings.company_id = %s GROUP BY bookings.id ORDER BY bookings.id
"""


def read(connection: Connection, company: int) -> State:
    """Return all rows of a company as a state."""
    return {
        "clients": [list(row) for row in connection.execute(_CLIENTS, (company,))],
        "bookings": [list(row) for row in connection.execute(_BOOKINGS, (company,))],
    }


class DriverWriter:
    """A writer of one kind. It has one session, and changes to the other side when its writes are fenced."""

    def __init__(self, urls: list[str], company: int, kind: str, journal: Journal, seed: int) -> None:
        self._urls = [make_conninfo(url, connect_timeout=2) for url in urls]
        self._at = 0
        self._connection: Connection | None = None
        self._company = company
        self._kind = kind
        self._journal = journal
        self._random = random.Random(seed)

    def change(self) -> bool:
        """Run one transaction; return False if it must be retried.

        Raises LostWriteError if acknowledged rows are missing.
        """
        committing = False
        try:
            connection = self._connected()
            before = self._journal.check(
                lambda: read(connection, self._company),
                lambda: connection.execute("SELECT frontdesk_transfer.enter()"),
            )
            if self._kind != AUTOCOMMIT and self._random.random() < 0.2:
                time.sleep(self._random.uniform(0, 0.03))  # allow other changes between snapshot and write
            after = self._act(connection, deepcopy(before))
            self._journal.intend(after)
            committing = True
            connection.commit()
        except psycopg.Error as error:
            self._recover(error, committing)
            return False
        self._journal.acknowledge()
        return True

    def close(self) -> None:
        """Close the session."""
        if self._connection is not None:
            self._connection.close()

    def _connected(self) -> Connection:
        if self._connection is None or self._connection.closed:
            connection = psycopg.connect(self._urls[self._at])
            if self._kind == AUTOCOMMIT:
                connection.autocommit = True
            else:
                connection.isolation_level = IsolationLevel[self._kind.upper().replace(" ", "_")]
            self._connection = connection
        return self._connection

    def _recover(self, error: psycopg.Error, committing: bool) -> None:
        lost = (
            self._connection is None or self._connection.closed or error.sqlstate in UNKNOWN_OUTCOME_SQLSTATES
        )
        if committing and not lost:
            self._journal.void()
        if self._connection is not None and not self._connection.closed and not lost:
            with suppress(psycopg.OperationalError):  # the connection was lost, which rolls back as well
                self._connection.rollback()
        else:
            self._connection = None
            time.sleep(0.02)
        # A lost connection is no reason to change sides: before the transfer both sides accept writes.
        if error.sqlstate == FENCED_SQLSTATE:
            self._at = 1 - self._at
            if self._connection is not None:
                self._connection.close()
            time.sleep(0.002)
        elif not lost and error.sqlstate not in RETRYABLE_SQLSTATES:
            raise error

    def _act(self, connection: Connection, state: State) -> State:
        """Change rows, and return the state that is expected afterwards."""
        if self._kind == AUTOCOMMIT:
            # A single statement, which is a transaction, so it is announced before it is executed.
            return self._act_at_once(connection, state)
        acts: list[Callable[[Connection, State], None]] = [
            self._add, self._bump, self._bump, self._remove, self._swap, self._rename, self._replace,
            self._book, self._unbook, self._move_booking, self._merge,
        ]  # fmt: skip
        for act in self._random.sample(acts, self._random.randint(1, 3)):
            act(connection, state)
            state["clients"].sort()
            state["bookings"].sort()
        return state

    def _act_at_once(self, connection: Connection, state: State) -> State:
        clients = state["clients"]
        number = self._random.randint(1, 20)
        client = next((client for client in clients if client[1] == number), None)
        if client is None:
            # The writer chooses the id, so that the expected state is known before the insert.
            client = [-self._random.randint(1, 2**50), number, 0]
            clients.append(client)
            query = "INSERT INTO clients (yclients_id, company_id, id, name) VALUES (%s, %s, %s, 'x')"
        elif self._random.random() < 0.3:
            clients.remove(client)
            query = "DELETE FROM clients WHERE (yclients_id, company_id, id) = (%s, %s, %s)"
        else:
            client[2] += 1
            query = (
                "UPDATE clients SET visit_count = visit_count + 1"
                " WHERE (yclients_id, company_id, id) = (%s, %s, %s)"
            )
        clients.sort()
        self._journal.intend(state)
        try:
            connection.execute(query, (number, self._company, client[0]))
        except psycopg.Error as error:
            if not (connection.closed or error.sqlstate in UNKNOWN_OUTCOME_SQLSTATES):
                self._journal.void()
            raise
        return state

    def _add(self, connection: Connection, state: State) -> None:
        taken = {client[1] for client in state["clients"]}
        free = [number for number in range(1, 20) if number not in taken]
        if not free:
            return
        number = self._random.choice(free)
        row = connection.execute(
            "INSERT INTO clients (company_id, yclients_id, name) VALUES (%s, %s, 'x') RETURNING id",
            (self._company, number),
        ).fetchone()
        assert row is not None
        state["clients"].append([row[0], number, 0])

    def _bump(self, connection: Connection, state: State) -> None:
        for client in self._some(state["clients"], 1):
            row = connection.execute(
                "UPDATE clients SET visit_count = visit_count + 1 WHERE company_id = %s AND id = %s"
                " RETURNING visit_count",
                (self._company, client[0]),
            ).fetchone()
            client[2] += 1
            assert row == (client[2],), "another program has changed this row"

    def _remove(self, connection: Connection, state: State) -> None:
        for client in self._some(state["clients"], 1):
            self._delete(connection, client)
            state["clients"].remove(client)

    def _delete(self, connection: Connection, client: list[int]) -> None:
        connection.execute(
            "DELETE FROM clients WHERE company_id = %s AND id = %s", (self._company, client[0])
        )

    def _swap(self, connection: Connection, state: State) -> None:
        """Swap a unique value between two rows."""
        pair = self._some(state["clients"], 2)
        if len(pair) < 2:
            return
        one, two = pair
        for client, number in ((one, -1), (two, one[1]), (one, two[1])):
            connection.execute(
                "UPDATE clients SET yclients_id = %s WHERE company_id = %s AND id = %s",
                (number, self._company, client[0]),
            )
        one[1], two[1] = two[1], one[1]

    def _rename(self, connection: Connection, state: State) -> None:
        """Change the key of a row."""
        for client in self._some(state["clients"], 1):
            new = -self._random.randint(1, 2**50)
            connection.execute(
                "UPDATE clients SET id = %s WHERE company_id = %s AND id = %s",
                (new, self._company, client[0]),
            )
            client[0] = new

    def _replace(self, connection: Connection, state: State) -> None:
        """Delete a row and insert it again with the same key."""
        for client in self._some(state["clients"], 1):
            self._delete(connection, client)
            client[2] = 100
            connection.execute(
                "INSERT INTO clients (company_id, id, yclients_id, visit_count, name)"
                " VALUES (%s, %s, %s, 100, 'y')",
                (self._company, client[0], client[1]),
            )

    def _book(self, connection: Connection, state: State) -> None:
        if len(state["bookings"]) > 5:
            return
        row = connection.execute(
            "INSERT INTO bookings (company_id, source, starts_at, ends_at)"
            " VALUES (%s, 'assistant', now(), now() + interval '1 hour') RETURNING id",
            (self._company,),
        ).fetchone()
        assert row is not None
        positions = list(range(self._random.randint(0, 3)))
        for position in positions:
            connection.execute(
                "INSERT INTO booking_services (company_id, booking, position, service_id)"
                " VALUES (%s, %s, %s, 1)",
                (self._company, row[0], position),
            )
        state["bookings"].append([row[0], positions])

    def _unbook(self, connection: Connection, state: State) -> None:
        """Delete a parent and its children."""
        for booking in self._some(state["bookings"], 1):
            for table, column in (("booking_services", "booking"), ("bookings", "id")):
                connection.execute(
                    f"DELETE FROM {table} WHERE company_id = %s AND {column} = %s",
                    (self._company, booking[0]),
                )
            state["bookings"].remove(booking)

    def _move_booking(self, connection: Connection, state: State) -> None:
        """Change the key of a parent and the references of its children."""
        for booking in self._some(state["bookings"], 1):
            new = -self._random.randint(1, 2**50)
            connection.execute("SET CONSTRAINTS ALL DEFERRED")
            for table, column in (("bookings", "id"), ("booking_services", "booking")):
                connection.execute(
                    f"UPDATE {table} SET {column} = %s WHERE company_id = %s AND {column} = %s",
                    (new, self._company, booking[0]),
                )
            booking[0] = new

    def _merge(self, connection: Connection, state: State) -> None:
        """Merge many rows at once, with COPY into a temporary table and INSERT ... ON CONFLICT."""
        if self._random.random() < 0.7:
            return
        connection.execute(
            "CREATE TEMPORARY TABLE IF NOT EXISTS batch (yclients_id bigint) ON COMMIT DELETE ROWS"
        )
        with connection.cursor().copy("COPY batch FROM STDIN") as copy:
            for number in range(1000, 1000 + MERGED_ROWS):
                copy.write_row((number,))
        connection.execute(
            "INSERT INTO clients (company_id, yclients_id, name) SELECT %s, yclients_id, 'bulk' FROM batch"
            " ON CONFLICT (yclients_id, company_id) DO UPDATE SET visit_count = clients.visit_count + 1",
            (self._company,),
        )
        state["clients"] = [list(row) for row in connection.execute(_CLIENTS, (self._company,))]

    def _some(self, rows: list[Any], count: int) -> list[Any]:
        return self._random.sample(rows, min(count, len(rows)))
