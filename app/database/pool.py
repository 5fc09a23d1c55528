"""A psycopg connection pool that counts its use and warns before it is exhausted."""

import logging
import threading
from time import perf_counter
from typing import Any

from psycopg_pool import ConnectionPool, PoolTimeout

from app.database.connection import Connection
from app.observability import metrics
from app.observability.rate_limited_log import RateLimitedLog

log = logging.getLogger(__name__)

HIGH_USAGE_RATIO = 0.8  # share of max_size above which a high-usage episode begins
# Share of max_size at which the episode ends. It is lower, so that usage around 80 % is one episode and
# not many.
NORMAL_USAGE_RATIO = 0.5


class MeasuredPool(ConnectionPool[Connection]):
    """A pool that counts the connections in use (`in_use`) and the requests waiting for one (`waiting`)."""

    def __init__(self, **options: Any) -> None:
        self._usage_lock = threading.Lock()
        self._is_high = False
        self._high_usage_log = RateLimitedLog(log)
        self.in_use = 0
        self.waiting = 0
        super().__init__(**options)

    @property
    def is_exhausted(self) -> bool:
        """True if connections in use and waiting requests together reach `max_size`."""
        return self.in_use + self.waiting >= self.max_size

    @property
    def has_idle(self) -> bool:
        """True if a connection is idle, so that `getconn` does not wait."""
        return bool(self._pool)

    def open(self, wait: bool = False, timeout: float = 30.0) -> None:
        """Open the pool; connections are opened in the background unless `wait` is true."""
        metrics.open_pools.add(self)
        super().open(wait, timeout)

    def close(self, timeout: float = 5.0) -> None:
        """Close all connections."""
        metrics.open_pools.discard(self)
        super().close(timeout)

    def getconn(self, timeout: float | None = None) -> Connection:
        """Acquire a connection; the caller releases it with `putconn`.

        Raises PoolTimeout if none is free within `timeout` seconds (default: the pool's timeout).
        """
        # `_pool` holds the idle connections. The public `get_stats` is slower: it copies a dictionary.
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
                "The pool is above %d %%: %d of %d connections are in use, %d requests are waiting",
                100 * HIGH_USAGE_RATIO,
                self.in_use,
                self.max_size,
                self.waiting,
            )
        return connection

    def putconn(self, conn: Connection) -> None:
        """Release a connection to the pool."""
        # Before the pool wakes a waiting thread, which increments the count.
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
