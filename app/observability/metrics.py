"""Prometheus metrics of the database, and what the log tells of them every so many queries.

Programs that serve `prometheus_client`'s registry serve these, too. With several gunicorn workers the
values lie in files that the workers share, where custom collectors and exemplars do not work.
"""

import logging
import threading
from collections import Counter as Tally

from prometheus_client import Counter, Gauge, Histogram

log = logging.getLogger(__name__)

SLOW = 1.0  # seconds
SUMMARY_EVERY = 1_000  # queries
REPETITIONS = 10  # of one statement in one unit of work

# A fifth from bound to bound, 100 µs to a minute: the middle of a bucket is at most 9.6 % away from
# any duration in it.
GROWTH = 1.2
FIRST = 0.0001  # seconds
BOUNDS = tuple(float(f"{FIRST * GROWTH**n:.4g}") for n in range(74))

QUERY_SECONDS = Histogram(
    "frontdesk_db_query_duration_seconds",
    "Time until the server had answered a statement, by its kind.",
    ["kind"],
    buckets=BOUNDS,
)
QUERY_ERRORS = Counter("frontdesk_db_query_errors", "Statements that ended in an error.", ["kind"])
SLOW_QUERIES = Counter("frontdesk_db_slow_queries", "Statements that took longer than a second.", ["kind"])
REPEATED = Counter(
    "frontdesk_db_repeated_statements", "Units of work that ran one statement ten times (N+1)."
)
POOL_MAX = Gauge(
    "frontdesk_db_pool_max_connections", "Connections that may be open.", multiprocess_mode="livesum"
)
POOL_IN_USE = Gauge(
    "frontdesk_db_pool_in_use_connections",
    "Connections that somebody works with.",
    multiprocess_mode="livesum",
)
POOL_WAITING = Gauge(
    "frontdesk_db_pool_waiting_requests",
    "Callers that wait because all connections are taken.",
    multiprocess_mode="livesum",
)
POOL_WAIT = Histogram(
    "frontdesk_db_pool_wait_seconds",
    "Time that callers waited who found all connections taken.",
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10),
)
POOL_TIMEOUTS = Counter("frontdesk_db_pool_timeouts", "Callers that got no connection in time.")
POOL_FULL = Counter("frontdesk_db_pool_high_episodes", "Times that the pool went above 80 %.")
FAILURES = Counter(
    "frontdesk_failures", "Failures that were reported, by where and what.", ["component", "code"]
)


class _Queries:
    """Counts queries; after each SUMMARY_EVERY of this process, tells the log about them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._children: dict[str, Histogram] = {}
        self._total = 0
        self._kinds: Tally[str] = Tally()
        self._seconds: list[float] = []

    def count(self, kind: str, seconds: float) -> None:
        """Count one statement."""
        child = self._children.get(kind)
        if child is None:
            child = self._children[kind] = QUERY_SECONDS.labels(kind)
        child.observe(seconds)
        with self._lock:
            self._kinds[kind] += 1
            self._seconds.append(seconds)
            if len(self._seconds) < SUMMARY_EVERY:
                return
            self._total += len(self._seconds)
            total, kinds, times = self._total, self._kinds, sorted(self._seconds)
            self._kinds, self._seconds = Tally(), []
        log.info(
            "Queries: %d in this process; of the last %d %s; p50 %.1f ms, p95 %.1f ms, p99 %.1f ms,"
            " slowest %.1f ms, %d over %g s",
            total,
            len(times),
            ", ".join(f"{kind} {number}" for kind, number in kinds.most_common()),
            *(1000 * times[int(share * (len(times) - 1))] for share in (0.5, 0.95, 0.99, 1)),
            sum(time > SLOW for time in times),
            SLOW,
        )


count_query = _Queries().count
