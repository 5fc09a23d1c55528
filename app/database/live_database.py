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
from app.database.pool import WatchedPool
from app.database.side_state import Name, Side, State
from app.errors import (
    RAW_ERRORS,
    ConfigurationError,
    FencedError,
    FrontdeskError,
    NoConnectionError,
    UnavailableError,
    from_driver,
)
from app.observability import sentry

log = logging.getLogger(__name__)
T = TypeVar("T")

LOOK_EVERY = 0.5  # seconds; reads follow a move within one
# Seconds. A process that slept longer without having seen a move may have slept through one, end and all.
LONG_SLEEP = 60.0
PATIENCE = 10.0  # seconds that a refused write waits for a side to open
FIRST_PAUSE, LONGEST_PAUSE = 0.005, 0.1  # seconds between two looks of a write that waits


class MovingDatabase:
    """`Database` for whoever need not know which one is live.

    It looks when somebody works, at most twice a second, and asks the live side alone as long as that says
    `open`: the other one being slow or down costs nothing. Only the live side has connections.
    """

    def __init__(self, settings: Settings) -> None:
        """Connect to nothing yet. LEGACY_DATABASE_URL is set."""
        self._both: dict[Name, Database] = {"legacy": legacy_of(settings), "primary": primary_of(settings)}
        self._name: Name | None = None
        self._side: Side | None = None  # what the live side said last
        self._begin_anew()
        # A lock that another thread held when the process forked would be held for ever.
        begin_anew = weakref.WeakMethod(self._begin_anew)
        os.register_at_fork(after_in_child=lambda: (method := begin_anew()) and method())

    def _begin_anew(self) -> object:
        self._lock = threading.Lock()
        self._looked = 0.0  # when the last look began, or failed
        self._failure: FrontdeskError | None = None  # of the last look
        return self

    @property
    def name(self) -> Name | None:
        """The side that was live at the last look."""
        return self._name

    @property
    def both(self) -> dict[Name, Database]:
        """The two sides."""
        return self._both

    def live(self) -> Database:
        """The database to work with, as of half a second ago.

        Raises FencedError in the moment in which none is live, and FrontdeskError where none can be told.
        """
        name, now = self._name, time.monotonic()
        if name is None or self._failure is not None:
            return self._look(now - LOOK_EVERY)
        database = self._both[name]
        if database.is_fenced:
            return self._look(now)
        # One looks for all; the others need not wait for it.
        if now - self._looked < LOOK_EVERY or self._lock.locked():
            return database
        return self._look(now)

    def follow(self, attempt: Callable[[Database], T]) -> T:
        """Run `attempt` on the live database, and again where it was refused because of the move.

        It may run several times: raise for what has to be undone. It is not run again once anything else
        went wrong, a lost answer to a COMMIT above all. Raises FrontdeskError or what `attempt` raises.
        """
        return self._follow(attempt, (NoConnectionError,))

    def read(self, statement: Callable[[Connection], T]) -> T:
        """`Database.read`; what only reads also runs again when the old side is gone."""
        return self._follow(lambda database: database.read(statement), (UnavailableError,))

    def _follow(self, attempt: Callable[[Database], T], moved_away: tuple[type[FrontdeskError], ...]) -> T:
        database, deadline, pause = self._live_by(time.monotonic() + PATIENCE), 0.0, FIRST_PAUSE
        while True:
            try:
                return attempt(database)
            except (FrontdeskError, *RAW_ERRORS) as error:
                failure = from_driver(error)
                now = time.monotonic()
                if isinstance(failure, FencedError):
                    deadline = deadline or now + PATIENCE
                    if now > deadline:
                        raise
                    time.sleep(random.uniform(0.5, 1) * pause)  # noqa: S311 - so that not all come at once
                    pause = min(2 * pause, LONGEST_PAUSE)
                    database = self._open_by(deadline)
                elif isinstance(failure, moved_away):
                    before, database = database, self._look(now)
                    if database is before:
                        raise
                else:
                    raise

    def _live_by(self, deadline: float) -> Database:
        """The live database, waiting for it where none is."""
        try:
            return self.live()
        except FencedError:
            return self._open_by(deadline)

    def _open_by(self, deadline: float) -> Database:
        """The live database once it takes writes, or as it is at the deadline. Raises FencedError."""
        pause = FIRST_PAUSE
        while True:
            now = time.monotonic()
            try:
                database = self._look(now)
            except FencedError:
                if now > deadline:
                    raise
            else:
                if now > deadline or self._side is None or self._side.state is not State.CLOSING:
                    return database
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _look(self, since: float) -> Database:
        """Look, unless somebody has begun to since then; return the live database."""
        with self._lock:
            is_over = self._looked > since and not isinstance(self._failure, FencedError)
            if not is_over or (self._name is not None and self._both[self._name].is_fenced):
                idle = time.monotonic() - self._looked
                self._looked, self._failure = time.monotonic(), None
                try:
                    self._become(self._ask(idle))
                except FrontdeskError as failure:
                    self._failure, self._looked = failure, time.monotonic()
                    if isinstance(failure, ConfigurationError):
                        self._name = None  # not even where we are is sure any more
            if self._failure is not None:
                raise type(self._failure)(self._failure.message)
            assert self._name is not None  # noqa: S101 - a look without a failure has found it
            return self._both[self._name]

    def _ask(self, idle: float) -> Name:
        known = self._name
        if known is None:
            answers: dict[Name, Side] = {}
        else:
            answers = {known: side_state.ask(self._both[known])}
            self._side = answers[known]
            state = answers[known].state
            if state in (State.OPEN, State.CLOSING):
                return known
            # Without a row nothing has begun, or the move is finished: where we are is where we were.
            if state.is_without_a_move and (known == "primary" or idle < LONG_SLEEP):
                return known
        both = {name: answers.get(name) or side_state.ask(database) for name, database in self._both.items()}
        try:
            name = side_state.live(both["legacy"], both["primary"])
        except UnavailableError:
            if known is None:
                raise
            name = known  # its errors say what is wrong
        self._side = both[name]
        return name

    def _become(self, name: Name) -> None:
        database = self._both[name]
        database.is_fenced = False
        if name != self._name:
            log.log(
                logging.INFO if self._name is None else logging.WARNING,
                "Working on the %s database now (epoch %d)",
                name,
                self._side.epoch if self._side is not None else 0,
            )
            self._name = name
            sentry.backend = name
        for other in self._both.values():
            if other is not database:
                other.rest()

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
    def pool(self) -> WatchedPool:
        """The pool of the side that was live at the last look: figures of it wait for nobody."""
        return self._both[self._name or "primary"].pool

    @contextmanager
    def autocommit(self) -> Iterator[Connection]:
        """A connection outside any transaction."""
        with self.live().autocommit() as connection:
            yield connection

    def connect_alone(self, patience: int | None = None) -> Connection:
        """A new connection that the pool knows nothing of; the caller closes it. A full pool is no obstacle.

        Raises psycopg's errors, and FrontdeskError where the live side was never known.
        """
        known = None if self._name is None else self._both[self._name]
        if known is not None and known.is_exhausted:
            return known.connect_alone(patience)  # whoever holds the pool looks
        try:
            return self.live().connect_alone(patience)
        except FencedError:  # for a moment there is none, and a check is no reason to wait
            if known is None:
                raise
            return known.connect_alone(patience)

    def ping(self) -> None:
        """Connect past the pool, at once. Raises FrontdeskError."""
        self.live().ping()

    def open(self) -> None:
        """The pool of the live side opens when somebody works."""

    def close(self) -> None:
        """Give every connection of both sides back."""
        for database in self._both.values():
            database.close()
        sentry.backend = sentry.ONE_DATABASE


