"""The stages of a transfer, derived from the `side` rows of both sides."""

from collections.abc import Mapping
from enum import StrEnum

import psycopg

from app.database.connection import Connection
from app.transfer.protocol import control_schema, fencing
from app.transfer.protocol.endpoints import SideName
from app.transfer.protocol.fencing import SideRow

MAX_READS = 5  # attempts to read rows of both sides that are consistent


class Stage(StrEnum):
    """The progress of a transfer."""

    NOT_STARTED = "not started"
    STARTING = "starting"  # set up on one side only, or not on every table
    COPYING = "copying"
    RELAYING = "relaying"  # the sides are equal, except for the keys in the change log
    CLOSING = "closing"  # during a cutover or rollback, before the hand-over; no side accepts writes
    HANDED_OVER = "handed over"  # during a cutover or rollback, after the irrevocable step
    CUT_OVER = "cut over"  # primary is live, legacy follows
    BROKEN = "broken"  # the rows contradict each other; no step of the protocol leads here
    UNKNOWN = "unknown"  # a side cannot be reached


def other_side(name: SideName) -> SideName:
    """Return the name of the opposite side."""
    return "primary" if name == "legacy" else "legacy"


def stage_of(legacy: SideRow | None, primary: SideRow | None) -> Stage:
    """Return the stage that the two rows imply.

    Rows do not show the progress of the copy: the result is RELAYING during the copy, too.
    """
    if legacy is None and primary is None:
        return Stage.NOT_STARTED
    if legacy is None or primary is None:
        return Stage.STARTING
    ahead, behind = (legacy, primary) if legacy.epoch >= primary.epoch else (primary, legacy)
    match (ahead.state, behind.state, ahead.epoch - behind.epoch):
        case ("standby", "standby", 1):
            return Stage.HANDED_OVER
        case ("open", "standby", 0) | ("standby", "open", 0):
            return Stage.CUT_OVER if primary.state == "open" else Stage.RELAYING
        case ("closing", "standby", 0) | ("standby", "closing", 0):
            return Stage.CLOSING
    return Stage.BROKEN


def read_side_rows(connections: Mapping[SideName, Connection]) -> dict[SideName, SideRow | None]:
    """Return the `side` row of each side, or None for a side without one.

    The rows are not read at the same moment. Rows that contradict each other because a switch happened in
    between are read again, up to MAX_READS times.
    """
    for _ in range(MAX_READS):
        rows = {name: _read_side_row(connection) for name, connection in connections.items()}
        if stage_of(rows.get("legacy"), rows.get("primary")) is not Stage.BROKEN:
            break
    return rows


def _read_side_row(connection: Connection) -> SideRow | None:
    try:
        return fencing.read_side_row(connection) if control_schema.is_set_up(connection) else None
    except psycopg.errors.UndefinedTable:  # `finish` has dropped it since the first query
        return None
