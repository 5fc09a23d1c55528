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

from app.errors import ConflictError, DeadlineError, UnavailableError, from_driver
from app.transfer.cutover import active_writers, preflight
from app.transfer.cutover.latency import Distance
from app.transfer.cutover.report import OnStep, Report, Step
from app.transfer.protocol import fencing, journal
from app.transfer.protocol.endpoints import SideName, Sides
from app.transfer.protocol.fencing import TakenOverError
from app.transfer.protocol.pipeline import Statement, together
from app.transfer.protocol.stages import Stage, other_than
from app.transfer.relay import sequences
from app.transfer.relay.apply_cycle import MovedOnError, Replay
from app.transfer.relay.relay import LOST
from app.transfer.relay.sequences import Sequence
from app.transfer.relay.session_pair import Link, Rows

log = logging.getLogger(__name__)

MAX_PAUSE = 1.0  # seconds
QUIET = 10.0  # seconds to wait for a moment when only short transactions write
ATTEMPTS = 5  # to close
ROUNDS = 50  # to catch up
SHORT, TRIES = 0.03, 5  # seconds of a round beside its trips, and how often it is tried for
REACH = 30.0  # seconds to go on trying a server that must be told
TAKEN_OVER = "Another command has taken this switch over: `frontdesk transfer status`."

T = TypeVar("T")


class UndecidedError(UnavailableError):
    """The old side cannot be asked whether it has handed over."""


class AbortedError(ConflictError):
    """The switch was given up, and the old side takes writes again."""


def switch(
    sides: Sides,
    to: SideName,
    *,
    max_pause: float = MAX_PAUSE,
    dry_run: bool = False,
    on_step: OnStep = lambda step: None,
) -> Report:
    """Make `to` the live side; what an earlier command left half-done is settled first.

    Raises AbortedError where writes go on on the old side, ConflictError for what is in the way before
    anything was tried, UnavailableError where a side cannot be told and the command must be run again.
    """
    with Link(sides) as link:
        return _Switch(link, to, max_pause, dry_run, on_step).run()


