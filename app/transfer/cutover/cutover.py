"""Cutover and rollback: the same steps in either direction, in a fraction of a second of closed writes.

Until the hand-over every failure opens the old side again; where this command cannot, time does. After it
there is only forward, and whoever runs the command again goes on there.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic, sleep
from typing import Any, TypeVar

import psycopg

from app.errors import ConflictError, DeadlineError, UnavailableError, to_frontdesk_error
from app.transfer.cutover import active_writers, preflight
from app.transfer.cutover.latency import Latency
from app.transfer.cutover.report import CutoverReport, OnStepDone, Step
from app.transfer.protocol import fencing, journal
from app.transfer.protocol.endpoints import SideName, Sides
from app.transfer.protocol.fencing import TakenOverError
from app.transfer.protocol.pipeline import Statement, execute_batch
from app.transfer.protocol.stages import Stage, other_side
from app.transfer.relay import sequences
from app.transfer.relay.apply_cycle import ApplyCycle, DirectionChangedError
from app.transfer.relay.relay import CONNECTION_LOST_ERRORS
from app.transfer.relay.sequences import SequenceInfo
from app.transfer.relay.session_pair import SessionPair, SideRows

log = logging.getLogger(__name__)

MAX_PAUSE_SECONDS = 1.0  # seconds
QUIET_TIMEOUT_SECONDS = 10.0  # seconds to wait for a moment when only short transactions write
CLOSE_ATTEMPTS = 5  # to close
MAX_CATCH_UP_CYCLES = 50  # to catch up
CATCH_UP_SECONDS, CATCH_UP_TRIES = (
    0.03,
    5,
)  # seconds of a round beside its trips, and how often it is tried for
RETRY_FOR_SECONDS = 30.0  # seconds to go on trying a server that must be told
TAKEN_OVER = "Another command has taken this switch over: `frontdesk transfer status`."

T = TypeVar("T")


class HandOverUnknownError(UnavailableError):
    """The old side cannot be asked whether it has handed over."""


class AbortedError(ConflictError):
    """The switch was given up, and the old side takes writes again."""


def change_live_side(
    sides: Sides,
    to: SideName,
    *,
    max_pause: float = MAX_PAUSE_SECONDS,
    dry_run: bool = False,
    on_step: OnStepDone = lambda step: None,
) -> CutoverReport:
    """Make `to` the live side; what an earlier command left half-done is settled first.

    Raises AbortedError where writes go on on the old side, ConflictError for what is in the way before
    anything was tried, UnavailableError where a side cannot be told and the command must be run again.
    """
    with SessionPair(sides) as link:
        return _LiveSideChange(link, to, max_pause, dry_run, on_step).run()


class _LiveSideChange:
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
        self._pause_began = 0.0  # to close

    def run(self) -> CutoverReport:
        rows = self._sessions.read_side_rows()
        if rows.stage in (Stage.CLOSING, Stage.HANDED_OVER):
            rows = self._resume_earlier_command(rows)
        source = rows.source  # raises where there is none
        if source == self._target:
            self._report.was_live = True
            return self._report
        epoch = rows.require(source).epoch
        with self._step("preflight"):
            preflight.check(self._sessions, source)
        with self._step("network") as say:
            say(self._measure_latency())
        with self._step("catch up") as say:
            say(self._catch_up())
        if self._dry_run:
            self._rehearse(epoch)
        else:
            self._execute(epoch)
        return self._report

    def _resume_earlier_command(self, rows: SideRows) -> SideRows:
        """End what another command began: forward past the hand-over, back before it."""
        if self._dry_run:
            raise ConflictError(
                f"Another switch stands at {rows.stage.value!r}: a dry run does not touch it;"
                " run the command without --dry-run to go on."
            )
        if rows.stage is Stage.HANDED_OVER:
            ahead, behind = rows.ahead_and_behind
            with self._step(f"open {behind.name}, which was handed over already"):
                self._open(behind.name, ahead)
        else:
            source = rows.source
            with self._step(f"open {source} again, which another switch had closed"):
                connection, epoch = self._sessions.session(source), rows.require(source).epoch
                attempt, _ = fencing.close(connection, epoch, self._max_pause, self._max_pause)
                fencing.reopen(connection, epoch, attempt)
        return self._sessions.read_side_rows()

    def _measure_latency(self) -> str:
        """Raises ConflictError where the servers are too far away for the longest pause that is allowed."""
        self._latency = Latency.measure(map(self._sessions.session, (self._source, self._target)))
        if self._latency.is_too_high(self._max_pause):
            raise ConflictError(
                f"The servers are too far from here for a pause of {self._max_pause:g} s: {self._latency}."
                f" Run the command nearer to them, or with --max-pause {self._latency.recommended_max_pause:.1f}."
            )
        return f"{self._latency.round_trip * 1000:.1f} ms to a server and back"

    def _catch_up(self) -> str:
        """Replay what has gathered, so that little is left for the pause."""
        marks = 0
        for number in range(MAX_CATCH_UP_CYCLES):
            result = self._sessions.run_cycle(self._source, dry_run=self._dry_run)
            marks += result.entries
            # A short round leaves little for the next one. On a busy machine none is very short.
            enough = CATCH_UP_SECONDS if number < CATCH_UP_TRIES else self._max_pause / 4
            if result.seconds < enough + self._latency.cycle_seconds or self._dry_run:
                return f"{marks:,} changes"
        raise ConflictError(
            "The standby does not catch up with the writers: run `frontdesk transfer relay` and try again"
            " at a quieter time."
        )

    def _rehearse(self, epoch: int) -> None:
        """Try and time what can be taken back, and take it back."""
        source, target = self._sessions.session(self._source), self._sessions.session(self._target)
        with self._step("close (taken back)"):
            self._close_when_quiet(lambda: fencing.rehearse_close(source, epoch, self._max_pause / 2))
            self._report.pause = monotonic() - self._pause_began
        with self._step("drain and verify the tail (taken back)") as say:
            result = self._sessions.run_cycle(self._source, verify=True, dry_run=True)
            say(f"{result.entries:,} changes")
        with self._step("sequences (looked at)") as say:
            found = sequences.find(source, self._schemas())
            [positions] = execute_batch(source, sequences.positions_query(found))
            behind = execute_batch(target, *sequences.advance_statements(found, positions, dry_run=True))
            say(f"{sum(map(len, behind))} to advance")
        for connection, name in ((source, "hand over"), (target, "open")):
            with self._step(f"{name} (taken back)"):
                fencing.rehearse_row_update(connection)

    def _execute(self, epoch: int) -> None:
        found = sequences.find(self._sessions.session(self._source), self._schemas())
        for tries_left in reversed(range(CLOSE_ATTEMPTS)):
            with self._step(f"close {self._source}"):
                work, attempt, answers = self._close_when_quiet(lambda: self._close(epoch, found))
            try:
                self._sessions.set_deadline(self._pause_began + self._max_pause)
                *answers, positions = answers
                self._check_closed(work.read_answers(answers), attempt)
                # A large transaction was faster than the lock: a short pause in vain beats a long one.
                if tries_left and work.entries > self._latency.short_log_entries:
                    self._reopen(work, epoch, attempt)
                    continue
                self._drain(work, sequences.advance_statements(found, positions))
                self._hand_over(work, epoch, attempt)
                break
            except HandOverUnknownError:
                raise
            except BaseException as error:
                work.rollback()
                self._abort(epoch, attempt, error)
                raise
            finally:
                self._sessions.set_deadline(None)
        with self._step(f"open {self._target}"):
            self._open(self._target, fencing.SideRow(self._source, "standby", epoch + 1, attempt))
        self._report.pause = monotonic() - self._pause_began
        self._record_step(self._target, self._command, **self._report.as_dict())

    def _close_when_quiet(self, close: Callable[[], T]) -> T:
        """Close, at a moment when nobody has to wait long."""
        connection = self._sessions.session(self._source)
        for _ in range(CLOSE_ATTEMPTS):
            self._wait_until_quiet(connection)
            self._pause_began = monotonic()
            with suppress(psycopg.errors.LockNotAvailable):
                return close()
        raise ConflictError(
            f"{self._source} cannot be closed: a transaction that has written does not end:"
            f" {active_writers.describe(connection)}. Nothing has changed; end it, or try at a quieter time."
        )

    def _close(self, epoch: int, source_sequences: list[SequenceInfo]) -> tuple[ApplyCycle, int, list[Any]]:
        """Close, and look in the same breath at what is left to do. The standby's locks come first."""
        work = self._sessions.new_verified_cycle(self._source)
        try:
            work.lock_target()
        except DirectionChangedError as error:
            raise TakenOverError(TAKEN_OVER) from error
        except psycopg.errors.LockNotAvailable as error:
            raise ConflictError(
                f"Somebody else is replaying on {self._target} and does not end. Run the same command again."
            ) from error
        connection = self._sessions.session(self._source)
        self._pause_began = monotonic()
        connection.deadline = self._pause_began + self._max_pause
        look = (*work.read_statements(), sequences.positions_query(source_sequences))
        try:
            attempt, answers = fencing.close(connection, epoch, self._max_pause / 2, self._max_pause, *look)
        except CONNECTION_LOST_ERRORS as error:
            if isinstance(error, psycopg.errors.LockNotAvailable):
                work.rollback()
                raise
            raise UnavailableError(
                f"{self._source} was lost while it was being closed. If it was closed, it opens by itself"
                f" {self._max_pause:g} s later; nothing is lost. Run the same command again."
            ) from error
        finally:
            connection.deadline = None
        return work, attempt, answers

    def _wait_until_quiet(self, connection: psycopg.Connection[Any]) -> None:
        """Wait until no long transaction writes and little is left of those that did, QUIET s at most."""
        give_up = monotonic() + QUIET_TIMEOUT_SECONDS
        while (patience := give_up - monotonic()) > 0:
            active_writers.wait_for_long_writers(connection, patience)
            if (
                self._dry_run
                or self._sessions.run_cycle(self._source).entries <= self._latency.short_log_entries
            ):
                return

    def _check_closed(self, row: fencing.SideRow, attempt: int) -> None:
        """Whether the snapshot was taken while nobody could write.

        Then closing was a synchronous commit after those of all writers, who may not wait for their own: the
        source, killed, still has whatever the target is about to have.
        """
        if (row.state, row.attempt) != ("closing", attempt):
            raise DeadlineError(f"the pause was longer than {self._max_pause:g} s")

    def _reopen(self, cycle: ApplyCycle, epoch: int, attempt: int) -> None:
        """Take the closing back at once."""
        if not fencing.reopen(self._sessions.session(self._source), epoch, attempt, "ROLLBACK"):
            raise TakenOverError
        cycle.rollback()

    def _drain(self, cycle: ApplyCycle, sequence_statements: list[Statement]) -> None:
        with self._step("drain and verify the tail") as say:
            cycle.fetch()
            advanced = sum(map(len, cycle.apply(*sequence_statements)))
            say(f"{cycle.entries:,} changes, {advanced} sequences advanced")

    def _hand_over(self, cycle: ApplyCycle, epoch: int, attempt: int) -> None:
        with self._step("hand over"):
            try:
                fencing.hand_over(
                    self._sessions.session(self._source),
                    epoch,
                    attempt,
                    "COMMIT",
                    *cycle.completion_statements(),
                )
            except CONNECTION_LOST_ERRORS:
                # The answer is lost, not necessarily the step: only the row knows.
                if not self._is_handed_over(epoch):
                    raise
            except fencing.PauseExpiredError as error:
                raise DeadlineError(f"the pause was longer than {self._max_pause:g} s") from error

    def _is_handed_over(self, epoch: int) -> bool:
        try:
            row = self._call_with_retries(self._source, lambda connection: fencing.read_side_row(connection))
        except UnavailableError as error:
            raise HandOverUnknownError(
                f"{self._source} was lost while it was handing over. Run the same command again as soon as"
                " both servers can be reached: if it was done, writes are closed until then."
            ) from error
        return bool(row.state == "standby" and row.epoch == epoch + 1)

    def _open(self, name: SideName, ahead: fencing.SideRow) -> None:
        try:
            self._call_with_retries(name, lambda connection: fencing.open_(connection, ahead))
        except UnavailableError as error:
            raise UnavailableError(
                f"{name} cannot be reached and opened, and writes stay closed until it is: run the same"
                " command again as soon as it can be reached, or let the relay do it."
            ) from error

    def _abort(self, epoch: int, attempt: int, error: BaseException) -> None:
        """Open the old side again; raises AbortedError in words for people, or UnavailableError."""
        try:
            reopened = self._call_with_retries(
                self._source, lambda connection: fencing.reopen(connection, epoch, attempt)
            )
        except UnavailableError as lost:
            raise UnavailableError(
                f"{self._source} was lost before it handed over. It has opened by itself,"
                f" {self._max_pause:g} s after it was closed; nothing is lost. Run the same command again."
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
                f"Aborted after {pause:.2f} s: {reason}. Writes are open on {self._source} again, and nothing"
                f" is lost.{self._latency.long_pause_hint(self._max_pause)}"
            ) from error

    def _call_with_retries(self, name: SideName, call: Callable[[psycopg.Connection[Any]], Any]) -> Any:
        """Call a step that must reach that side, again and again for a while. Raises UnavailableError."""
        give_up = monotonic() + RETRY_FOR_SECONDS
        while True:
            try:
                connection = self._sessions.session(name)
                connection.deadline = min(give_up, monotonic() + 5)
                answer = call(connection)
                connection.deadline = None
            except (*CONNECTION_LOST_ERRORS, psycopg.errors.LockNotAvailable) as error:
                if monotonic() > give_up:
                    raise UnavailableError from error
                sleep(0.1)
            else:
                return answer

    def _record_step(self, name: SideName, step: str, **detail: object) -> None:
        """The journal is for people: what is done stays done, whether it can be noted or not."""
        try:
            journal.record(self._sessions.session(name), step, **detail)
        except CONNECTION_LOST_ERRORS:
            log.warning("The journal on %s misses %r: the connection was lost", name, step)

    def _schemas(self) -> list[str]:
        return sorted({table.schema for table in self._sessions.tables(self._source)})

    @property
    def _command(self) -> str:
        return "cutover" if self._target == "primary" else "rollback"

    @contextmanager
    def _step(self, name: str) -> Iterator[Callable[[str], None]]:
        """Time a step and tell it when it is done; it may say what came of it."""
        said: list[str] = []
        began = monotonic()
        yield said.append
        step = Step(name, monotonic() - began, "; ".join(said))
        self._report.steps.append(step)
        self._on_step(step)
