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

SideName = Literal["legacy", "primary"]
SIDE_QUERY_TIMEOUT_MS = (
    1_000  # milliseconds for one side's answer (for connecting, libpq allows two seconds at least)
)


# A side that was closed for a cutover opens by itself when the time for that is over.
_ROW = """
    SELECT CASE WHEN state = 'closing' AND until < clock_timestamp() THEN 'open' ELSE state END, epoch
    FROM frontdesk_transfer.side
"""


class SideState(StrEnum):
    """What one side says. The first three are the move's; without a move, what there is to be found."""

    OPEN = "open"
    CLOSING = "closing"  # takes no more writes, and may still open again
    STANDBY = "standby"  # the other side is live, or about to be
    FILLED = "filled"  # no move; Frontdesk's tables, with companies
    EMPTY = "empty"  # no move; Frontdesk's tables, without
    FOREIGN = "foreign"  # no move; not a database of ours, or not yet
    UNREACHABLE = "unreachable"

    @property
    def is_in_transfer(self) -> bool:
        return self in (SideState.OPEN, SideState.CLOSING, SideState.STANDBY)

    @property
    def is_outside_transfer(self) -> bool:
        return self in (SideState.FILLED, SideState.EMPTY, SideState.FOREIGN)


@dataclass(frozen=True)
class ObservedSide:
    """What one side says; the epoch counts where there is a move."""

    state: SideState
    epoch: int = 0


UNREACHABLE_SIDE = ObservedSide(SideState.UNREACHABLE)


def read_side(database: Database) -> ObservedSide:
    """Ask one side. Raises psycopg's errors, but none for a side that cannot be reached."""
    try:
        return database.query_with_timeout(_query_side, SIDE_QUERY_TIMEOUT_MS)
    except psycopg.OperationalError:
        return UNREACHABLE_SIDE


def _query_side(connection: Connection) -> ObservedSide:
    # Not the connection's own cursors: looking is nobody's query, and no caller's N+1.
    cursor: psycopg.Cursor[Any] = psycopg.Cursor(connection)
    try:
        row = cursor.execute(_ROW).fetchone()
    except psycopg.errors.UndefinedTable:
        row = None
    if row is not None:
        return ObservedSide(SideState(row[0]), row[1])
    is_ours = cursor.execute(
        "SELECT to_regclass('alembic_version') IS NOT NULL AND to_regclass('companies') IS NOT NULL"
    ).fetchone()
    if is_ours != (True,):
        return ObservedSide(SideState.FOREIGN)
    has_rows = cursor.execute("SELECT EXISTS (SELECT FROM companies)").fetchone()
    return ObservedSide(SideState.FILLED if has_rows == (True,) else SideState.EMPTY)


def determine_live_side(legacy: ObservedSide, primary: ObservedSide) -> SideName:
    """Which side is live, where nothing else is known.

    Raises FencedError in the moment in which neither is, UnavailableError where the side that would know
    cannot be asked, ConfigurationError where nothing tells the sides apart.
    """
    says_open: list[tuple[int, SideName]] = []
    if legacy.state is SideState.OPEN:
        says_open.append((legacy.epoch, "legacy"))
    if primary.state is SideState.OPEN:
        says_open.append((primary.epoch, "primary"))
    if says_open:  # of two, which only a restored backup can make of it, the later one
        return max(says_open)[1]
    if legacy.state is SideState.CLOSING:
        return "legacy"
    if primary.state is SideState.CLOSING:
        return "primary"
    if SideState.STANDBY in (legacy.state, primary.state):
        return _live_beside_standby(legacy.state, primary.state)
    if SideState.UNREACHABLE in (legacy.state, primary.state):
        raise UnavailableError(_unreachable_message(legacy.state, primary.state))
    return _live_without_transfer(legacy.state, primary.state)


def _live_beside_standby(legacy: SideState, primary: SideState) -> SideName:
    """A standby has a live side, be it that its row is gone already or that it cannot be reached."""
    if legacy is primary:
        raise FencedError  # between handing over and opening, some milliseconds
    return "primary" if legacy is SideState.STANDBY else "legacy"


def _live_without_transfer(legacy: SideState, primary: SideState) -> SideName:
    if legacy is SideState.FOREIGN:
        return "primary"
    if primary is not SideState.FILLED:
        return "legacy"
    if legacy is SideState.EMPTY:
        return "primary"
    raise ConfigurationError(
        "DATABASE_URL and LEGACY_DATABASE_URL both hold companies, and no move says which of them is live."
        " After `frontdesk transfer finish`, unset LEGACY_DATABASE_URL and let DATABASE_URL name the live"
        " one; otherwise set TRANSFER_PIN to legacy or primary."
    )


def _unreachable_message(legacy: SideState, primary: SideState) -> str:
    names = [
        name
        for name, state in (("LEGACY_DATABASE_URL", legacy), ("DATABASE_URL", primary))
        if state is SideState.UNREACHABLE
    ]
    return f"Which database is live is not known: {' and '.join(names)} cannot be reached."
