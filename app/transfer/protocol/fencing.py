"""The protocol: how exactly one side takes writes, whatever is killed or frozen in between.

State is the one row of `side` on either side: (open, closing or standby; epoch; attempt). Each step is one
call of the server, so that nobody who is frozen in the middle holds a lock. The way from one side to the
other at epoch e:

    open e, standby e  --close-->  closing e, standby e  --hand over-->  standby e+1, standby e
    --open-->  standby e+1, open e+1

Handing over is the one irrevocable point. Before it, `reopen` takes the closing back, and so does time: a
side is closed until a moment on its own server's clock, so that nobody who lost his network keeps writers
waiting. After it there is only forward. Whoever comes along can go on from the two rows alone.
"""

from dataclasses import dataclass
from typing import Any, Literal

import psycopg

from app.database.advisory_locks import AdvisoryLock
from app.errors import FrontdeskError
from app.transfer.protocol.endpoints import SideName
from app.transfer.protocol.pipeline import Statement, execute_batch
from app.transfer.protocol.tables import SCHEMA

FenceState = Literal["open", "closing", "standby"]

REHEARSAL_SQLSTATE = "FD002"

_FUNCTIONS = f"""
-- The lock waits for every transaction that has written, and those to come wait behind it. When this
-- returns, all that was acknowledged is committed with its marks. Closing again takes over from whoever
-- closed before. `pause` counts from the moment when the request arrived: so long writers wait at most.
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

-- What was reopened already, by a call whose answer was lost or by time, is so: writers have the row by then.
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

-- The lock as in `close`: whoever writes because time has opened the side is seen here, or sees this. Row
-- first, log second: a single statement could have waited for the row with a snapshot from before.
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

-- For a rehearsal: closing, and writing the row, taken back by the same call.
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
    """Somebody else has gone on with this move; see `frontdesk transfer status`."""


class PauseExpiredError(FrontdeskError):
    """The time for which writes may wait is over; the side has opened by itself."""


class NotDrainedError(FrontdeskError):
    """Changes have come that the other side does not have."""


@dataclass(frozen=True)
class SideRow:
    """The row of one side."""

    name: SideName
    state: FenceState
    epoch: int
    attempt: int


def create_functions(connection: psycopg.Connection[Any]) -> None:
    """Make the steps. The caller's transaction."""
    connection.execute(_FUNCTIONS)


def side_row_query(*, lock: str = "") -> str:
    """What asks for the row of a side. `lock`: FOR SHARE or FOR UPDATE, until the transaction ends."""
    return (
        "SELECT name,"
        " CASE WHEN state = 'closing' AND until < clock_timestamp() THEN 'open' ELSE state END,"
        f" epoch, attempt FROM {SCHEMA}.side {lock}"
    )


def parse_side_row(answer: list[Any]) -> SideRow:
    """What was answered to it."""
    if not answer:
        raise FrontdeskError(
            "The move has lost its row: `frontdesk transfer finish --force` removes the rest."
        )
    return SideRow(*answer[0])


def read_side_row(connection: psycopg.Connection[Any]) -> SideRow:
    """The row of this side, now."""
    return parse_side_row(connection.execute(side_row_query()).fetchall())


def close(
    connection: psycopg.Connection[Any],
    epoch: int,
    lock_timeout: float,
    pause: float,
    *then: Statement,
) -> tuple[int, list[Any]]:
    """Open (or closing) to closing, for `pause` seconds; the attempt, which is now ours alone.

    Waits `lock_timeout` seconds at most, during which new writers wait as well, then raises
    psycopg.errors.LockNotAvailable. Raises TakenOverError where the side is at another epoch. `then`: what
    the same message asks for once the side is closed; the answers to it are returned, too.
    """
    call = _call("close", epoch, max(1, round(lock_timeout * 1000)), round(pause * 1000))
    _, [(attempt,)], _, *answers = execute_batch(connection, "BEGIN", call, "COMMIT", *then)
    if attempt is None:
        raise TakenOverError
    return int(attempt), answers


def reopen(connection: psycopg.Connection[Any], epoch: int, attempt: int, *before: Statement) -> bool:
    """Closing back to open, if it is not yet; False where that closing is not ours any more.

    `before`: what the same message has to do first.
    """
    return bool(_run_function(connection, *before, _call("reopen", epoch, attempt)))


def hand_over(connection: psycopg.Connection[Any], epoch: int, attempt: int, *before: Statement) -> None:
    """Closing at `epoch` to standby at `epoch + 1`: the one irrevocable step.

    `before`: what the same message has to do first. Raises NotDrainedError, TooLateError or TakenOverError,
    and then the side is as it was.
    """
    answer = _run_function(connection, *before, _call("hand_over", epoch, attempt))
    if answer == "too late":
        raise PauseExpiredError
    if answer == "not drained":
        raise NotDrainedError
    if answer != "done":
        raise TakenOverError


def open_(connection: psycopg.Connection[Any], other: SideRow) -> bool:
    """Standby to open at the epoch of the `other` side, which was seen as a standby one epoch ahead.

    False where it was opened already.
    """
    if other.state != "standby":
        raise TakenOverError
    return bool(_run_function(connection, _call("open", other.epoch - 1)))


def rehearse_close(connection: psycopg.Connection[Any], epoch: int, lock_timeout: float) -> None:
    """`close`, taken back at once. Raises psycopg's errors."""
    _run_function(connection, _call("try_close", epoch, max(1, round(lock_timeout * 1000))))


def rehearse_row_update(connection: psycopg.Connection[Any]) -> None:
    """Write the row as it is, taken back at once. Raises psycopg's errors."""
    _run_function(connection, _call("try_row"))


def _call(function: str, *arguments: int) -> str:
    return f"SELECT {SCHEMA}.{function}({', '.join(map(str, arguments))})"


def _run_function(connection: psycopg.Connection[Any], *statements: Statement) -> Any:
    """What the last of them, a function, has answered."""
    [(answer,)] = execute_batch(connection, *statements)[-1]
    return answer
