"""psycopg's pool, with its use in numbers and a warning before it is exhausted."""

import logging
import threading
from time import perf_counter
from typing import Any

import psycopg
from psycopg_pool import ConnectionPool, PoolTimeout

from app.observability import metrics
from app.observability.rate_limited_log import RateLimitedLog

log = logging.getLogger(__name__)

HIGH_USAGE_RATIO = 0.8  # of the connections
NORMAL_USAGE_RATIO = 0.5  # from here down an episode is over: around 80 % one flutters

Connection = psycopg.Connection[Any]


class MeasuredPool(ConnectionPool[Connection]):
    """A pool that knows how many of its connections are taken, and by how many they are awaited."""

    def __init__(self, **options: Any) -> None:
        self._usage_lock = threading.Lock()
        self._is_high = False
        self._high_usage_log = RateLimitedLog(log)
        self.in_use = 0
        self.waiting = 0
        super().__init__(**options)

    @property
    def is_exhausted(self) -> bool:
        """Whether all connections that there may be are taken, or awaited."""
        return self.in_use + self.waiting >= self.max_size

    @property
    def has_idle(self) -> bool:
        """Whether a caller gets a connection at once."""
        return bool(self._pool)

    def open(self, wait: bool = False, timeout: float = 30.0) -> None:
        """Start to connect."""
        metrics.open_pools.add(self)
        super().open(wait, timeout)

    def close(self, timeout: float = 5.0) -> None:
        """Close all connections."""
        metrics.open_pools.discard(self)
        super().close(timeout)

    def getconn(self, timeout: float | None = None) -> Connection:
        """Take a connection, for `putconn` to give back. Raises PoolTimeout."""
        # The parent's idle connections; `get_stats` copies a dictionary to tell their number.
        began = None if self._pool else self._begin_wait()
        try:
            connection = super().getconn(timeout)
        except PoolTimeout:
            metrics.POOL_TIMEOUTS.inc()
            raise
        finally:
            if began is not None:
                self._end_wait(began)
        with self._usage_lock:
            self.in_use += 1
            is_new = not self._is_high and self.in_use > HIGH_USAGE_RATIO * self.max_size
            self._is_high |= is_new
        if is_new:
            metrics.POOL_HIGH_EPISODES.inc()
            self._high_usage_log.warning(
                "The pool is above %d %%: %d of %d connections are in use, %d callers wait",
                100 * HIGH_USAGE_RATIO,
                self.in_use,
                self.max_size,
                self.waiting,
            )
        return connection

    def putconn(self, conn: Connection) -> None:
        """Give a connection back."""
        # First, for whoever waits is woken by the pool and counts itself in.
        with self._usage_lock:
            self.in_use -= 1
            if self.in_use <= NORMAL_USAGE_RATIO * self.max_size:
                self._is_high = False
        super().putconn(conn)

    def _begin_wait(self) -> float:
        with self._usage_lock:
            self.waiting += 1
        return perf_counter()

    def _end_wait(self, began: float) -> None:
        with self._usage_lock:
            self.waiting -= 1
        metrics.POOL_WAIT_SECONDS.observe(perf_counter() - began)
