"""What two databases say about which of them is live, and what follows from it.

A move (see app/transfer) keeps one row on each side: its state and an epoch that grows with every change of
sides. At most one side says `open`, and the row is the only authority.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

import psycopg

from app.database.database import Connection, Database
from app.errors import ConfigurationError, FencedError, UnavailableError

Name = Literal["legacy", "primary"]
PATIENCE = 1_000  # milliseconds for one side's answer (for connecting, libpq allows two seconds at least)


# A side that was closed for a cutover opens by itself when the time for that is over.
_ROW = """
    SELECT CASE WHEN state = 'closing' AND until < clock_timestamp() THEN 'open' ELSE state END, epoch
    FROM frontdesk_transfer.side
"""


class State(StrEnum):
    """What one side says. The first three are the move's; without a move, what there is to be found."""

    OPEN = "open"
    CLOSING = "closing"  # takes no more writes, and may still open again
    STANDBY = "standby"  # the other side is live, or about to be
    FILLED = "filled"  # no move; Frontdesk's tables, with companies
    EMPTY = "empty"  # no move; Frontdesk's tables, without
    FOREIGN = "foreign"  # no move; not a database of ours, or not yet
    UNREACHABLE = "unreachable"

    @property
    def is_of_a_move(self) -> bool:
        return self in (State.OPEN, State.CLOSING, State.STANDBY)

    @property
    def is_without_a_move(self) -> bool:
        return self in (State.FILLED, State.EMPTY, State.FOREIGN)


@dataclass(frozen=True)
class Side:
    """What one side says; the epoch counts where there is a move."""

    state: State
    epoch: int = 0


UNREACHABLE = Side(State.UNREACHABLE)


def ask(database: Database) -> Side:
    """Ask one side. Raises psycopg's errors, but none for a side that cannot be reached."""
    try:
        return database.ask(_read, PATIENCE)
    except psycopg.OperationalError:
        return UNREACHABLE


def _read(connection: Connection) -> Side:
    # Not the connection's own cursors: looking is nobody's query, and no caller's N+1.
    cursor: psycopg.Cursor[Any] = psycopg.Cursor(connection)
    try:
        row = cursor.execute(_ROW).fetchone()
    except psycopg.errors.UndefinedTable:
        row = None
    if row is not None:
        return Side(State(row[0]), row[1])
    is_ours = cursor.execute(
        "SELECT to_regclass('alembic_version') IS NOT NULL AND to_regclass('companies') IS NOT NULL"
    ).fetchone()
    if is_ours != (True,):
        return Side(State.FOREIGN)
    has_rows = cursor.execute("SELECT EXISTS (SELECT FROM companies)").fetchone()
    return Side(State.FILLED if has_rows == (True,) else State.EMPTY)


def live(legacy: Side, primary: Side) -> Name:
    """Which side is live, where nothing else is known.

    Raises FencedError in the moment in which neither is, UnavailableError where the side that would know
    cannot be asked, ConfigurationError where nothing tells the sides apart.
    """
    says_open: list[tuple[int, Name]] = []
    if legacy.state is State.OPEN:
        says_open.append((legacy.epoch, "legacy"))
    if primary.state is State.OPEN:
        says_open.append((primary.epoch, "primary"))
    if says_open:  # of two, which only a restored backup can make of it, the later one
        return max(says_open)[1]
    if legacy.state is State.CLOSING:
        return "legacy"
    if primary.state is State.CLOSING:
        return "primary"
    if State.STANDBY in (legacy.state, primary.state):
        return _beside_a_standby(legacy.state, primary.state)
    if State.UNREACHABLE in (legacy.state, primary.state):
        raise UnavailableError(_silent(legacy.state, primary.state))
    return _without_a_move(legacy.state, primary.state)


def _beside_a_standby(legacy: State, primary: State) -> Name:
    """A standby has a live side, be it that its row is gone already or that it cannot be reached."""
    if legacy is primary:
        raise FencedError  # between handing over and opening, some milliseconds
    return "primary" if legacy is State.STANDBY else "legacy"


def _without_a_move(legacy: State, primary: State) -> Name:
    if legacy is State.FOREIGN:
        return "primary"
    if primary is not State.FILLED:
        return "legacy"
    if legacy is State.EMPTY:
        return "primary"
    raise ConfigurationError(
        "DATABASE_URL and LEGACY_DATABASE_URL both hold companies, and no move says which of them is live."
        " After `frontdesk transfer finish`, unset LEGACY_DATABASE_URL and let DATABASE_URL name the live"
        " one; otherwise set TRANSFER_PIN to legacy or primary."
    )


def _silent(legacy: State, primary: State) -> str:
    names = [
        name
        for name, state in (("LEGACY_DATABASE_URL", legacy), ("DATABASE_URL", primary))
        if state is State.UNREACHABLE
    ]
    return f"Which database is live is not known: {' and '.join(names)} cannot be reached."
