"""Cutover and rollback: the same steps in either direction, in a fraction of a second of closed writes.

Until the hand-over every failure opens the old side again; where this command cannot, time does. After it
there is only forward, and whoever runs the command again goes on there.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from time import monotonic, sleep
from typing import Any

import psycopg

from app.errors import ConflictError, DeadlineError, UnavailableError, from_driver
from app.transfer import journal, preflight, protocol, sequences, writers
from app.transfer.link import Link, Rows
from app.transfer.protocol import TakenOverError
from app.transfer.relay import LOST
from app.transfer.replay import SHORT_LOG, is_short
from app.transfer.sides import SideName, Sides
from app.transfer.stages import Stage, other_than
from app.transfer.tables import moved_tables

log = logging.getLogger(__name__)

MAX_PAUSE = 1.0  # seconds
QUIET = 10.0  # seconds to wait for a moment when only short transactions write
ATTEMPTS = 5  # to close
ROUNDS = 50  # to catch up
TRIPS = 30  # to a server and back, of a round with changes
SHORT, TRIES = 0.03, 5  # seconds of a round, and how often it is tried for
REACH = 30.0  # seconds to go on trying a server that must be told


class UndecidedError(UnavailableError):
    """The old side cannot be asked whether it has handed over."""


class AbortedError(ConflictError):
    """The switch was given up, and the old side takes writes again."""


@dataclass(frozen=True)
class Step:
    """One step, the seconds that it took, and what came of it."""

    name: str
    seconds: float
    detail: str = ""


OnStep = Callable[[Step], object]


@dataclass
class Report:
    """What was done to make a side live. `pause`: seconds during which nobody could write."""

    live: SideName
    dry_run: bool
    steps: list[Step] = field(default_factory=list)
    pause: float | None = None
    was_live: bool = False

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


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
                attempt = protocol.close(connection, epoch, self._max_pause, self._max_pause)
                protocol.reopen(connection, epoch, attempt)
        return self._link.look()

    def _catch_up(self) -> str:
        """Replay what has gathered, so that little is left for the pause."""
        marks = 0
        for number in range(ROUNDS):
            result = self._link.round(self._source, dry_run=self._dry_run)
            marks += result.marks
            # A short round leaves little for the next one. On a busy machine none is very short.
            enough = SHORT if number < TRIES else self._max_pause / 4
            if result.seconds < enough or self._dry_run:
                return f"{marks:,} changes"
            if number >= TRIES and TRIPS * (trip := self._round_trip()) > enough:
                raise ConflictError(
                    f"The servers are too far from here for a pause of {self._max_pause:g} s: one answers"
                    f" after {trip * 1000:.0f} ms. Run the command nearer to them, or raise --max-pause."
                )
        raise ConflictError(
            "The standby does not catch up with the writers: run `frontdesk transfer relay` and try again"
            " at a quieter time."
        )

    def _round_trip(self) -> float:
        """Seconds until the side that is farther away has answered, when nothing else holds it up."""
        farthest = 0.0
        for name in (self._source, self._target):
            times = []
            for _ in range(3):
                began = monotonic()
                self._link.to(name).execute("SELECT")
                times.append(monotonic() - began)
            farthest = max(farthest, min(times))
        return farthest

    def _rehearse(self, epoch: int) -> None:
        """Try and time what can be taken back, and take it back."""
        source, target = self._link.to(self._source), self._link.to(self._target)
        with self._step("close (taken back)"):
            self._report.pause = monotonic() - self._close(epoch)[1]
        with self._step("drain and verify the tail (taken back)") as say:
            result = self._link.round(self._source, verify=True, dry_run=True)
            say(f"{result.marks:,} changes")
        with self._step("sequences (looked at)") as say:
            say(f"{len(sequences.advance(source, target, self._schemas(), dry_run=True))} to advance")
        for connection, name in ((source, "hand over"), (target, "open")):
            with self._step(f"{name} (taken back)"):
                protocol.try_row(connection)

    def _go(self, epoch: int) -> None:
        schemas = self._schemas()
        for tries_left in reversed(range(ATTEMPTS)):
            with self._step(f"close {self._source}"):
                attempt, began = self._close(epoch)
            try:
                self._link.set_deadline(began + self._max_pause)
                source = self._link.to(self._source)
                # A large transaction was faster than the lock: a short pause in vain beats a long one.
                if tries_left and not is_short(source) and protocol.reopen(source, epoch, attempt):
                    continue
                self._drain_and_hand_over(epoch, attempt, schemas)
                break
            except UndecidedError:
                raise
            except BaseException as error:
                self._give_up(epoch, attempt, began, error)
                raise
            finally:
                self._link.set_deadline(None)
        with self._step(f"open {self._target}"):
            self._open(self._target, protocol.Row(self._source, "standby", epoch + 1, attempt))
        self._report.pause = monotonic() - began
        self._note(self._target, self._command, **self._report.as_dict())

    def _close(self, epoch: int) -> tuple[int, float]:
        """Close, at a moment when nobody has to wait long; the attempt, and when the pause began."""
        connection = self._link.to(self._source)
        for _ in range(ATTEMPTS):
            self._wait_for_a_moment(connection)
            began = monotonic()
            connection.deadline = began + self._max_pause
            try:
                if self._dry_run:
                    protocol.try_close(connection, epoch, self._max_pause / 2)
                    return 0, began
                return protocol.close(connection, epoch, self._max_pause / 2, self._max_pause), began
            except psycopg.errors.LockNotAvailable:
                continue
            except LOST as error:
                raise UnavailableError(
                    f"{self._source} was lost while it was being closed. If it was closed, it opens by itself"
                    f" {self._max_pause:g} s later; nothing is lost. Run the same command again."
                ) from error
            finally:
                connection.deadline = None
        raise ConflictError(
            f"{self._source} cannot be closed: a transaction that has written does not end:"
            f" {writers.describe(connection)}. Nothing has changed; end it, or try at a quieter time."
        )

    def _wait_for_a_moment(self, connection: psycopg.Connection[Any]) -> None:
        """Wait until no long transaction writes and little is left of those that did, QUIET s at most."""
        give_up = monotonic() + QUIET
        while (patience := give_up - monotonic()) > 0:
            writers.wait_for_quiet(connection, patience)
            if self._dry_run or self._link.round(self._source).marks <= SHORT_LOG:
                return

    def _drain_and_hand_over(self, epoch: int, attempt: int, schemas: list[str]) -> None:
        source, target = self._link.to(self._source), self._link.to(self._target)
        with self._step("drain and verify the tail") as say:
            marks = 0
            while result := self._link.round(self._source, verify=True).marks:
                marks += result
            say(f"{marks:,} changes")
        with self._step("sequences") as say:
            say(f"{len(sequences.advance(source, target, schemas))} advanced")
        with self._step("hand over"):
            try:
                protocol.hand_over(source, epoch, attempt)
            except LOST:
                # The answer is lost, not necessarily the step: only the row knows.
                if not self._is_handed_over(epoch):
                    raise
            except protocol.TooLateError as error:
                raise DeadlineError(f"the pause was longer than {self._max_pause:g} s") from error

    def _is_handed_over(self, epoch: int) -> bool:
        try:
            row = self._persistently(self._source, lambda connection: protocol.look(connection))
        except UnavailableError as error:
            raise UndecidedError(
                f"{self._source} was lost while it was handing over. Run the same command again as soon as"
                " both servers can be reached: if it was done, writes are closed until then."
            ) from error
        return bool(row.state == "standby" and row.epoch == epoch + 1)

    def _open(self, name: SideName, ahead: protocol.Row) -> None:
        try:
            self._persistently(name, lambda connection: protocol.open_(connection, ahead))
        except UnavailableError as error:
            raise UnavailableError(
                f"{name} cannot be reached and opened, and writes stay closed until it is: run the same"
                " command again as soon as it can be reached, or let the relay do it."
            ) from error

    def _give_up(self, epoch: int, attempt: int, began: float, error: BaseException) -> None:
        """Open the old side again; raises AbortedError in words for people, or UnavailableError."""
        try:
            reopened = self._persistently(
                self._source, lambda connection: protocol.reopen(connection, epoch, attempt)
            )
        except UnavailableError as lost:
            raise UnavailableError(
                f"{self._source} was lost before it handed over. It has opened by itself,"
                f" {self._max_pause:g} s after it was closed; nothing is lost. Run the same command again."
            ) from lost
        pause = monotonic() - began
        reason = from_driver(error).message.rstrip(".") if isinstance(error, Exception) else "interrupted"
        if isinstance(error, TakenOverError) or not reopened:
            raise TakenOverError(
                "Another command has taken this switch over: `frontdesk transfer status`."
            ) from error
        self._note(self._source, f"{self._command} aborted", reason=type(error).__name__, pause=pause)
        if isinstance(error, Exception):
            raise AbortedError(
                f"Aborted after {pause:.2f} s: {reason}. Writes are open on {self._source} again, and nothing"
                " is lost."
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
        return sorted({table.schema for table in moved_tables(self._link.to(self._source))})

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
