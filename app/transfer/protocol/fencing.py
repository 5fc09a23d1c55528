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

from app.database.advisory_locks import AdvisoryLock
from app.database.connection import Connection
from app.errors import FrontdeskError
from app.transfer.protocol.endpoints import SideName
from app.transfer.protocol.pipeline import Rows, Statement, StatementBatch, single_value
from app.transfer.protocol.tables import SCHEMA

FenceState = Literal["open", "closing", "standby"]

REHEARSAL_SQLSTATE = "FD002"

# Parameters keep their names (`patience`: milliseconds to wait for the lock): CREATE OR REPLACE FUNCTION
# cannot rename the parameters of a function that a transfer in progress has already created.
_FUNCTIONS = f"""
-- The lock waits for every transaction that has written, and later writers queue behind it. When this
-- function returns, every acknowledged write is committed together with its change-log entries. Closing again
-- takes over from the command that closed before. `pause` counts from the arrival of the request, so writers
-- wait at most that long.
CREATE OR REPLACE FUNCTION {SCHEMA}.close(expected bigint, patience integer, pause integer) RETURNS bigint
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $frontdesk$
DECLARE mine bigint;
BEGIN
    PERFORM set_config('lock_timeout', patience::text, true);
    PERFORM pg_advisory_xact_lock({AdvisoryLock.TRANSFER_FENCE});
    UPDATE {SCHEMA}.side SET state = 'closing', attempt = attempt + 1,
            until = statement_timestamp() + make_interval(secs => pause / 1000.0)
        WHERE state IN ('open', 'closing') AND epoch = expected RETURNING attempt INTO mine;
    RETURN mine;
END $frontdesk$;

-- Returns true without an update if the side is open already: the answer to an earlier call was lost, or the
-- lease has expired. Such a side has writers, which may hold the lock on the row.
CREATE OR REPLACE FUNCTION {SCHEMA}.reopen(expected bigint, mine bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $frontdesk$
BEGIN
    PERFORM FROM {SCHEMA}.side WHERE epoch = expected AND attempt = mine
        AND (state = 'open' OR (state = 'closing' AND until < clock_timestamp()));
    IF NOT found THEN
        UPDATE {SCHEMA}.side SET state = 'open'
            WHERE state = 'closing' AND epoch = expected AND attempt = mine;
    END IF;
    RETURN found;
END $frontdesk$;

-- This function takes the same lock as `close`. A transaction that writes after the lease has expired either
-- commits before this function reads the change log, or starts after it and reads the new row. The row is
-- read first and the log second: a single statement could wait for the row and then read the log with an
-- older snapshot.
CREATE OR REPLACE FUNCTION {SCHEMA}.hand_over(expected bigint, mine bigint) RETURNS text
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $frontdesk$
DECLARE present {SCHEMA}.side;
BEGIN
    PERFORM set_config('lock_timeout', '1000', true);
    PERFORM pg_advisory_xact_lock({AdvisoryLock.TRANSFER_FENCE});
    SELECT * INTO present FROM {SCHEMA}.side FOR UPDATE;
    IF (present.state, present.epoch, present.attempt) IS DISTINCT FROM ('closing', expected, mine) THEN
        RETURN 'lost';
    END IF;
    IF present.until < clock_timestamp() THEN
        RETURN 'too late';
    END IF;
    IF EXISTS (SELECT FROM {SCHEMA}.marks) THEN
        RETURN 'not drained';
    END IF;
    UPDATE {SCHEMA}.side SET state = 'standby', epoch = expected + 1;
    RETURN 'done';
END $frontdesk$;

CREATE OR REPLACE FUNCTION {SCHEMA}.open(expected bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $frontdesk$
BEGIN
    UPDATE {SCHEMA}.side SET state = 'open', epoch = expected + 1, attempt = 0
        WHERE state = 'standby' AND epoch = expected;
    RETURN found;
END $frontdesk$;

-- For dry runs: `try_close` closes the side and `try_row` writes the row; both roll back in the same call.
CREATE OR REPLACE FUNCTION {SCHEMA}.try_close(expected bigint, patience integer) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $frontdesk$
BEGIN
    PERFORM {SCHEMA}.close(expected, patience, patience);
    RAISE 'taken back' USING ERRCODE = '{REHEARSAL_SQLSTATE}';
EXCEPTION WHEN SQLSTATE '{REHEARSAL_SQLSTATE}' THEN
    RETURN;
END $frontdesk$;

CREATE OR REPLACE FUNCTION {SCHEMA}.try_row() RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $frontdesk$
BEGIN
    UPDATE {SCHEMA}.side SET attempt = attempt;
    RAISE 'taken back' USING ERRCODE = '{REHEARSAL_SQLSTATE}';
EXCEPTION WHEN SQLSTATE '{REHEARSAL_SQLSTATE}' THEN
    RETURN;
END $frontdesk$;
"""


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
    connection.execute(_FUNCTIONS)


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
