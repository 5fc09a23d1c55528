"""Access to two databases during a transfer: each operation uses the side that is live at that time."""

import logging
import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from pydantic import SecretStr
from sqlalchemy import Engine

from app.config import Settings
from app.database import embedded_server, side_state
from app.database.connection import Connection
from app.database.database import Database
from app.database.pool import MeasuredPool
from app.database.side_state import ObservedSide, SideName, SideState
from app.errors import (
    DRIVER_ERRORS,
    ConfigurationError,
    FencedError,
    FrontdeskError,
    NoConnectionError,
    UnavailableError,
    to_frontdesk_error,
)
from app.observability import sentry

log = logging.getLogger(__name__)
T = TypeVar("T")

REFRESH_INTERVAL_SECONDS = 0.5  # reads use a new live side within one second
# A process that was idle for longer than this may have missed a whole transfer, including its end.
RECHECK_BOTH_AFTER_SECONDS = 60.0
OPEN_TIMEOUT_SECONDS = 10.0  # how long a refused write waits until a side accepts writes
# While a write waits, pauses between two queries for the live side. Each pause is twice the previous one.
FIRST_RETRY_PAUSE_SECONDS, MAX_RETRY_PAUSE_SECONDS = 0.005, 0.1


class LiveDatabase:
    """A `Database` that delegates to the live side of two databases.

    It refreshes its knowledge of the live side when an operation begins, at most twice a second. As long as
    the live side's state is `open`, it queries that side only, so the other side may be slow or down. Only
    the live side's pool has connections.
    """

    def __init__(self, settings: Settings) -> None:
        """Create both sides without connecting. Requires LEGACY_DATABASE_URL."""
        self._sides: dict[SideName, Database] = {
            "legacy": legacy_database(settings),
            "primary": primary_database(settings),
        }
        self._live_name: SideName | None = None
        self._live_state: ObservedSide | None = None  # the live side's last known state
        self._reset()
        # A child process needs a new lock: a lock that another thread holds during the fork stays locked.
        reset = weakref.WeakMethod(self._reset)
        os.register_at_fork(after_in_child=lambda: (method := reset()) and method())

    def _reset(self) -> object:
        self._lock = threading.Lock()
        self._refreshed_at = 0.0  # when the last refresh began, or failed
        self._failure: FrontdeskError | None = None  # of the last refresh
        return self

    @property
    def live_name(self) -> SideName | None:
        """Return the side that was live at the last refresh; None before the first one."""
        return self._live_name

    @property
    def sides(self) -> dict[SideName, Database]:
        """Return both databases by side name."""
        return self._sides

    def live(self) -> Database:
        """Return the live database; the answer may be half a second old.

        Raises FencedError while neither side is live (some milliseconds during a cutover), and another
        FrontdeskError if the live side cannot be determined.
        """
        name, now = self._live_name, time.monotonic()
        if name is None or self._failure is not None:
            return self._refresh(now - REFRESH_INTERVAL_SECONDS)
        database = self._sides[name]
        if database.is_fenced:
            return self._refresh(now)
        # One thread refreshes; the others do not wait for it.
        if now - self._refreshed_at < REFRESH_INTERVAL_SECONDS or self._lock.locked():
            return database
        return self._refresh(now)

    def run_on_live(self, attempt: Callable[[Database], T]) -> T:
        """Call `attempt` with the live database; call it again if a transfer refused it.

        `attempt` may run several times and must undo its work when it raises. It runs again after a
        FencedError, and after a NoConnectionError if the live database has changed. It does not run again
        after any other error, in particular not if the response to a COMMIT was lost. Raises FrontdeskError
        or what `attempt` raises.
        """
        return self._run_on_live(attempt, (NoConnectionError,))

    def read(self, function: Callable[[Connection], T]) -> T:
        """Run a read-only function like `Database.read`; repeat it if the live side changed or was lost."""
        return self._run_on_live(lambda database: database.read(function), (UnavailableError,))

    def _run_on_live(
        self, attempt: Callable[[Database], T], refresh_on: tuple[type[FrontdeskError], ...]
    ) -> T:
        database = self._wait_for_live(time.monotonic() + OPEN_TIMEOUT_SECONDS)
        deadline, pause = 0.0, FIRST_RETRY_PAUSE_SECONDS
        while True:
            try:
                return attempt(database)
            except (FrontdeskError, *DRIVER_ERRORS) as error:
                failure = to_frontdesk_error(error)
                now = time.monotonic()
                if isinstance(failure, FencedError):
                    deadline = deadline or now + OPEN_TIMEOUT_SECONDS
                    if now > deadline:
                        raise
                    time.sleep(random.uniform(0.5, 1) * pause)  # noqa: S311 - spreads the retries
                    pause = min(2 * pause, MAX_RETRY_PAUSE_SECONDS)
                    database = self._wait_until_open(deadline)
                elif isinstance(failure, refresh_on):
                    before, database = database, self._refresh(now)
                    if database is before:
                        raise
                else:
                    raise

    def _wait_for_live(self, deadline: float) -> Database:
        """Return the live database; wait for it while neither side is live."""
        try:
            return self.live()
        except FencedError:
            return self._wait_until_open(deadline)

    def _wait_until_open(self, deadline: float) -> Database:
        """Wait until the live database accepts writes, and return it. At the deadline, return it anyway.

        Raises FencedError if neither side is live at the deadline.
        """
        pause = FIRST_RETRY_PAUSE_SECONDS
        while True:
            now = time.monotonic()
            try:
                database = self._refresh(now)
            except FencedError:
                if now > deadline:
                    raise
            else:
                if (
                    now > deadline
                    or self._live_state is None
                    or self._live_state.state is not SideState.CLOSING
                ):
                    return database
            time.sleep(pause)
            pause = min(2 * pause, MAX_RETRY_PAUSE_SECONDS)

    def _refresh(self, since: float) -> Database:
        """Refresh the live side unless another thread did so after `since`; return the live database."""
        with self._lock:
            is_current = self._refreshed_at > since and not isinstance(self._failure, FencedError)
            if not is_current or (self._live_name is not None and self._sides[self._live_name].is_fenced):
                idle = time.monotonic() - self._refreshed_at
                self._refreshed_at, self._failure = time.monotonic(), None
                try:
                    self._use_side(self._determine_live_name(idle))
                except FrontdeskError as failure:
                    self._failure, self._refreshed_at = failure, time.monotonic()
                    if isinstance(failure, ConfigurationError):
                        self._live_name = None  # the side in use until now may be the wrong one
            if self._failure is not None:
                raise type(self._failure)(self._failure.message)
            assert self._live_name is not None  # noqa: S101 - a refresh without failure sets it
            return self._sides[self._live_name]

    def _determine_live_name(self, idle_seconds: float) -> SideName:
        known = self._live_name
        if known is None:
            answers: dict[SideName, ObservedSide] = {}
        else:
            answers = {known: side_state.read_side(self._sides[known])}
            self._live_state = answers[known]
            state = answers[known].state
            if state in (SideState.OPEN, SideState.CLOSING):
                return known
            # Without a row, no transfer has begun or the transfer is finished: the live side is the same.
            if state.is_outside_transfer and (
                known == "primary" or idle_seconds < RECHECK_BOTH_AFTER_SECONDS
            ):
                return known
        both = {
            name: answers.get(name) or side_state.read_side(database)
            for name, database in self._sides.items()
        }
        try:
            name = side_state.determine_live_side(both["legacy"], both["primary"])
        except UnavailableError:
            if known is None:
                raise
            name = known  # operations on it raise errors that describe the problem
        self._live_state = both[name]
        return name

    def _use_side(self, name: SideName) -> None:
        database = self._sides[name]
        database.is_fenced = False
        if name != self._live_name:
            log.log(
                logging.INFO if self._live_name is None else logging.WARNING,
                "The live database is now %s (epoch %d)",
                name,
                self._live_state.epoch if self._live_state is not None else 0,
            )
            self._live_name = name
            sentry.backend = name
        for other in self._sides.values():
            if other is not database:
                other.close_pool()

    # The methods of Database, on the live side

    @property
    def settings(self) -> Settings:
        """Return settings whose database URLs are those of the live side."""
        return self.live().settings

    @property
    def engine(self) -> Engine:
        """Return the SQLAlchemy engine of the live side."""
        return self.live().engine

    @property
    def pool(self) -> MeasuredPool:
        """Return the pool of the side that was live at the last refresh. Reading its metrics never blocks."""
        return self._sides[self._live_name or "primary"].pool

    @contextmanager
    def autocommit(self) -> Iterator[Connection]:
        """Lend a connection of the live side in autocommit mode, for the duration of the `with` block."""
        with self.live().autocommit() as connection:
            yield connection

    def connect_outside_pool(self, timeout_ms: int | None = None) -> Connection:
        """Open a connection to the live side that does not belong to the pool; the caller closes it.

        Also works while the pool is exhausted. Raises psycopg's errors, and FrontdeskError if the live side
        has never been determined.
        """
        known = None if self._live_name is None else self._sides[self._live_name]
        if known is not None and known.is_exhausted:
            return known.connect_outside_pool(timeout_ms)  # the operations that use the pool refresh
        try:
            return self.live().connect_outside_pool(timeout_ms)
        except FencedError:  # neither side is live at this moment; a check does not wait for it
            if known is None:
                raise
            return known.connect_outside_pool(timeout_ms)

    def ping(self) -> None:
        """Check that a new connection to the live side can be opened. Raises FrontdeskError."""
        self.live().ping()

    def open(self) -> None:
        """Do nothing: the pool of the live side opens at its first use."""

    def close(self) -> None:
        """Close all connections of both sides."""
        for database in self._sides.values():
            database.close()
        sentry.backend = sentry.DEFAULT_BACKEND


