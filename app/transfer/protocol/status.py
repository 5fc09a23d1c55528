"""Where a move stands, what is next, and what is in the way."""

from dataclasses import asdict, dataclass, field
from datetime import datetime
from time import monotonic
from typing import Any

import psycopg

from app.errors import UnavailableError
from app.transfer.protocol import change_capture
from app.transfer.protocol.endpoints import SideName, Sides
from app.transfer.protocol.fencing import Row
from app.transfer.protocol.stages import Stage, look_at, stage_of
from app.transfer.protocol.tables import SCHEMA


@dataclass
class Status:
    """A move as its two databases tell it."""

    stage: Stage = Stage.UNKNOWN
    live: SideName | None = None  # takes writes
    next: str = ""
    in_the_way: list[str] = field(default_factory=list)
    sides: dict[SideName, Row | None] = field(default_factory=dict)  # None: no move is known there
    marks: int | None = None  # keys that the standby does not have yet
    lag: float | None = None  # seconds since the oldest of them was written; 0 without any
    last_round: datetime | None = None
    replay_seconds: float | None = None  # of the last round
    tables: int | None = None
    copied: int | None = None  # tables
    verified_at: datetime | None = None
    verified_equal: bool | None = None
    journal: list[dict[str, Any]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def status(sides: Sides, within: float = 30.0) -> Status:
    """Ask both sides; what one of them cannot tell is None, and said in `in_the_way`.

    Raises psycopg's errors where a side breaks off, or has not answered `within` so many seconds.
    """
    found = Status()
    deadline = monotonic() + within
    connections: dict[SideName, psycopg.Connection[Any]] = {}
    try:
        for side in sides:
            try:
                connections[side.name] = connection = side.connect(timeout=3)
                connection.deadline = deadline
            except UnavailableError as error:
                found.in_the_way.append(error.message)
        _read(found, connections)
    finally:
        for connection in connections.values():
            connection.close()
    return found


def _read(found: Status, connections: dict[SideName, psycopg.Connection[Any]]) -> None:
    found.sides.update(look_at(connections))
    if len(connections) == 2:
        found.stage = stage_of(found.sides["legacy"], found.sides["primary"])
    found.live = _live(found)
    for name, connection in connections.items():
        row = found.sides[name]
        if row is None:
            continue
        if row.state == "standby":
            _read_standby(found, connection, row)
        else:
            _read_source(found, connection)
        unguarded = change_capture.tables_without_triggers(connection)
        if unguarded:
            found.in_the_way.append(f"{name}: not fenced and captured: {', '.join(unguarded)}")
            if found.stage in (Stage.RELAYING, Stage.COPYING):
                found.stage = Stage.STARTING
    if found.stage is Stage.RELAYING and (found.copied or 0) < (found.tables or 0):
        found.stage = Stage.COPYING
    found.next = _next(found)


def _live(found: Status) -> SideName | None:
    if found.stage is Stage.NOT_STARTED:
        return "legacy"
    is_open = [name for name, row in found.sides.items() if row is not None and row.state == "open"]
    return is_open[0] if len(is_open) == 1 else None


def _read_source(found: Status, connection: psycopg.Connection[Any]) -> None:
    found.marks, found.lag = log(connection)
    row = connection.execute(f"SELECT finished_at, seconds FROM {SCHEMA}.relay").fetchone()
    found.last_round, found.replay_seconds = row if row else (None, None)
    row = connection.execute(f"SELECT count(*) FROM {SCHEMA}.moved").fetchone()
    found.tables = row[0] if row else None
    found.journal = [
        {"at": at, "step": step, "detail": detail}
        for at, step, detail in connection.execute(
            f"SELECT at, step, detail FROM {SCHEMA}.journal ORDER BY id DESC LIMIT 10"
        )
    ]
    _read_verification(found, connection)


def _read_standby(found: Status, connection: psycopg.Connection[Any], row: Row) -> None:
    if row.name == "primary":
        found.copied = len(copied_tables(connection))
    waiting, _ = log(connection)
    if waiting and found.stage is not Stage.HANDED_OVER:
        found.in_the_way.append(
            f"{row.name} is the standby, yet changes of its own are noted there ({waiting}):"
            " run `frontdesk transfer verify`"
        )
    _read_verification(found, connection)


def _read_verification(found: Status, connection: psycopg.Connection[Any]) -> None:
    last = connection.execute(
        f"SELECT at, equal FROM {SCHEMA}.verifications ORDER BY at DESC LIMIT 1"
    ).fetchone()
    if last is not None and (found.verified_at is None or last[0] > found.verified_at):
        found.verified_at, found.verified_equal = last


def log(connection: psycopg.Connection[Any]) -> tuple[int, float]:
    """How many marks wait on this side, and for how many seconds the oldest has waited."""
    row = connection.execute(
        "SELECT count(*), coalesce(extract(epoch FROM clock_timestamp() - min(at)), 0)::float8"
        f" FROM {SCHEMA}.marks"
    ).fetchone()
    return (row[0], max(0.0, row[1])) if row else (0, 0.0)


def copied_tables(connection: psycopg.Connection[Any]) -> list[str]:
    """The tables that have been copied to this side as a whole."""
    rows = connection.execute(
        f"SELECT table_name FROM {SCHEMA}.copied WHERE finished_at IS NOT NULL ORDER BY table_name"
    )
    return [name for (name,) in rows]


_NEXT = {
    Stage.NOT_STARTED: "frontdesk transfer plan, then frontdesk transfer start",
    Stage.STARTING: "frontdesk transfer start",
    Stage.COPYING: "frontdesk transfer copy",
    Stage.CUT_OVER: "frontdesk transfer finish, or frontdesk transfer rollback",
    Stage.CLOSING: "wait a moment: it is being cut over, or rolled back, or opens again by itself",
    Stage.HANDED_OVER: "frontdesk transfer cutover",
    Stage.UNKNOWN: "make both databases reachable",
    Stage.BROKEN: "do not write: see the journal, and restore the rows of frontdesk_transfer.side",
}


def _next(found: Status) -> str:
    if found.stage is Stage.RELAYING:
        if found.verified_equal:
            return "frontdesk transfer cutover"
        if found.verified_equal is False:
            return "frontdesk transfer repair, then frontdesk transfer verify"
        return "frontdesk transfer relay (beside everything else), frontdesk transfer verify"
    return _NEXT[found.stage]
