"""The status of a transfer: its stage, the next command, and problems."""

from dataclasses import asdict, dataclass, field
from datetime import datetime
from time import monotonic
from typing import Any

from app.database.connection import Connection
from app.errors import UnavailableError
from app.transfer.protocol import change_capture
from app.transfer.protocol.endpoints import SideName, Sides
from app.transfer.protocol.fencing import SideRow
from app.transfer.protocol.stages import Stage, read_side_rows, stage_of
from app.transfer.protocol.tables import SCHEMA


@dataclass
class Status:
    """The status of a transfer, read from its two databases. A value that could not be read stays None."""

    stage: Stage = Stage.UNKNOWN
    live: SideName | None = None  # the side that accepts writes
    next: str = ""  # the command to run next
    in_the_way: list[str] = field(default_factory=list)  # problems
    sides: dict[SideName, SideRow | None] = field(default_factory=dict)  # None: not set up on that side
    marks: int | None = None  # keys in the change log, which the standby does not have yet
    lag: float | None = None  # seconds since the oldest of these keys was written; 0 if there are no keys
    last_round: datetime | None = None  # end of the relay's last apply cycle
    replay_seconds: float | None = None  # duration of that cycle
    tables: int | None = None  # number of transferred tables
    copied: int | None = None  # number of tables that are copied completely
    verified_at: datetime | None = None
    verified_equal: bool | None = None
    journal: list[dict[str, Any]] = field(default_factory=list)  # the last ten entries, newest first

    def as_dict(self) -> dict[str, Any]:
        """Return the status for JSON output."""
        return asdict(self)


def read_status(sides: Sides, timeout: float = 30.0) -> Status:
    """Read the status from both sides.

    A side that cannot be reached is reported in `in_the_way`. Each value that it would supply stays None.

    Args:
        timeout: Seconds for all queries together.

    Raises:
        psycopg.Error: A connection was lost, or a side did not answer within `timeout`.
    """
    status = Status()
    deadline = monotonic() + timeout
    connections: dict[SideName, Connection] = {}
    try:
        for side in sides:
            try:
                connections[side.name] = connection = side.connect(timeout=3)
                connection.deadline = deadline
            except UnavailableError as error:
                status.in_the_way.append(error.message)
        _read(status, connections)
    finally:
        for connection in connections.values():
            connection.close()
    return status


def _read(status: Status, connections: dict[SideName, Connection]) -> None:
    status.sides.update(read_side_rows(connections))
    if len(connections) == 2:
        status.stage = stage_of(status.sides["legacy"], status.sides["primary"])
    status.live = _live_side(status)
    for name, connection in connections.items():
        row = status.sides[name]
        if row is None:
            continue
        if row.state == "standby":
            _read_standby(status, connection, row)
        else:
            _read_source(status, connection)
        unguarded = change_capture.tables_without_triggers(connection)
        if unguarded:
            status.in_the_way.append(f"{name}: tables without fence and capture: {', '.join(unguarded)}")
            if status.stage in (Stage.RELAYING, Stage.COPYING):
                status.stage = Stage.STARTING
    if status.stage is Stage.RELAYING and (status.copied or 0) < (status.tables or 0):
        status.stage = Stage.COPYING
    status.next = _next(status)


def _live_side(status: Status) -> SideName | None:
    if status.stage is Stage.NOT_STARTED:
        return "legacy"
    is_open = [name for name, row in status.sides.items() if row is not None and row.state == "open"]
    return is_open[0] if len(is_open) == 1 else None


def _read_source(status: Status, connection: Connection) -> None:
    status.marks, status.lag = read_backlog(connection)
    row = connection.execute(f"SELECT finished_at, seconds FROM {SCHEMA}.relay").fetchone()
    status.last_round, status.replay_seconds = row if row else (None, None)
    row = connection.execute(f"SELECT count(*) FROM {SCHEMA}.moved").fetchone()
    status.tables = row[0] if row else None
    status.journal = [
        {"at": at, "step": step, "detail": detail}
        for at, step, detail in connection.execute(
            f"SELECT at, step, detail FROM {SCHEMA}.journal ORDER BY id DESC LIMIT 10"
        )
    ]
    _read_verification(status, connection)


def _read_standby(status: Status, connection: Connection, row: SideRow) -> None:
    if row.name == "primary":
        status.copied = len(copied_tables(connection))
    waiting, _ = read_backlog(connection)
    if waiting and status.stage is not Stage.HANDED_OVER:
        status.in_the_way.append(
            f"{row.name} is the standby, but its change log holds {waiting} changes made there:"
            " run `frontdesk transfer verify`"
        )
    _read_verification(status, connection)


def _read_verification(status: Status, connection: Connection) -> None:
    last = connection.execute(
        f"SELECT at, equal FROM {SCHEMA}.verifications ORDER BY at DESC LIMIT 1"
    ).fetchone()
    if last is not None and (status.verified_at is None or last[0] > status.verified_at):
        status.verified_at, status.verified_equal = last


def read_backlog(connection: Connection) -> tuple[int, float]:
    """Return the number of keys in this side's change log, and the age of the oldest in seconds."""
    row = connection.execute(
        "SELECT count(*), coalesce(extract(epoch FROM clock_timestamp() - min(at)), 0)::float8"
        f" FROM {SCHEMA}.marks"
    ).fetchone()
    return (row[0], max(0.0, row[1])) if row else (0, 0.0)


def copied_tables(connection: Connection) -> list[str]:
    """Return the names of the tables that have been copied to this side completely."""
    rows = connection.execute(
        f"SELECT table_name FROM {SCHEMA}.copied WHERE finished_at IS NOT NULL ORDER BY table_name"
    )
    return [name for (name,) in rows]


_NEXT = {
    Stage.NOT_STARTED: "frontdesk transfer plan, then frontdesk transfer start",
    Stage.STARTING: "frontdesk transfer start",
    Stage.COPYING: "frontdesk transfer copy",
    Stage.CUT_OVER: "frontdesk transfer finish, or frontdesk transfer rollback",
    Stage.CLOSING: "wait a moment: a cutover or rollback is running, or the side opens again by itself",
    Stage.HANDED_OVER: "frontdesk transfer cutover",
    Stage.UNKNOWN: "make both databases reachable",
    Stage.BROKEN: "stop all writes; read the journal, then restore the rows of frontdesk_transfer.side",
}


def _next(status: Status) -> str:
    if status.stage is Stage.RELAYING:
        if status.verified_equal:
            return "frontdesk transfer cutover"
        if status.verified_equal is False:
            return "frontdesk transfer repair, then frontdesk transfer verify"
        return "keep frontdesk transfer relay running, and run frontdesk transfer verify"
    return _NEXT[status.stage]