AnyDatabase = Database | LiveDatabase


def configured_database(settings: Settings) -> AnyDatabase:
    """Return the database that the settings select, without connecting.

    Without LEGACY_DATABASE_URL this is the only database, with TRANSFER_PIN the pinned side, otherwise a
    LiveDatabase that follows the live side.
    """
    sentry.backend = settings.transfer_pin or sentry.DEFAULT_BACKEND
    if settings.legacy_database_url is None:
        return Database(settings, embedded_server.resolve_database_url(settings))
    if settings.transfer_pin is None:
        return LiveDatabase(settings)
    return legacy_database(settings) if settings.transfer_pin == "legacy" else primary_database(settings)


def primary_database(settings: Settings) -> Database:
    """Return the target of the transfer: DATABASE_URL, or the embedded server."""
    url = embedded_server.resolve_database_url(settings)
    return Database(_single_side_settings(settings, database_url=SecretStr(url)), url)


def legacy_database(settings: Settings) -> Database:
    """Return the source of the transfer: LEGACY_DATABASE_URL, which must be set and not be a pooler's URL."""
    url = settings.legacy_database_url
    assert url is not None  # noqa: S101 - checked by the caller
    own = _single_side_settings(settings, database_url=url, direct_database_url=None, postgres_pooler=None)
    return Database(own, url.get_secret_value())


def _single_side_settings(settings: Settings, **own: object) -> Settings:
    """Return a copy of the settings that names this side's database only."""
    return settings.model_copy(update={"legacy_database_url": None, "transfer_pin": None, **own})
