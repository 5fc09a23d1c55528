"""State of the two sides of a transfer, and the rules that determine which side is live.

A transfer (see app/transfer) keeps one row on each side: the side's state and an epoch that grows with every
cutover and rollback. At most one side has the state `open`. Only these rows decide which side is live.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

import psycopg

from app.database.connection import Connection
from app.database.database import Database
from app.errors import ConfigurationError, FencedError, UnavailableError

SideName = Literal["legacy", "primary"]
# For the response of one side. libpq allows at least two seconds for connecting.
SIDE_QUERY_TIMEOUT_MS = 1_000


# A side that is closing for a cutover counts as open again after the deadline in `until`.
_ROW = """
    SELECT CASE WHEN state = 'closing' AND until < clock_timestamp() THEN 'open' ELSE state END, epoch
    FROM frontdesk_transfer.side
"""


class SideState(StrEnum):
    """State of one side: open, closing or standby during a transfer; otherwise its content."""

    OPEN = "open"
    CLOSING = "closing"  # refuses writes; opens again if the cutover fails
    STANDBY = "standby"  # the other side is live or becomes live
    FILLED = "filled"  # no transfer; Frontdesk's tables, with companies
    EMPTY = "empty"  # no transfer; Frontdesk's tables, without companies
    FOREIGN = "foreign"  # no transfer; without Frontdesk's tables
    UNREACHABLE = "unreachable"

    @property
    def is_outside_transfer(self) -> bool:
        return self in (SideState.FILLED, SideState.EMPTY, SideState.FOREIGN)


@dataclass(frozen=True)
class ObservedSide:
    """State and epoch of one side at the time of the query; outside a transfer the epoch is 0."""

    state: SideState
    epoch: int = 0


UNREACHABLE_SIDE = ObservedSide(SideState.UNREACHABLE)


def read_side(database: Database) -> ObservedSide:
    """Query the state of one side; return UNREACHABLE_SIDE if it cannot be reached.

    Raises psycopg's other errors.
    """
    try:
        return database.query_with_timeout(_query_side, SIDE_QUERY_TIMEOUT_MS)
    except psycopg.OperationalError:
        return UNREACHABLE_SIDE


def _query_side(connection: Connection) -> ObservedSide:
    # A plain cursor: this query must count neither in the query metrics nor in a caller's N+1 detection.
    cursor: psycopg.Cursor[Any] = psycopg.Cursor(connection)
    try:
        row = cursor.execute(_ROW).fetchone()
    except psycopg.errors.UndefinedTable:
        row = None
    if row is not None:
        return ObservedSide(SideState(row[0]), row[1])
    has_schema = cursor.execute(
        "SELECT to_regclass('alembic_version') IS NOT NULL AND to_regclass('companies') IS NOT NULL"
    ).fetchone()
    if has_schema != (True,):
        return ObservedSide(SideState.FOREIGN)
    has_rows = cursor.execute("SELECT EXISTS (SELECT FROM companies)").fetchone()
    return ObservedSide(SideState.FILLED if has_rows == (True,) else SideState.EMPTY)


def determine_live_side(legacy: ObservedSide, primary: ObservedSide) -> SideName:
    """Return the live side, given the states of both.

    Raises FencedError while neither side is live (some milliseconds during a cutover), UnavailableError if
    the answer depends on a side that cannot be reached, and ConfigurationError if both databases hold
    companies and no transfer records which one is live.
    """
    open_sides: list[tuple[int, SideName]] = []
    if legacy.state is SideState.OPEN:
        open_sides.append((legacy.epoch, "legacy"))
    if primary.state is SideState.OPEN:
        open_sides.append((primary.epoch, "primary"))
    if open_sides:  # two are open only after a backup was restored: the higher epoch is live
        return max(open_sides)[1]
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
    """Return the side that is not a standby: it is live even if its row is missing or it is unreachable."""
    if legacy is primary:
        raise FencedError  # the cutover has closed one side and not yet opened the other
    return "primary" if legacy is SideState.STANDBY else "legacy"


def _live_without_transfer(legacy: SideState, primary: SideState) -> SideName:
    if legacy is SideState.FOREIGN:
        return "primary"
    if primary is not SideState.FILLED:
        return "legacy"
    if legacy is SideState.EMPTY:
        return "primary"
    raise ConfigurationError(
        "DATABASE_URL and LEGACY_DATABASE_URL both hold companies, and no transfer records which one is live."
        " After `frontdesk transfer finish`, unset LEGACY_DATABASE_URL and set DATABASE_URL to the live"
        " database; otherwise set TRANSFER_PIN to legacy or primary."
    )


def _unreachable_message(legacy: SideState, primary: SideState) -> str:
    names = [
        name
        for name, state in (("LEGACY_DATABASE_URL", legacy), ("DATABASE_URL", primary))
        if state is SideState.UNREACHABLE
    ]
    return f"The live database is unknown: {' and '.join(names)} cannot be reached."
