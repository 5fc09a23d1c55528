"""The relay: run apply cycles that keep the standby up to date, until it is stopped.

It follows the direction of the transfer, waits for servers that are down, and never blocks writers. If a
cutover or rollback command dies after the hand-over and before it opens the other side, the relay opens it.
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

LOG_POLL_SECONDS = 0.1  # interval for polling an empty change log
MAX_RETRY_DELAY_SECONDS = 5.0  # upper limit of the delay between attempts to reach a server
# Time between hand-over and opening after which a cutover counts as dead; it normally takes milliseconds.
ABANDONED_AFTER_SECONDS = 5.0
MAX_CONSTRAINT_FAILURES = 5  # consecutive cycles that may fail on a constraint of the standby

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
    """Run apply cycles until `stop` is set or the transfer is finished.

    `on_cycle` is called after each cycle that applied changes, `on_problem` with a reason for each cycle that
    failed and will be retried. Raises NotStartedError if no transfer has been started, and ConflictError if
    rows of the standby violate a constraint in MAX_CONSTRAINT_FAILURES consecutive cycles.
    """
    pause, refused, watch, is_moving = LOG_POLL_SECONDS, 0, _UnchangedTimer(), False
    busy: SideName | None = None  # the side whose log was not empty in the previous cycle
    with SessionPair(sides) as link:
        while not stop.wait(pause):
            try:
                source = busy or _select_source(link, watch)
                busy, result = None, CycleResult()
                if source is not None:
                    result = link.run_cycle(source)
                    link.vacuum_log_if_due(source)
            except CONNECTION_LOST_ERRORS as error:
                # A server is down or restarting, or a lock timed out: the entries stay in the change log.
                on_problem(_reason(error))
                link.close()
                pause = min(MAX_RETRY_DELAY_SECONDS, 2 * pause)
            except psycopg.IntegrityError as error:
                refused += 1
                if refused >= MAX_CONSTRAINT_FAILURES:
                    raise _row_conflict(error) from error
                pause = min(MAX_RETRY_DELAY_SECONDS, 2 * pause)
            except (DirectionChangedError, psycopg.errors.UndefinedTable):  # `finish` drops the tables
                pause = LOG_POLL_SECONDS
            except NotStartedError:
                if not is_moving:
                    raise
                on_problem("The transfer is finished: there is nothing left to relay.")
                return
            else:
                is_moving = True
                refused, pause = 0, LOG_POLL_SECONDS
                if source is not None and result.entries:
                    on_cycle(source, result)
                    busy, pause = source, 0.0


def drain(sides: Sides, *, dry_run: bool = False) -> CycleResult:
    """Apply all pending changes in one cycle, which is rolled back if `dry_run`, and return its result.

    Raises NotStartedError if no transfer has been started, ConflictError if the copy is incomplete or rows of
    the standby violate a constraint, and UnavailableError if a server cannot be reached.
    """
    with SessionPair(sides) as link:
        source = link.read_side_rows().source
        link.require_complete_copy(source)
        try:
            return link.run_cycle(source, dry_run=dry_run)
        except psycopg.IntegrityError as error:
            raise _row_conflict(error) from error


class _UnchangedTimer:
    """Measures for how long the state of both sides has been unchanged."""

    def __init__(self) -> None:
        self._seen: SideRows | None = None
        self._since = 0.0

    def seconds_unchanged(self, rows: SideRows) -> float:
        if rows != self._seen:
            self._seen, self._since = rows, monotonic()
        return monotonic() - self._since


def _select_source(link: SessionPair, watch: _UnchangedTimer) -> SideName | None:
    """Return the live side if it has pending changes that can be applied, else None.

    Opens a side that a dead cutover or rollback left closed after its hand-over.
    """
    rows = link.read_side_rows()
    waited = watch.seconds_unchanged(rows)
    if rows.stage is Stage.HANDED_OVER:  # another command is about to open the side; nothing to apply
        if waited > ABANDONED_AFTER_SECONDS:
            ahead, behind = rows.ahead_and_behind
            log.warning("A cutover or rollback did not finish and left %s closed; opening it", behind.name)
            fencing.open_(link.session(behind.name), fencing.HandedOver.of(ahead))
        return None
    source = rows.source
    try:
        link.require_complete_copy(source)
    except ConflictError:
        return None  # the entries stay in the log until the copy is complete
    return None if is_change_log_empty(link.session(source)) else source


def _row_conflict(error: psycopg.Error) -> ConflictError:
    where = f"{error.diag.table_name or 'a table'} ({error.diag.constraint_name})"
    return ConflictError(
        f"A row of the standby conflicts with a change from the live side, in {where}:"
        " `frontdesk transfer verify` finds it, `frontdesk transfer repair` removes it."
    )


def _reason(error: Exception) -> str:
    """Describe an error for operators, without values of rows."""
    if isinstance(error, FrontdeskError):
        return error.message
    if isinstance(error, SideLostError):
        return str(error)
    state = getattr(error, "sqlstate", None)
    return f"the connection was lost (SQLSTATE {state})" if state else "the connection was lost"


__all__ = ["NotStartedError", "drain", "relay"]