class _Switch:
    def __init__(self, link: Link, to: SideName, max_pause: float, dry_run: bool, on_step: OnStep) -> None:
        self._link = link
        self._source, self._target = other_than(to), to
        self._max_pause = max_pause
        self._dry_run = dry_run
        self._on_step = on_step
        self._report = Report(to, dry_run)
        self._distance = Distance(0.0)
        self._began = 0.0  # to close

    def run(self) -> Report:
        rows = self._link.look()
        if rows.stage in (Stage.CLOSING, Stage.HANDED_OVER):
            rows = self._settle(rows)
        source = rows.source  # raises where there is none
        if source == self._target:
            self._report.was_live = True
            return self._report
        epoch = rows.of(source).epoch
        with self._step("preflight"):
            preflight.check(self._link, source)
        with self._step("network") as say:
            say(self._measure())
        with self._step("catch up") as say:
            say(self._catch_up())
        if self._dry_run:
            self._rehearse(epoch)
        else:
            self._go(epoch)
        return self._report

    def _settle(self, rows: Rows) -> Rows:
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
                connection, epoch = self._link.to(source), rows.of(source).epoch
                attempt, _ = fencing.close(connection, epoch, self._max_pause, self._max_pause)
                fencing.reopen(connection, epoch, attempt)
        return self._link.look()

    def _measure(self) -> str:
        """Raises ConflictError where the servers are too far away for the longest pause that is allowed."""
        self._distance = Distance.of(map(self._link.to, (self._source, self._target)))
        if self._distance.is_too_long(self._max_pause):
            raise ConflictError(
                f"The servers are too far from here for a pause of {self._max_pause:g} s: {self._distance}."
                f" Run the command nearer to them, or with --max-pause {self._distance.enough:.1f}."
            )
        return f"{self._distance.trip * 1000:.1f} ms to a server and back"

    def _catch_up(self) -> str:
        """Replay what has gathered, so that little is left for the pause."""
        marks = 0
        for number in range(ROUNDS):
            result = self._link.round(self._source, dry_run=self._dry_run)
            marks += result.marks
            # A short round leaves little for the next one. On a busy machine none is very short.
            enough = SHORT if number < TRIES else self._max_pause / 4
            if result.seconds < enough + self._distance.of_a_round or self._dry_run:
                return f"{marks:,} changes"
        raise ConflictError(
            "The standby does not catch up with the writers: run `frontdesk transfer relay` and try again"
            " at a quieter time."
        )

    def _rehearse(self, epoch: int) -> None:
        """Try and time what can be taken back, and take it back."""
        source, target = self._link.to(self._source), self._link.to(self._target)
        with self._step("close (taken back)"):
            self._at_a_moment(lambda: fencing.try_close(source, epoch, self._max_pause / 2))
            self._report.pause = monotonic() - self._began
        with self._step("drain and verify the tail (taken back)") as say:
            result = self._link.round(self._source, verify=True, dry_run=True)
            say(f"{result.marks:,} changes")
        with self._step("sequences (looked at)") as say:
            found = sequences.find(source, self._schemas())
            [positions] = together(source, sequences.reading(found))
            behind = together(target, *sequences.advancing(found, positions, dry_run=True))
            say(f"{sum(map(len, behind))} to advance")
        for connection, name in ((source, "hand over"), (target, "open")):
            with self._step(f"{name} (taken back)"):
                fencing.try_row(connection)

    def _go(self, epoch: int) -> None:
        found = sequences.find(self._link.to(self._source), self._schemas())
        for tries_left in reversed(range(ATTEMPTS)):
            with self._step(f"close {self._source}"):
                work, attempt, answers = self._at_a_moment(lambda: self._close(epoch, found))
            try:
                self._link.set_deadline(self._began + self._max_pause)
                *answers, positions = answers
                self._check_closed(work.heed(answers), attempt)
                # A large transaction was faster than the lock: a short pause in vain beats a long one.
                if tries_left and work.marks > self._distance.short_log:
                    self._reopen(work, epoch, attempt)
                    continue
                self._drain(work, sequences.advancing(found, positions))
                self._hand_over(work, epoch, attempt)
                break
            except UndecidedError:
                raise
            except BaseException as error:
                work.let_go()
                self._give_up(epoch, attempt, error)
                raise
            finally:
                self._link.set_deadline(None)
        with self._step(f"open {self._target}"):
            self._open(self._target, fencing.Row(self._source, "standby", epoch + 1, attempt))
        self._report.pause = monotonic() - self._began
        self._note(self._target, self._command, **self._report.as_dict())

    def _at_a_moment(self, close: Callable[[], T]) -> T:
        """Close, at a moment when nobody has to wait long."""
        connection = self._link.to(self._source)
        for _ in range(ATTEMPTS):
            self._wait_for_a_moment(connection)
            self._began = monotonic()
            with suppress(psycopg.errors.LockNotAvailable):
                return close()
        raise ConflictError(
            f"{self._source} cannot be closed: a transaction that has written does not end:"
            f" {active_writers.describe(connection)}. Nothing has changed; end it, or try at a quieter time."
        )

    def _close(self, epoch: int, found: list[Sequence]) -> tuple[Replay, int, list[Any]]:
        """Close, and look in the same breath at what is left to do. The standby's locks come first."""
        work = self._link.replay(self._source)
        try:
            work.lock_target()
        except MovedOnError as error:
            raise TakenOverError(TAKEN_OVER) from error
        except psycopg.errors.LockNotAvailable as error:
            raise ConflictError(
                f"Somebody else is replaying on {self._target} and does not end. Run the same command again."
            ) from error
        connection = self._link.to(self._source)
        self._began = monotonic()
        connection.deadline = self._began + self._max_pause
        look = (*work.reading(), sequences.reading(found))
        try:
            attempt, answers = fencing.close(connection, epoch, self._max_pause / 2, self._max_pause, *look)
        except LOST as error:
            if isinstance(error, psycopg.errors.LockNotAvailable):
                work.let_go()
                raise
            raise UnavailableError(
                f"{self._source} was lost while it was being closed. If it was closed, it opens by itself"
                f" {self._max_pause:g} s later; nothing is lost. Run the same command again."
            ) from error
        finally:
            connection.deadline = None
        return work, attempt, answers

    def _wait_for_a_moment(self, connection: psycopg.Connection[Any]) -> None:
        """Wait until no long transaction writes and little is left of those that did, QUIET s at most."""
        give_up = monotonic() + QUIET
        while (patience := give_up - monotonic()) > 0:
            active_writers.wait_for_quiet(connection, patience)
            if self._dry_run or self._link.round(self._source).marks <= self._distance.short_log:
                return

    def _check_closed(self, row: fencing.Row, attempt: int) -> None:
        """Whether the snapshot was taken while nobody could write.

        Then closing was a synchronous commit after those of all writers, who may not wait for their own: the
        source, killed, still has whatever the target is about to have.
        """
        if (row.state, row.attempt) != ("closing", attempt):
            raise DeadlineError(f"the pause was longer than {self._max_pause:g} s")

    def _reopen(self, work: Replay, epoch: int, attempt: int) -> None:
        """Take the closing back at once."""
        if not fencing.reopen(self._link.to(self._source), epoch, attempt, "ROLLBACK"):
            raise TakenOverError
        work.let_go()

    def _drain(self, work: Replay, advancing: list[Statement]) -> None:
        with self._step("drain and verify the tail") as say:
            work.fetch()
            advanced = sum(map(len, work.apply(*advancing)))
            say(f"{work.marks:,} changes, {advanced} sequences advanced")

    def _hand_over(self, work: Replay, epoch: int, attempt: int) -> None:
        with self._step("hand over"):
            try:
                fencing.hand_over(self._link.to(self._source), epoch, attempt, "COMMIT", *work.forgetting())
            except LOST:
                # The answer is lost, not necessarily the step: only the row knows.
                if not self._is_handed_over(epoch):
                    raise
            except fencing.TooLateError as error:
                raise DeadlineError(f"the pause was longer than {self._max_pause:g} s") from error

    def _is_handed_over(self, epoch: int) -> bool:
        try:
            row = self._persistently(self._source, lambda connection: fencing.look(connection))
        except UnavailableError as error:
            raise UndecidedError(
                f"{self._source} was lost while it was handing over. Run the same command again as soon as"
                " both servers can be reached: if it was done, writes are closed until then."
            ) from error
        return bool(row.state == "standby" and row.epoch == epoch + 1)

    def _open(self, name: SideName, ahead: fencing.Row) -> None:
        try:
            self._persistently(name, lambda connection: fencing.open_(connection, ahead))
        except UnavailableError as error:
            raise UnavailableError(
                f"{name} cannot be reached and opened, and writes stay closed until it is: run the same"
                " command again as soon as it can be reached, or let the relay do it."
            ) from error

    def _give_up(self, epoch: int, attempt: int, error: BaseException) -> None:
        """Open the old side again; raises AbortedError in words for people, or UnavailableError."""
        try:
            reopened = self._persistently(
                self._source, lambda connection: fencing.reopen(connection, epoch, attempt)
            )
        except UnavailableError as lost:
            raise UnavailableError(
                f"{self._source} was lost before it handed over. It has opened by itself,"
                f" {self._max_pause:g} s after it was closed; nothing is lost. Run the same command again."
            ) from lost
        pause = monotonic() - self._began
        reason = from_driver(error).message.rstrip(".") if isinstance(error, Exception) else "interrupted"
        if isinstance(error, TakenOverError) or not reopened:
            raise TakenOverError(TAKEN_OVER) from error
        self._note(self._source, f"{self._command} aborted", reason=type(error).__name__, pause=pause)
        if isinstance(error, Exception):
            raise AbortedError(
                f"Aborted after {pause:.2f} s: {reason}. Writes are open on {self._source} again, and nothing"
                f" is lost.{self._distance.blame(self._max_pause)}"
            ) from error

    def _persistently(self, name: SideName, call: Callable[[psycopg.Connection[Any]], Any]) -> Any:
        """Call a step that must reach that side, again and again for a while. Raises UnavailableError."""
        give_up = monotonic() + REACH
        while True:
            try:
                connection = self._link.to(name)
                connection.deadline = min(give_up, monotonic() + 5)
                answer = call(connection)
                connection.deadline = None
            except (*LOST, psycopg.errors.LockNotAvailable) as error:
                if monotonic() > give_up:
                    raise UnavailableError from error
                sleep(0.1)
            else:
                return answer

    def _note(self, name: SideName, step: str, **detail: object) -> None:
        """The journal is for people: what is done stays done, whether it can be noted or not."""
        try:
            journal.note(self._link.to(name), step, **detail)
        except LOST:
            log.warning("The journal on %s misses %r: the connection was lost", name, step)

    def _schemas(self) -> list[str]:
        return sorted({table.schema for table in self._link.tables(self._source)})

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