AnyDatabase = Database | MovingDatabase


def database_of(settings: Settings) -> AnyDatabase:
    """What a process works with: the one database, the pinned one, or whichever is live."""
    sentry.backend = settings.transfer_pin or sentry.ONE_DATABASE
    if settings.legacy_database_url is None:
        return Database(settings, embedded_server.url_of(settings))
    if settings.transfer_pin is None:
        return MovingDatabase(settings)
    return legacy_of(settings) if settings.transfer_pin == "legacy" else primary_of(settings)


def primary_of(settings: Settings) -> Database:
    """The database that is moved to."""
    url = embedded_server.url_of(settings)
    return Database(_alone(settings, database_url=SecretStr(url)), url)


def legacy_of(settings: Settings) -> Database:
    """The database that is moved from. LEGACY_DATABASE_URL is set, and goes past any pooler."""
    url = settings.legacy_database_url
    assert url is not None  # noqa: S101 - the caller has looked
    own = _alone(settings, database_url=url, direct_database_url=None, postgres_pooler=None)
    return Database(own, url.get_secret_value())


def _alone(settings: Settings, **own: object) -> Settings:
    """The settings of one side, for whoever opens connections of his own by them."""
    return settings.model_copy(update={"legacy_database_url": None, "transfer_pin": None, **own})
