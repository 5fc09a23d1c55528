"""Cutover and rollback: change the live side, with a write pause of a fraction of a second.

Both directions use the same steps. Before the hand-over, every failure opens the old side again: this command
does it, or, if it cannot, the closing expires by itself. After the hand-over there is no way back: run the
command again, and it continues from there.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any, TypeVar

import psycopg

from app.database.connection import Connection
from app.errors import ConflictError, DeadlineError, UnavailableError, to_frontdesk_error
from app.transfer.cutover import active_writers, preflight
from app.transfer.cutover.latency import Latency
from app.transfer.cutover.report import CutoverReport, OnStepDone, Step
from app.transfer.protocol import fencing, journal
from app.transfer.protocol.endpoints import SideName, Sides
from app.transfer.protocol.fencing import Closing, HandedOver, TakenOverError
from app.transfer.protocol.pipeline import Answer, StatementBatch
from app.transfer.protocol.stages import Stage, other_side
from app.transfer.relay import sequences
from app.transfer.relay.apply_cycle import (
    AppliedRows,
    DirectionChangedError,
    DurableSource,
    SourceQueries,
    SourceSnapshot,
)
from app.transfer.relay.relay import CONNECTION_LOST_ERRORS
from app.transfer.relay.sequences import SequenceInfo, SequencePosition
from app.transfer.relay.session_pair import SessionPair, SideRows

log = logging.getLogger(__name__)

MAX_PAUSE_SECONDS = 1.0  # default limit of the write pause
QUIET_TIMEOUT_SECONDS = 10.0  # how long to wait for a moment when only short transactions write
CLOSE_ATTEMPTS = 5
MAX_CATCH_UP_CYCLES = 50
CATCH_UP_SECONDS = 0.03  # apply time, without round trips, of a cycle at which catching up ends
CATCH_UP_TRIES = 5  # cycles that try to reach CATCH_UP_SECONDS; later ones may take a quarter of max_pause
RETRY_FOR_SECONDS = 30.0  # how long to retry a step on an unreachable server
TAKEN_OVER = "Another command has taken over this cutover or rollback: run `frontdesk transfer status`."

T = TypeVar("T")


class HandOverUnknownError(UnavailableError):
    """Cannot determine whether the old side has handed over."""


class AbortedError(ConflictError):
    """The cutover or rollback was aborted, and the old side accepts writes again."""


def change_live_side(
    sides: Sides,
    to: SideName,
    *,
    max_pause: float = MAX_PAUSE_SECONDS,
    dry_run: bool = False,
    on_step: OnStepDone = lambda step: None,
) -> CutoverReport:
    """Make `to` the live side, after completing or undoing an interrupted earlier command.

    Args:
        sides: Both databases.
        to: The side to make live. Nothing is changed if it is live already.
        max_pause: Limit of the write pause, in seconds.
        dry_run: Rehearse every step and roll it back.
        on_step: Called after each step.

    Raises:
        AbortedError: The change was aborted after writes were paused; the old side accepts writes again.
        ConflictError: A precondition is not met; nothing has been changed.
        UnavailableError: A server cannot be reached in the middle of the change. Run the command again.
    """
    with SessionPair(sides) as link:
        return _LiveSideChange(link, to, max_pause, dry_run, on_step).run()


@dataclass(frozen=True)
class _ClosedSource:
    """The source has been closed. The answers to the queries sent in the same message are not checked yet."""

    closing: Closing
    queries: SourceQueries
    sequences: list[SequenceInfo]
    positions: Answer[list[SequencePosition]]


@dataclass(frozen=True)
class _PausedSource:
    """The snapshot was taken while the source was closed: it holds every acknowledged write."""

    closed: _ClosedSource
    snapshot: SourceSnapshot
    durable: DurableSource


@dataclass(frozen=True)
class _DrainedSource:
    """The target has committed the last changes and the sequences of the source."""

    closing: Closing
    applied: AppliedRows


class _LiveSideChange:
    """One cutover or rollback: its steps, and the state that they share."""

    def __init__(
        self, link: SessionPair, to: SideName, max_pause: float, dry_run: bool, on_step: OnStepDone
    ) -> None:
        self._sessions = link
        self._source, self._target = other_side(to), to
        self._max_pause = max_pause
        self._dry_run = dry_run
        self._on_step = on_step
        self._report = CutoverReport(to, dry_run)
        self._latency = Latency(0.0)
        self._pause_began = 0.0  # time.monotonic() when the last attempt to close the source began

    def run(self) -> CutoverReport:
        rows = self._sessions.read_side_rows()
        if rows.stage in (Stage.CLOSING, Stage.HANDED_OVER):
            rows = self._resume_earlier_command(rows)
        source = rows.source
        if source == self._target:
            self._report.was_live = True
            return self._report
        epoch = rows.require(source).epoch
        with self._step("preflight"):
            preflight.check(self._sessions, source)
        with self._step("network") as add_detail:
            add_detail(self._measure_latency())
        with self._step("catch up") as add_detail:
            add_detail(self._catch_up())
        if self._dry_run:
            self._rehearse(epoch)
        else:
            self._execute(epoch)
        return self._report

    def _resume_earlier_command(self, rows: SideRows) -> SideRows:
        """Complete an interrupted command if it has handed over; otherwise open the old side again."""
        if self._dry_run:
            raise ConflictError(
                f"An earlier cutover or rollback has stopped at {rows.stage.value!r}, and a dry run does not"
                " change it: run the command without --dry-run to continue."
            )
        if rows.stage is Stage.HANDED_OVER:
            ahead, behind = rows.ahead_and_behind
            with self._step(f"open {behind.name}, already handed over by an earlier command"):
                self._open(behind.name, HandedOver.of(ahead))
        else:
            source = rows.source
            with self._step(f"open {source} again, closed by an earlier command"):
                connection, epoch = self._sessions.session(source), rows.require(source).epoch
                closing = fencing.close(connection, epoch, self._max_pause, self._max_pause)
                fencing.reopen(connection, closing)
        return self._sessions.read_side_rows()

    def _measure_latency(self) -> str:
        """Measure the latency of both servers and return it as text.

        Raises ConflictError if the round trips alone take too large a share of max_pause.
        """
        self._latency = Latency.measure(map(self._sessions.session, (self._source, self._target)))
        if self._latency.is_too_high(self._max_pause):
            raise ConflictError(
                f"The servers are too far from here for a pause of {self._max_pause:g} s: {self._latency}."
                " Run the command nearer to them, or with"
                f" --max-pause {self._latency.recommended_max_pause:.1f}."
            )
        return f"{self._latency.round_trip * 1000:.1f} ms round trip"

    def _catch_up(self) -> str:
        """Apply the pending changes, so that few are left to apply in the pause."""
        entries = 0
        for number in range(MAX_CATCH_UP_CYCLES):
            result = self._sessions.run_cycle(self._source, dry_run=self._dry_run)
            entries += result.entries
            # A short cycle leaves few changes for the next one. On a busy machine a cycle takes longer.
            enough = CATCH_UP_SECONDS if number < CATCH_UP_TRIES else self._max_pause / 4
            if result.seconds < enough + self._latency.cycle_seconds or self._dry_run:
                return f"{entries:,} changes"
        raise ConflictError(
            "The standby does not catch up with the writers: run `frontdesk transfer relay` and try again"
            " at a quieter time."
        )

    def _rehearse(self, epoch: int) -> None:
        """Run and time each step that can be rolled back, and roll it back."""
        source, target = self._sessions.session(self._source), self._sessions.session(self._target)
        with self._step("close (rolled back)"):
            self._close_when_quiet(lambda: fencing.rehearse_close(source, epoch, self._max_pause / 2))
            self._report.pause = monotonic() - self._pause_began
        with self._step("apply and verify the last changes (rolled back)") as add_detail:
            result = self._sessions.run_cycle(self._source, verify=True, dry_run=True)
            add_detail(f"{result.entries:,} changes")
        with self._step("compare sequences") as add_detail:
            source_sequences = sequences.find(source, self._schemas())
            positions = source.execute(sequences.positions_query(source_sequences)).fetchall()
            statements = sequences.advance_statements(source_sequences, positions, dry_run=True)
            batch = StatementBatch()
            behind = [batch.add_query(statement, len) for statement in statements]
            batch.execute(target)
            add_detail(f"{sum(answer.read() for answer in behind)} to advance")
        for connection, name in ((source, "hand over"), (target, "open")):
            with self._step(f"{name} (rolled back)"):
                fencing.rehearse_row_update(connection)

    def _execute(self, epoch: int) -> None:
        """Run the steps in their order: each needs the value that the step before returns."""
        source_sequences = sequences.find(self._sessions.session(self._source), self._schemas())
        for tries_left in reversed(range(CLOSE_ATTEMPTS)):
            with self._step(f"close {self._source}"):
                closed = self._close_when_quiet(lambda: self._close(epoch, source_sequences))
            try:
                self._sessions.set_deadline(self._pause_began + self._max_pause)
                paused = self._check_closed(closed)
                # A large transaction committed just before the lock was granted. Open the side again and
                # retry: an extra short pause is better than one long pause.
                if tries_left and paused.snapshot.entries > self._latency.short_log_entries:
                    self._reopen(paused)
                    continue
                handed_over = self._hand_over(self._drain(paused))
                break
            except HandOverUnknownError:
                raise
            except BaseException as error:
                closed.queries.lock.roll_back()
                self._abort(closed.closing, error)
                raise
            finally:
                self._sessions.set_deadline(None)
        with self._step(f"open {self._target}"):
            self._open(self._target, handed_over)
        self._report.pause = monotonic() - self._pause_began
        self._record_step(self._target, self._command, **self._report.as_dict())

    def _close_when_quiet(self, close: Callable[[], T]) -> T:
        """Call `close` while no long transaction writes, so that writers do not wait long; return its result.

        Raises ConflictError if the lock cannot be acquired in CLOSE_ATTEMPTS attempts.
        """
        connection = self._sessions.session(self._source)
        for _ in range(CLOSE_ATTEMPTS):
            self._wait_until_quiet(connection)
            self._pause_began = monotonic()
            with suppress(psycopg.errors.LockNotAvailable):
                return close()
        raise ConflictError(
            f"{self._source} cannot be closed, because a transaction that has written does not end:"
            f" {active_writers.describe(connection)}. Nothing has changed. End that transaction, or try again"
            " at a quieter time."
        )

    def _close(self, epoch: int, source_sequences: list[SequenceInfo]) -> _ClosedSource:
        """Lock the standby, close the source, and query in the same message what is left to apply."""
        try:
            lock = self._sessions.lock_target(self._source)
        except DirectionChangedError as error:
            raise TakenOverError(TAKEN_OVER) from error
        except psycopg.errors.LockNotAvailable as error:
            raise ConflictError(
                f"Another process is applying changes on {self._target} and does not finish."
                " Run the same command again."
            ) from error
        batch = StatementBatch()
        queries = lock.add_source_queries(batch)
        positions = batch.add_query(sequences.positions_query(source_sequences), list[SequencePosition])
        connection = self._sessions.session(self._source)
        self._pause_began = monotonic()
        connection.deadline = self._pause_began + self._max_pause
        try:
            closing = fencing.close(connection, epoch, self._max_pause / 2, self._max_pause, batch)
        except CONNECTION_LOST_ERRORS as error:
            if isinstance(error, psycopg.errors.LockNotAvailable):
                lock.roll_back()
                raise
            raise UnavailableError(
                f"The connection to {self._source} was lost while it was being closed. If it was closed, it"
                f" opens by itself {self._max_pause:g} s later; no data is lost. Run the same command again."
            ) from error
        finally:
            connection.deadline = None
        return _ClosedSource(closing, queries, source_sequences, positions)

    def _wait_until_quiet(self, connection: Connection) -> None:
        """Wait until no long transaction writes and few changes are pending.

        Returns after QUIET_TIMEOUT_SECONDS in any case.
        """
        deadline = monotonic() + QUIET_TIMEOUT_SECONDS
        while (timeout := deadline - monotonic()) > 0:
            active_writers.wait_for_long_writers(connection, timeout)
            if (
                self._dry_run
                or self._sessions.run_cycle(self._source).entries <= self._latency.short_log_entries
            ):
                return

    def _check_closed(self, closed: _ClosedSource) -> _PausedSource:
        """Check the answers of the closed source.

        Raises DeadlineError unless the snapshot was taken while the source was closed.
        """
        snapshot = closed.queries.check()
        durable = snapshot.closed_by(closed.closing)
        if durable is None:
            raise DeadlineError(f"the pause was longer than {self._max_pause:g} s")
        return _PausedSource(closed, snapshot, durable)

    def _reopen(self, paused: _PausedSource) -> None:
        """Open the source again at once."""
        session = self._sessions.session(self._source)
        if not fencing.reopen(session, paused.closed.closing, "ROLLBACK"):
            raise TakenOverError
        paused.snapshot.lock.roll_back()

    def _drain(self, paused: _PausedSource) -> _DrainedSource:
        closed = paused.closed
        with self._step("apply and verify the last changes") as add_detail:
            fetched = paused.snapshot.fetch()
            batch = StatementBatch()
            statements = sequences.advance_statements(closed.sequences, closed.positions.read())
            advanced = [batch.add_query(statement, len) for statement in statements]
            applied = fetched.apply(paused.durable, batch)
            add_detail(
                f"{paused.snapshot.entries:,} changes,"
                f" {sum(answer.read() for answer in advanced)} sequences advanced"
            )
        return _DrainedSource(closed.closing, applied)

    def _hand_over(self, drained: _DrainedSource) -> HandedOver:
        session, closing = self._sessions.session(self._source), drained.closing
        with self._step("hand over"):
            try:
                return fencing.hand_over(session, closing, "COMMIT", *drained.applied.completion_statements())
            except CONNECTION_LOST_ERRORS:
                # The answer is lost, but the step may have been executed: read the state row to find out.
                if (handed_over := self._find_hand_over(closing)) is None:
                    raise
                return handed_over
            except fencing.PauseExpiredError as error:
                raise DeadlineError(f"the pause was longer than {self._max_pause:g} s") from error

    def _find_hand_over(self, closing: Closing) -> HandedOver | None:
        try:
            row = self._call_with_retries(self._source, lambda connection: fencing.read_side_row(connection))
        except UnavailableError as error:
            raise HandOverUnknownError(
                f"The connection to {self._source} was lost during the hand-over. Run the same command again"
                " as soon as both servers can be reached: if the hand-over succeeded, writes are paused until"
                " then."
            ) from error
        if (row.state, row.epoch) == ("standby", closing.epoch + 1):
            return HandedOver.of(row)
        return None

    def _open(self, name: SideName, other: HandedOver) -> None:
        try:
            self._call_with_retries(name, lambda connection: fencing.open_(connection, other))
        except UnavailableError as error:
            raise UnavailableError(
                f"{name} cannot be reached, and writes are paused until it is opened: run the same command"
                " again as soon as it can be reached, or keep the relay running, which opens it as well."
            ) from error

    def _abort(self, closing: Closing, error: BaseException) -> None:
        """Open the old side again, and raise an error that explains to the operator why and what to do.

        Raises AbortedError, TakenOverError if another command has taken over, or UnavailableError if the old
        side cannot be reached. Returns if `error` is an interrupt, which the caller raises again.
        """
        try:
            reopened = self._call_with_retries(
                self._source, lambda connection: fencing.reopen(connection, closing)
            )
        except UnavailableError as lost:
            raise UnavailableError(
                f"The connection to {self._source} was lost before the hand-over. That side has opened by"
                f" itself, {self._max_pause:g} s after it was closed; no data is lost. Run the same command"
                " again."
            ) from lost
        pause = monotonic() - self._pause_began
        reason = (
            to_frontdesk_error(error).message.rstrip(".") if isinstance(error, Exception) else "interrupted"
        )
        if isinstance(error, TakenOverError) or not reopened:
            raise TakenOverError(TAKEN_OVER) from error
        self._record_step(self._source, f"{self._command} aborted", reason=type(error).__name__, pause=pause)
        if isinstance(error, Exception):
            raise AbortedError(
                f"Aborted after {pause:.2f} s: {reason}. Writes are open on {self._source} again, and no data"
                f" is lost.{self._latency.long_pause_hint(self._max_pause)}"
            ) from error

    def _call_with_retries(self, name: SideName, call: Callable[[Connection], Any]) -> Any:
        """Call a step on that side, and retry it for RETRY_FOR_SECONDS while the side cannot be reached.

        Returns the step's result. Raises UnavailableError when the time is over.
        """
        deadline = monotonic() + RETRY_FOR_SECONDS
        while True:
            try:
                connection = self._sessions.session(name)
                connection.deadline = min(deadline, monotonic() + 5)
                answer = call(connection)
                connection.deadline = None
            except (*CONNECTION_LOST_ERRORS, psycopg.errors.LockNotAvailable) as error:
                if monotonic() > deadline:
                    raise UnavailableError from error
                sleep(0.1)
            else:
                return answer

    def _record_step(self, name: SideName, step: str, **detail: object) -> None:
        """Write a step to the journal, or log a warning on failure: a failure must not undo the step."""
        try:
            journal.record(self._sessions.session(name), step, **detail)
        except CONNECTION_LOST_ERRORS:
            log.warning("The journal on %s has no entry for %r, because the connection was lost", name, step)

    def _schemas(self) -> list[str]:
        return sorted({table.schema for table in self._sessions.tables(self._source)})

    @property
    def _command(self) -> str:
        return "cutover" if self._target == "primary" else "rollback"

    @contextmanager
    def _step(self, name: str) -> Iterator[Callable[[str], None]]:
        """Time a step, add it to the report, and pass it to `on_step`.

        Yields a function with which the step adds a detail to its report line.
        """
        details: list[str] = []
        began = monotonic()
        yield details.append
        step = Step(name, monotonic() - began, "; ".join(details))
        self._report.steps.append(step)
        self._on_step(step)
