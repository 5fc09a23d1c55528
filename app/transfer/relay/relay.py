"""The relay: keeps the standby up to date, round after round, until it is told to stop.

It follows the direction of the move by itself, waits for servers that are down, and is never in a writer's
way. Where somebody has handed over and was lost before he could open the other side, it does that.
"""

import logging
from collections.abc import Callable
from threading import Event
from time import monotonic

import psycopg

from app.errors import ConflictError, FrontdeskError, SideLostError, UnavailableError
from app.transfer.protocol import fencing
from app.transfer.protocol.endpoints import SideName, Sides
from app.transfer.protocol.stages import Stage
from app.transfer.relay.apply_cycle import MovedOnError, Round, is_drained
from app.transfer.relay.session_pair import Link, NotStartedError, Rows

log = logging.getLogger(__name__)

INTERVAL = 0.1  # seconds between looks at an empty log
PATIENCE = 5.0  # the longest pause between attempts to reach a server
LEFT_ALONE = 5.0  # seconds between handing over and opening; a cutover takes some milliseconds
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
    busy: SideName | None = None  # the side whose log was not empty a moment ago
    with Link(sides) as link:
        while not stop.wait(pause):
            try:
                source = busy or _look(link, watch)
                busy, result = None, Round()
                if source is not None:
                    result = link.round(source)
                    link.tidy(source)
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
                refused, pause = 0, INTERVAL
                if source is not None and result.marks:
                    on_round(source, result)
                    busy, pause = source, 0.0


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
    """How long the sides have been as they are."""

    def __init__(self) -> None:
        self._seen: Rows | None = None
        self._since = 0.0

    def seconds(self, rows: Rows) -> float:
        if rows != self._seen:
            self._seen, self._since = rows, monotonic()
        return monotonic() - self._since


def _look(link: Link, watch: _Watch) -> SideName | None:
    """The side whose changes wait, if any do."""
    rows = link.look()
    waited = watch.seconds(rows)
    if rows.stage is Stage.HANDED_OVER:  # whoever is at it goes on; there is nothing to replay
        if waited > LEFT_ALONE:
            ahead, behind = rows.ahead_and_behind
            log.warning("%s was left closed by a cutover or rollback that was lost; opening it", behind.name)
            fencing.open_(link.to(behind.name), ahead)
        return None
    source = rows.source
    try:
        link.refuse_incomplete_copy(source)
    except ConflictError:
        return None  # the log waits for the copy
    return None if is_drained(link.to(source)) else source


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
    if isinstance(error, SideLostError):
        return str(error)
    state = getattr(error, "sqlstate", None)
    return f"the connection was lost (SQLSTATE {state})" if state else "the connection was lost"


__all__ = ["NotStartedError", "drain", "relay"]
