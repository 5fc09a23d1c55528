"""Access to one PostgreSQL database: a psycopg pool, and SQLAlchemy's engine on top of it."""

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
    Connection,
    connection_class,
    connection_parameters,
    query_timeout,
    set_transaction_settings,
)
from app.database.pool import MeasuredPool
from app.errors import ClientDeadlineExceeded, FencedError, UnavailableError
from app.observability import metrics

T = TypeVar("T")

__all__ = ["Connection", "Database"]


class Database:
    """One database and this process's connections to it.

    Defaults of the pool (requirement M9): 3 connections, of which 1 is kept open when idle; 10 s to wait for
    a connection; 30 s until an idle connection is closed; 1 h of life. psycopg_pool supports each of these
    settings and keeps statistics. SQLAlchemy's engine uses NullPool and takes its connections from the
    psycopg pool, so one process never holds more than POSTGRES_MAX_CONNECTIONS.
    """

    def __init__(self, settings: Settings, url: str) -> None:
        """Create the pool and the engine without connecting. `url` is a libpq URL."""
        self.settings = settings
        self.is_fenced = False  # a transfer has refused a write: LiveDatabase must refresh
        self._url = url
        self._pool = self._new_pool()
        self.engine: Engine = create_engine(
            "postgresql+psycopg://",
            creator=self._checked_connection,
            poolclass=NullPool,
            hide_parameters=True,
            # SQLAlchemy would otherwise query the oid of hstore on every new connection.
            use_native_hstore=False,
        )
        # A child process needs its own pool: threads do not survive a fork, and two processes must not share
        # a socket.
        replace_pool = weakref.WeakMethod(self._replace_pool)
        os.register_at_fork(after_in_child=lambda: (method := replace_pool()) and method())

    def _new_pool(self) -> MeasuredPool:
        settings = self.settings
        return MeasuredPool(
            kwargs=connection_parameters(settings, self._url),
            connection_class=connection_class(settings),
            min_size=settings.postgres_min_connections,
            max_size=settings.postgres_max_connections,
            timeout=settings.postgres_connection_timeout / 1000,
            # The pool doubles its pause after each failed attempt. After this timeout it stops, and the next
            # caller connects at once, so requests succeed as soon as an outage of minutes ends.
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
        """Return the pool of this process; open it at the first use."""
        if self._pool.closed:
            self.open()
        return self._pool

    def open(self) -> None:
        """Open the pool ahead of its first use."""
        self._pool.open()

    @property
    def is_exhausted(self) -> bool:
        """True if all connections that the pool may open are in use or requested."""
        return self._pool.is_exhausted

    def live(self) -> Self:
        """Return this database. `LiveDatabase.live` returns one of two."""
        return self

    def run_on_live(self, attempt: Callable[["Database"], T]) -> T:
        """Call `attempt` with this database, once.

        `LiveDatabase.run_on_live` calls it again if the live database has changed.
        """
        return attempt(self)

    def close_pool(self) -> None:
        """Close the pool's connections; the next use opens a new pool.

        Connections in use are closed when they are returned. Callers that wait for a connection get a
        FencedError, so that they use the other database.
        """
        if not self._pool.closed:
            old_pool, self._pool = self._pool, self._new_pool()
            # In a thread: closing waits for the pool's workers, which may be connecting to a server that
            # is gone.
            threading.Thread(target=old_pool.close, name="close-pool", daemon=True).start()

    def _acquire_connection(self, pool: MeasuredPool) -> Connection:
        try:
            return pool.getconn()
        except PoolClosed:
            if pool is self._pool:
                raise
            raise FencedError from None

    def _checked_connection(self) -> Connection:
        """Return a connection that has just been checked: a unit of work cannot run its statements twice."""
        pool = self.pool
        while True:
            connection = self._acquire_connection(pool)
            try:
                if connection.autocommit:
                    connection.autocommit = False
                pool.check_connection(connection)
            except psycopg.OperationalError as error:
                pool.putconn(connection)  # the pool discards it and opens another one
                if isinstance(error, ClientDeadlineExceeded):
                    raise  # a frozen server does not respond on other connections either
                continue
            return connection

    @contextmanager
    def autocommit(self) -> Iterator[Connection]:
        """Lend a pool connection in autocommit mode, for the duration of the `with` block."""
        pool = self.pool
        connection = self._acquire_connection(pool)
        try:
            # Setting the mode costs more than reading it, and most connections have this mode already.
            if not connection.autocommit:
                connection.autocommit = True
            yield connection
        finally:
            pool.putconn(connection)

    def read(self, function: Callable[[Connection], T]) -> T:
        """Run a read-only function in autocommit mode, without the round trip that checks the connection.

        If the connection is lost, the pool checks all of its connections and the function runs a second time;
        it must therefore not write. Raises what the function raises.
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
        """Wrap a function in a transaction with the session's settings, which a pooler refuses as options."""

        def run(connection: Connection) -> T:
            with connection.transaction():
                set_transaction_settings(connection, self.settings)
                return function(connection)

        return run

    def query_with_timeout(self, function: Callable[[Connection], T], timeout_ms: int) -> T:
        """Run a small query in autocommit mode, even if the pool is exhausted.

        The query uses a connection of the pool if one is idle or the pool cannot grow. Otherwise, or if that
        connection is not available in time or is lost, the query opens a connection of its own.

        `timeout_ms`: milliseconds for getting the connection, and again for each response. Raises psycopg's
        errors.
        """
        pool = self._pool
        if not pool.closed and (pool.has_idle or pool.is_exhausted):
            with suppress(psycopg.OperationalError):  # timed out or lost: try a new connection
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
        """Open a connection that does not belong to the pool; the caller closes it.

        For checks that must also work while the pool is exhausted. `timeout_ms`: milliseconds for each
        operation on the connection (for connecting, libpq allows at least two seconds). Raises psycopg's
        errors.
        """
        settings = self.settings
        if timeout_ms is not None:
            timeouts = ("statement", "lock", "query")
            settings = settings.model_copy(
                update={f"postgres_{timeout}_timeout": timeout_ms for timeout in timeouts}
            )
        parameters = connection_parameters(settings, self._url)
        if timeout_ms is not None:
            parameters["connect_timeout"] = timeout_ms // 1000
        return connection_class(settings).connect(**parameters, autocommit=True)

    def ping(self) -> None:
        """Check that a new connection can be opened, without the pool.

        Raises UnavailableError with libpq's message: host, user and reason.
        """
        try:
            self.connect_outside_pool().close()
        except psycopg.OperationalError as error:
            raise UnavailableError(f"Cannot reach the database: {error}") from None

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()
