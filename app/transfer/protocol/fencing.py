"""The fencing protocol: at most one side accepts writes, even if commands or servers are killed or frozen.

The state is one row in the table `side` on each side: (open, closing or standby; epoch; attempt). Each step
is one message to the server, so that a process that is frozen between steps holds no lock. Switching from one
side to the other at epoch e:

    open e, standby e  --close-->  closing e, standby e  --hand over-->  standby e+1, standby e
    --open-->  standby e+1, open e+1

Handing over is the only irrevocable step. Before it, `reopen` cancels the closing. A closing is also a lease
that expires at a time on its own server's clock, so that a command that loses its network does not block
writers for longer. After the hand-over, the only next step is `open`. Any command can continue from the two
rows alone.
"""

from dataclasses import dataclass
from typing import Any, Literal, Self

from psycopg import sql

from app.database.advisory_locks import AdvisoryLock
from app.database.connection import Connection
from app.database.sql_files import read_script
from app.errors import FrontdeskError
from app.transfer.protocol.endpoints import SideName
from app.transfer.protocol.pipeline import Rows, Statement, StatementBatch, single_value
from app.transfer.protocol.tables import SCHEMA

FenceState = Literal["open", "closing", "standby"]


class TakenOverError(FrontdeskError):
    """Another command has continued this switch; see `frontdesk transfer status`."""


class PauseExpiredError(FrontdeskError):
    """The maximum pause of writes has expired; the side has opened again by itself."""


class NotDrainedError(FrontdeskError):
    """The change log holds changes that the other side does not have yet."""


@dataclass(frozen=True)
class SideRow:
    """The row of `side` on one side. An expired closing is reported as open."""

    name: SideName
    state: FenceState
    epoch: int
    attempt: int


@dataclass(frozen=True)
class Closing:
    """One closing of a side. Only `close` returns this value; `reopen` and `hand_over` need it."""

    epoch: int
    attempt: int


@dataclass(frozen=True)
class HandedOver:
    """Proof that a side has handed over: it is a standby at this epoch. `open_` needs it for the other side.

    Only `hand_over` and `HandedOver.of` create this value.
    """

    epoch: int

    @classmethod
    def of(cls, row: SideRow) -> Self:
        """Return the proof for a side whose row has been read. Raises TakenOverError if it is no standby."""
        if row.state != "standby":
            raise TakenOverError
        return cls(row.epoch)


def create_functions(connection: Connection) -> None:
    """Create the functions of the protocol's steps, in the caller's transaction."""
    functions = sql.SQL(read_script(__package__, "fencing.sql"))
    connection.execute(functions.format(fence_lock=AdvisoryLock.TRANSFER_FENCE.value))


def side_row_query(*, lock: str = "") -> str:
    """Return the query that reads the row of a side, for `parse_side_row`.

    `lock`: FOR SHARE or FOR UPDATE, to lock the row until the transaction ends.
    """
    return (
        "SELECT name,"
        " CASE WHEN state = 'closing' AND until < clock_timestamp() THEN 'open' ELSE state END,"
        f" epoch, attempt FROM {SCHEMA}.side {lock}"
    )


def parse_side_row(rows: Rows) -> SideRow:
    """Return the result rows of `side_row_query` as a SideRow. Raises FrontdeskError if there is no row."""
    if not rows:
        raise FrontdeskError(
            "The transfer's state row is missing: run `frontdesk transfer finish --force` to remove the rest."
        )
    return SideRow(*rows[0])


def read_side_row(connection: Connection) -> SideRow:
    """Read the row of this side."""
    return parse_side_row(connection.execute(side_row_query()).fetchall())


def close(
    connection: Connection,
    epoch: int,
    lock_timeout: float,
    pause: float,
    then: StatementBatch | None = None,
) -> Closing:
    """Close the side, which is open or closing, for `pause` seconds.

    Args:
        epoch: The epoch that the side must have.
        lock_timeout: Seconds to wait for running writers. New writers wait as well during this time.
        pause: Seconds after which the side opens again by itself.
        then: Statements that the same message runs once the side is closed.

    Raises:
        psycopg.errors.LockNotAvailable: A transaction that has written did not end within `lock_timeout`.
        TakenOverError: The side is at another epoch.
    """
    call = _call("close", epoch, max(1, round(lock_timeout * 1000)), round(pause * 1000))
    batch = StatementBatch("BEGIN")
    attempt = batch.add_query(call, single_value)
    batch.add("COMMIT")
    if then is not None:
        batch.extend(then)
    batch.execute(connection)
    if attempt.read() is None:
        raise TakenOverError
    return Closing(epoch, attempt.read())


def reopen(connection: Connection, closing: Closing, *before: Statement) -> bool:
    """Cancel the closing, so that the side is open.

    `before`: statements that the same message runs first. Returns False if another command has taken over the
    closing.
    """
    return bool(_call_function(connection, _call("reopen", closing.epoch, closing.attempt), *before))


def hand_over(connection: Connection, closing: Closing, *before: Statement) -> HandedOver:
    """Make the side that is closing a standby at the next epoch. This step is irrevocable.

    `before`: statements that the same message runs first.

    Raises:
        NotDrainedError, PauseExpiredError, TakenOverError: The side is unchanged.
    """
    answer = _call_function(connection, _call("hand_over", closing.epoch, closing.attempt), *before)
    if answer == "too late":
        raise PauseExpiredError
    if answer == "not drained":
        raise NotDrainedError
    if answer != "done":
        raise TakenOverError
    return HandedOver(closing.epoch + 1)


def open_(connection: Connection, other: HandedOver) -> bool:
    """Open this standby at the epoch of the `other` side. Returns False if this side is open already."""
    return bool(_call_function(connection, _call("open", other.epoch - 1)))


def rehearse_close(connection: Connection, epoch: int, lock_timeout: float) -> None:
    """Close the side and roll back at once, for a dry run. Raises psycopg's errors."""
    _call_function(connection, _call("try_close", epoch, max(1, round(lock_timeout * 1000))))


def rehearse_row_update(connection: Connection) -> None:
    """Update the side's row without a change and roll back, for a dry run. Raises psycopg's errors."""
    _call_function(connection, _call("try_row"))


def _call(function: str, *arguments: int) -> str:
    return f"SELECT {SCHEMA}.{function}({', '.join(map(str, arguments))})"


def _call_function(connection: Connection, call: str, *before: Statement) -> Any:
    """Run the statements `before` and then the call in one message; return the call's result."""
    batch = StatementBatch(*before)
    answer = batch.add_query(call, single_value)
    batch.execute(connection)
    return answer.read()
