"""The stages of a move, as the rows of both sides tell them."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import psycopg

from app.transfer.protocol import control_schema, fencing
from app.transfer.protocol.endpoints import SideName
from app.transfer.protocol.fencing import SideRow

MAX_READS = 5


class Stage(StrEnum):
    """How far a move is."""

    NOT_STARTED = "not started"
    STARTING = "starting"  # set up on one side only, or not on every table
    COPYING = "copying"
    RELAYING = "relaying"  # both sides are alike, but for what waits in the log
    CLOSING = "closing"  # in the middle of a cutover or a rollback; nobody may write
    HANDED_OVER = "handed over"  # the same, past the point of no return
    CUT_OVER = "cut over"  # primary is live, legacy follows
    BROKEN = "broken"  # no step of ours leads here
    UNKNOWN = "unknown"  # a side cannot be asked


def other_side(name: SideName) -> SideName:
    """The side across."""
    return "primary" if name == "legacy" else "legacy"


def stage_of(legacy: SideRow | None, primary: SideRow | None) -> Stage:
    """The stage that the two rows tell; RELAYING covers all that the copy has to do."""
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


def read_side_rows(connections: Mapping[SideName, psycopg.Connection[Any]]) -> dict[SideName, SideRow | None]:
    """The rows of the sides, as far as they have one.

    They are not read at one moment: those that contradict each other, because a switch has come between, are
    read again.
    """
    for _ in range(MAX_READS):
        rows = {name: _read_side_row(connection) for name, connection in connections.items()}
        if stage_of(rows.get("legacy"), rows.get("primary")) is not Stage.BROKEN:
            break
    return rows


def _read_side_row(connection: psycopg.Connection[Any]) -> SideRow | None:
    try:
        return fencing.read_side_row(connection) if control_schema.is_set_up(connection) else None
    except psycopg.errors.UndefinedTable:  # `finish` has just taken it away
        return None
