"""Two databases of which one is live, while a move goes on: whoever works here follows it by himself."""

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
from app.database.database import Connection, Database
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

REFRESH_INTERVAL_SECONDS = 0.5  # seconds; reads follow a move within one
# Seconds. A process that slept longer without having seen a move may have slept through one, end and all.
RECHECK_BOTH_AFTER_SECONDS = 60.0
OPEN_TIMEOUT_SECONDS = 10.0  # seconds that a refused write waits for a side to open
FIRST_RETRY_PAUSE_SECONDS, MAX_RETRY_PAUSE_SECONDS = (
    0.005,
    0.1,
)  # seconds between two looks of a write that waits


class LiveDatabase:
    """`Database` for whoever need not know which one is live.

    It looks when somebody works, at most twice a second, and asks the live side alone as long as that says
    `open`: the other one being slow or down costs nothing. Only the live side has connections.
    """

    def __init__(self, settings: Settings) -> None:
        """Connect to nothing yet. LEGACY_DATABASE_URL is set."""
        self._sides: dict[SideName, Database] = {
            "legacy": legacy_database(settings),
            "primary": primary_database(settings),
        }
        self._live_name: SideName | None = None
        self._live_state: ObservedSide | None = None  # what the live side said last
        self._reset()
        # A lock that another thread held when the process forked would be held for ever.
        begin_anew = weakref.WeakMethod(self._reset)
        os.register_at_fork(after_in_child=lambda: (method := begin_anew()) and method())

    def _reset(self) -> object:
        self._lock = threading.Lock()
        self._refreshed_at = 0.0  # when the last look began, or failed
        self._failure: FrontdeskError | None = None  # of the last look
        return self

    @property
    def live_name(self) -> SideName | None:
        """The side that was live at the last look."""
        return self._live_name

    @property
    def sides(self) -> dict[SideName, Database]:
        """The two sides."""
        return self._sides

    def live(self) -> Database:
        """The database to work with, as of half a second ago.

        Raises FencedError in the moment in which none is live, and FrontdeskError where none can be told.
        """
        name, now = self._live_name, time.monotonic()
        if name is None or self._failure is not None:
            return self._refresh(now - REFRESH_INTERVAL_SECONDS)
        database = self._sides[name]
        if database.is_fenced:
            return self._refresh(now)
        # One looks for all; the others need not wait for it.
        if now - self._refreshed_at < REFRESH_INTERVAL_SECONDS or self._lock.locked():
            return database
        return self._refresh(now)

    def run_on_live(self, attempt: Callable[[Database], T]) -> T:
        """Run `attempt` on the live database, and again where it was refused because of the move.

        It may run several times: raise for what has to be undone. It is not run again once anything else
        went wrong, a lost answer to a COMMIT above all. Raises FrontdeskError or what `attempt` raises.
        """
        return self._run_on_live(attempt, (NoConnectionError,))

    def read(self, function: Callable[[Connection], T]) -> T:
        """`Database.read`; what only reads also runs again when the old side is gone."""
        return self._run_on_live(lambda database: database.read(function), (UnavailableError,))

    def _run_on_live(
        self, attempt: Callable[[Database], T], refresh_on: tuple[type[FrontdeskError], ...]
    ) -> T:
        database, deadline, pause = (
            self._wait_for_live(time.monotonic() + OPEN_TIMEOUT_SECONDS),
            0.0,
            FIRST_RETRY_PAUSE_SECONDS,
        )
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
                    time.sleep(random.uniform(0.5, 1) * pause)  # noqa: S311 - so that not all come at once
                    pause = min(2 * pause, MAX_RETRY_PAUSE_SECONDS)
                    database = self._wait_until_open(deadline)
                elif isinstance(failure, refresh_on):
                    before, database = database, self._refresh(now)
                    if database is before:
                        raise
                else:
                    raise

    def _wait_for_live(self, deadline: float) -> Database:
        """The live database, waiting for it where none is."""
        try:
            return self.live()
        except FencedError:
            return self._wait_until_open(deadline)

    def _wait_until_open(self, deadline: float) -> Database:
        """The live database once it takes writes, or as it is at the deadline. Raises FencedError."""
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
        """Look, unless somebody has begun to since then; return the live database."""
        with self._lock:
            is_over = self._refreshed_at > since and not isinstance(self._failure, FencedError)
            if not is_over or (self._live_name is not None and self._sides[self._live_name].is_fenced):
                idle = time.monotonic() - self._refreshed_at
                self._refreshed_at, self._failure = time.monotonic(), None
                try:
                    self._use_side(self._determine_live_name(idle))
                except FrontdeskError as failure:
                    self._failure, self._refreshed_at = failure, time.monotonic()
                    if isinstance(failure, ConfigurationError):
                        self._live_name = None  # not even where we are is sure any more
            if self._failure is not None:
                raise type(self._failure)(self._failure.message)
            assert self._live_name is not None  # noqa: S101 - a look without a failure has found it
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
            # Without a row nothing has begun, or the move is finished: where we are is where we were.
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
            name = known  # its errors say what is wrong
        self._live_state = both[name]
        return name

    def _use_side(self, name: SideName) -> None:
        database = self._sides[name]
        database.is_fenced = False
        if name != self._live_name:
            log.log(
                logging.INFO if self._live_name is None else logging.WARNING,
                "Working on the %s database now (epoch %d)",
                name,
                self._live_state.epoch if self._live_state is not None else 0,
            )
            self._live_name = name
            sentry.backend = name
        for other in self._sides.values():
            if other is not database:
                other.close_pool()

    # As in Database, on the live side

    @property
    def settings(self) -> Settings:
        """Those of the live side: its URLs stand where one database's do."""
        return self.live().settings

    @property
    def engine(self) -> Engine:
        """SQLAlchemy's engine."""
        return self.live().engine

    @property
    def pool(self) -> MeasuredPool:
        """The pool of the side that was live at the last look: figures of it wait for nobody."""
        return self._sides[self._live_name or "primary"].pool

    @contextmanager
    def autocommit(self) -> Iterator[Connection]:
        """A connection outside any transaction."""
        with self.live().autocommit() as connection:
            yield connection

    def connect_outside_pool(self, timeout_ms: int | None = None) -> Connection:
        """A new connection that the pool knows nothing of; the caller closes it. A full pool is no obstacle.

        Raises psycopg's errors, and FrontdeskError where the live side was never known.
        """
        known = None if self._live_name is None else self._sides[self._live_name]
        if known is not None and known.is_exhausted:
            return known.connect_outside_pool(timeout_ms)  # whoever holds the pool looks
        try:
            return self.live().connect_outside_pool(timeout_ms)
        except FencedError:  # for a moment there is none, and a check is no reason to wait
            if known is None:
                raise
            return known.connect_outside_pool(timeout_ms)

    def ping(self) -> None:
        """Connect past the pool, at once. Raises FrontdeskError."""
        self.live().ping()

    def open(self) -> None:
        """The pool of the live side opens when somebody works."""

    def close(self) -> None:
        """Give every connection of both sides back."""
        for database in self._sides.values():
            database.close()
        sentry.backend = sentry.DEFAULT_BACKEND


