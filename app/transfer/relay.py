"""The relay: keeps the standby up to date, round after round, until it is told to stop.

It follows the direction of the move by itself, waits for servers that are down, and is never in a writer's
way. It opens a side that somebody has closed and left: nothing is lost by that, and writers go on.
"""

import logging
from collections.abc import Callable
from threading import Event
from time import monotonic

import psycopg

from app.errors import ConflictError, FrontdeskError, UnavailableError
from app.transfer import protocol
from app.transfer.link import Link, NotStartedError
from app.transfer.protocol import Row
from app.transfer.replay import MovedOnError, Round
from app.transfer.sides import SideName, Sides
from app.transfer.stages import Stage

log = logging.getLogger(__name__)

INTERVAL = 0.1  # seconds between looks at an empty log
PATIENCE = 5.0  # the longest pause between attempts to reach a server
LEFT_ALONE = 30.0  # seconds that a side may stay closed; a cutover takes far less than one
ATTEMPTS = 5  # rounds that a constraint of the standby may refuse in a row

LOST = (UnavailableError, psycopg.OperationalError, psycopg.errors.IdleInTransactionSessionTimeout)

OnRound = Callable[[SideName, Round], object]
OnTrouble = Callable[[str], object]


def relay(
    sides: Sides,
    stop: Event,
    on_round: OnRound = lambda source, result: None,
    on_trouble: OnTrouble = lambda reason: None,
) -> None:
    """Replay until `stop` is set or the move is finished.

    Raises NotStartedError, and ConflictError where rows are in the way.
    """
    pause, refused, watch, is_moving = INTERVAL, 0, _Watch(), False
    with Link(sides) as link:
        while not stop.wait(pause):
            try:
                result = _round(link, watch, on_round)
            except LOST as error:
                # A server is down or restarts, or a lock was not to be had: the log keeps everything.
                on_trouble(_reason(error))
                link.close()
                pause = min(PATIENCE, 2 * pause)
            except psycopg.IntegrityError as error:
                refused += 1
                if refused >= ATTEMPTS:
                    raise _in_the_way(error) from error
                pause = min(PATIENCE, 2 * pause)
            except (MovedOnError, psycopg.errors.UndefinedTable):  # `finish` takes the tables away
                pause = INTERVAL
            except NotStartedError:
                if not is_moving:
                    raise
                on_trouble("The move is finished: there is nothing left to relay.")
                return
            else:
                is_moving = True
                refused, pause = 0, 0.0 if result.marks else INTERVAL


def drain(sides: Sides, *, dry_run: bool = False) -> Round:
    """Replay all that waits now, in one round, which `dry_run` takes back.

    Raises NotStartedError, ConflictError (not copied yet, or rows in the way), UnavailableError.
    """
    with Link(sides) as link:
        source = link.look().source
        link.refuse_incomplete_copy(source)
        try:
            return link.round(source, dry_run=dry_run)
        except psycopg.IntegrityError as error:
            raise _in_the_way(error) from error


class _Watch:
    """How long a side has been closed by the same attempt."""

    def __init__(self) -> None:
        self._seen: Row | None = None
        self._since = 0.0

    def seconds(self, row: Row) -> float:
        if row != self._seen:
            self._seen, self._since = row, monotonic()
        return monotonic() - self._since


def _round(link: Link, watch: _Watch, on_round: OnRound) -> Round:
    rows = link.look()
    if rows.stage is Stage.HANDED_OVER:  # whoever is at it goes on; there is nothing to replay
        return Round()
    source = rows.source
    row = rows.of(source)
    if row.state == "closing" and watch.seconds(row) > LEFT_ALONE:
        log.warning("%s was closed and left by a cutover or rollback that ended; opening it again", source)
        protocol.reopen(link.to(source), row.epoch, row.attempt)
        return Round()
    try:
        link.refuse_incomplete_copy(source)
    except ConflictError:
        return Round()  # the log waits for the copy
    result = link.round(source)
    if result.marks:
        on_round(source, result)
    link.tidy(source)
    return result


def _in_the_way(error: psycopg.Error) -> ConflictError:
    where = f"{error.diag.table_name or 'a table'} ({error.diag.constraint_name})"
    return ConflictError(
        f"A row of the standby's is in the way, in {where}: `frontdesk transfer verify` finds it,"
        " `frontdesk transfer repair` removes it."
    )


def _reason(error: Exception) -> str:
    """What to tell an operator: no values."""
    if isinstance(error, FrontdeskError):
        return error.message
    state = getattr(error, "sqlstate", None)
    return f"the connection was lost (SQLSTATE {state})" if state else "the connection was lost"


__all__ = ["NotStartedError", "drain", "relay"]
