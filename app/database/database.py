"""One process's way to PostgreSQL: a psycopg pool, and SQLAlchemy's engine on top of it."""

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Self, TypeVar

import psycopg
from psycopg_pool import PoolClosed
from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import NullPool

from app.config import Settings
from app.database.connection import (
    connection_class,
    connection_parameters,
    query_timeout,
    set_transaction_settings,
)
from app.database.pool import Connection, MeasuredPool
from app.errors import ClientDeadlineExceeded, FencedError, UnavailableError
from app.observability import metrics

T = TypeVar("T")

__all__ = ["Connection", "Database"]


class Database:
    """The pool of M9: 3 connections, 1 kept idle, 10 s to wait for one, 30 s idle, 1 h of life.

    psycopg_pool has every one of these knobs and its own statistics; SQLAlchemy takes its connections
    from it (NullPool), so one process never holds more than POSTGRES_MAX_CONNECTIONS.
    """

    def __init__(self, settings: Settings, url: str) -> None:
        """Connect to nothing yet. `url` is a libpq URL."""
        self.settings = settings
        self.is_fenced = False  # somebody was refused here: see app/database/live_database.py
        self._url = url
        self._pool = self._new_pool()
        self.engine: Engine = create_engine(
            "postgresql+psycopg://",
            creator=self._checked_connection,
            poolclass=NullPool,
            hide_parameters=True,
            # Without it every new connection asks the server for the type's oid.
            use_native_hstore=False,
        )
        # Threads do not survive a fork, nor may two processes share a socket: a child begins anew.
        forget = weakref.WeakMethod(self._replace_pool)
        os.register_at_fork(after_in_child=lambda: (method := forget()) and method())

    def _new_pool(self) -> MeasuredPool:
        settings = self.settings
        return MeasuredPool(
            kwargs=connection_parameters(settings, self._url),
            connection_class=connection_class(settings),
            min_size=settings.postgres_min_connections,
            max_size=settings.postgres_max_connections,
            timeout=settings.postgres_connection_timeout / 1000,
            # The pool waits twice as long after each failed attempt. When it gives up, the next caller tries
            # at once: so an outage of minutes is over for us when it is over.
            reconnect_timeout=settings.postgres_connection_timeout / 1000,
            max_idle=settings.postgres_idle_timeout / 1000,
            max_lifetime=settings.postgres_max_lifetime / 1000,
            close_returns=True,
            open=False,
            name=settings.service_name,
        )

    def _replace_pool(self) -> object:
        metrics.open_pools.discard(self._pool)
        self._pool = self._new_pool()
        return self._pool

    @property
    def pool(self) -> MeasuredPool:
        """The pool of this process, opened when it is first used."""
        if self._pool.closed:
            self.open()
        return self._pool

    def open(self) -> None:
        """Open the pool before somebody needs it."""
        self._pool.open()

    @property
    def is_exhausted(self) -> bool:
        """Whether all connections that there may be are in use."""
        return self._pool.is_exhausted

    def live(self) -> Self:
        """The database to work with: this one. `LiveDatabase` chooses."""
        return self

    def run_on_live(self, attempt: Callable[["Database"], T]) -> T:
        """Run what `LiveDatabase` runs again where the live database has changed; here it has not."""
        return attempt(self)

    def close_pool(self) -> None:
        """Give every connection back until somebody needs one; those that are in use, when they are done.

        Who waits for one gets a FencedError: this database is not the one to wait for.
        """
        if not self._pool.closed:
            resting, self._pool = self._pool, self._new_pool()
            # Its workers may be connecting to a server that is gone; nobody waits for that.
            threading.Thread(target=resting.close, name="rest", daemon=True).start()

    def _acquire_connection(self, pool: MeasuredPool) -> Connection:
        try:
            return pool.getconn()
        except PoolClosed:
            if pool is self._pool:
                raise
            raise FencedError from None

    def _checked_connection(self) -> Connection:
        """A connection that is known to live: a unit of work cannot run its statements twice."""
        pool = self.pool
        while True:
            connection = self._acquire_connection(pool)
            try:
                if connection.autocommit:
                    connection.autocommit = False
                pool.check_connection(connection)
            except psycopg.OperationalError as error:
                pool.putconn(connection)  # the pool discards it, and makes another
                if isinstance(error, ClientDeadlineExceeded):
                    raise  # a frozen server answers on no other connection either
                continue
            return connection

    @contextmanager
    def autocommit(self) -> Iterator[Connection]:
        """A connection outside any transaction."""
        pool = self.pool
        connection = self._acquire_connection(pool)
        try:
            # Switching costs more than a look, and most connections come back as they went.
            if not connection.autocommit:
                connection.autocommit = True
            yield connection
        finally:
            pool.putconn(connection)

    def read(self, function: Callable[[Connection], T]) -> T:
        """Run a reading function in autocommit, without the round trip that checks the connection.

        Where the connection turns out to be lost, the pool checks all of its own and the function runs
        once more; so it must not write.
        """
        if self.settings.postgres_pooler:
            function = self._with_session_settings(function)
        with self.autocommit() as connection:
            try:
                return function(connection)
            except ClientDeadlineExceeded:
                raise
            except psycopg.OperationalError:
                if not connection.closed:
                    raise
        self.pool.check()
        with self.autocommit() as connection:
            return function(connection)

    def _with_session_settings(self, function: Callable[[Connection], T]) -> Callable[[Connection], T]:
        """The same in a transaction that carries the session's settings, where a pooler refuses them."""

        def run(connection: Connection) -> T:
            with connection.transaction():
                set_transaction_settings(connection, self.settings)
                return function(connection)

        return run

    def query_with_timeout(self, function: Callable[[Connection], T], timeout_ms: int) -> T:
        """Ask something small, in autocommit: on a connection of the pool, or one of its own where the pool
        has none and may have more.

        `timeout_ms`: milliseconds for the connection, and again for the answer; a pool that has none by then
        does not stop it. Raises psycopg's errors.
        """
        pool = self._pool
        if not pool.closed and (pool.has_idle or pool.is_exhausted):
            with suppress(psycopg.OperationalError):  # stale or silent: a new connection knows more
                connection = pool.getconn(timeout_ms / 1000)
                try:
                    connection.autocommit = True
                    with query_timeout(timeout_ms / 1000, connection):
                        return function(connection)
                finally:
                    pool.putconn(connection)
        with closing(self.connect_outside_pool(timeout_ms)) as connection:
            return function(connection)

    def connect_outside_pool(self, timeout_ms: int | None = None) -> Connection:
        """A new connection that the pool knows nothing of; the caller closes it.

        For checks, which a full pool must not blind. `timeout_ms`: milliseconds for anything on it
        (for connecting, libpq allows two seconds at least). Raises psycopg's errors.
        """
        settings = self.settings
        if timeout_ms is not None:
            timeouts = ("statement", "lock", "query")
            settings = settings.model_copy(
                update={f"postgres_{each}_timeout": timeout_ms for each in timeouts}
            )
        parameters = connection_parameters(settings, self._url)
        if timeout_ms is not None:
            parameters["connect_timeout"] = timeout_ms // 1000
        return connection_class(settings).connect(**parameters, autocommit=True)

    def ping(self) -> None:
        """Connect past the pool, at once. Raises UnavailableError in libpq's words: host, user and reason."""
        try:
            self.connect_outside_pool().close()
        except psycopg.OperationalError as error:
            raise UnavailableError(f"Cannot reach the database: {error}") from None

    def close(self) -> None:
        """Give every connection back to the server."""
        self._pool.close()