AnyDatabase = Database | LiveDatabase


def configured_database(settings: Settings) -> AnyDatabase:
    """What a process works with: the one database, the pinned one, or whichever is live."""
    sentry.backend = settings.transfer_pin or sentry.DEFAULT_BACKEND
    if settings.legacy_database_url is None:
        return Database(settings, embedded_server.resolve_database_url(settings))
    if settings.transfer_pin is None:
        return LiveDatabase(settings)
    return legacy_database(settings) if settings.transfer_pin == "legacy" else primary_database(settings)


def primary_database(settings: Settings) -> Database:
    """The database that is moved to."""
    url = embedded_server.resolve_database_url(settings)
    return Database(_single_side_settings(settings, database_url=SecretStr(url)), url)


def legacy_database(settings: Settings) -> Database:
    """The database that is moved from. LEGACY_DATABASE_URL is set, and goes past any pooler."""
    url = settings.legacy_database_url
    assert url is not None  # noqa: S101 - the caller has looked
    own = _single_side_settings(settings, database_url=url, direct_database_url=None, postgres_pooler=None)
    return Database(own, url.get_secret_value())


def _single_side_settings(settings: Settings, **own: object) -> Settings:
    """The settings of one side, for whoever opens connections of his own by them."""
    return settings.model_copy(update={"legacy_database_url": None, "transfer_pin": None, **own})
