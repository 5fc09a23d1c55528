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
from app.transfer.relay.apply_cycle import CycleResult, DirectionChangedError, is_change_log_empty
from app.transfer.relay.session_pair import NotStartedError, SessionPair, SideRows

log = logging.getLogger(__name__)

LOG_POLL_SECONDS = 0.1  # seconds between looks at an empty log
MAX_RETRY_DELAY_SECONDS = 5.0  # the longest pause between attempts to reach a server
ABANDONED_AFTER_SECONDS = 5.0  # seconds between handing over and opening; a cutover takes some milliseconds
MAX_CONSTRAINT_FAILURES = 5  # rounds that a constraint of the standby may refuse in a row

CONNECTION_LOST_ERRORS = (
    UnavailableError,
    psycopg.OperationalError,
    psycopg.errors.IdleInTransactionSessionTimeout,
)

OnCycle = Callable[[SideName, CycleResult], object]
OnProblem = Callable[[str], object]


def relay(
    sides: Sides,
    stop: Event,
    on_cycle: OnCycle = lambda source, result: None,
    on_problem: OnProblem = lambda reason: None,
) -> None:
    """Replay until `stop` is set or the move is finished.

    Raises NotStartedError, and ConflictError where rows are in the way.
    """
    pause, refused, watch, is_moving = LOG_POLL_SECONDS, 0, _UnchangedTimer(), False
    busy: SideName | None = None  # the side whose log was not empty a moment ago
    with SessionPair(sides) as link:
        while not stop.wait(pause):
            try:
                source = busy or _select_source(link, watch)
                busy, result = None, CycleResult()
                if source is not None:
                    result = link.run_cycle(source)
                    link.vacuum_log_if_due(source)
            except CONNECTION_LOST_ERRORS as error:
                # A server is down or restarts, or a lock was not to be had: the log keeps everything.
                on_problem(_reason(error))
                link.close()
                pause = min(MAX_RETRY_DELAY_SECONDS, 2 * pause)
            except psycopg.IntegrityError as error:
                refused += 1
                if refused >= MAX_CONSTRAINT_FAILURES:
                    raise _row_conflict(error) from error
                pause = min(MAX_RETRY_DELAY_SECONDS, 2 * pause)
            except (DirectionChangedError, psycopg.errors.UndefinedTable):  # `finish` takes the tables away
                pause = LOG_POLL_SECONDS
            except NotStartedError:
                if not is_moving:
                    raise
                on_problem("The move is finished: there is nothing left to relay.")
                return
            else:
                is_moving = True
                refused, pause = 0, LOG_POLL_SECONDS
                if source is not None and result.entries:
                    on_cycle(source, result)
                    busy, pause = source, 0.0


def drain(sides: Sides, *, dry_run: bool = False) -> CycleResult:
    """Replay all that waits now, in one round, which `dry_run` takes back.

    Raises NotStartedError, ConflictError (not copied yet, or rows in the way), UnavailableError.
    """
    with SessionPair(sides) as link:
        source = link.read_side_rows().source
        link.require_complete_copy(source)
        try:
            return link.run_cycle(source, dry_run=dry_run)
        except psycopg.IntegrityError as error:
            raise _row_conflict(error) from error


class _UnchangedTimer:
    """How long the sides have been as they are."""

    def __init__(self) -> None:
        self._seen: SideRows | None = None
        self._since = 0.0

    def seconds_unchanged(self, rows: SideRows) -> float:
        if rows != self._seen:
            self._seen, self._since = rows, monotonic()
        return monotonic() - self._since


def _select_source(link: SessionPair, watch: _UnchangedTimer) -> SideName | None:
    """The side whose changes wait, if any do."""
    rows = link.read_side_rows()
    waited = watch.seconds_unchanged(rows)
    if rows.stage is Stage.HANDED_OVER:  # whoever is at it goes on; there is nothing to replay
        if waited > ABANDONED_AFTER_SECONDS:
            ahead, behind = rows.ahead_and_behind
            log.warning("%s was left closed by a cutover or rollback that was lost; opening it", behind.name)
            fencing.open_(link.session(behind.name), ahead)
        return None
    source = rows.source
    try:
        link.require_complete_copy(source)
    except ConflictError:
        return None  # the log waits for the copy
    return None if is_change_log_empty(link.session(source)) else source


def _row_conflict(error: psycopg.Error) -> ConflictError:
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
