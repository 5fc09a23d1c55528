"""Prometheus metrics, and a summary of the queries in the log after every 1,000 of them.

Programs that serve the default registry of prometheus_client serve these metrics too. Several gunicorn
workers share their values in files, which support neither custom collectors nor exemplars.
"""

import logging
import threading
from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Callable
from typing import Protocol
from weakref import WeakSet

from prometheus_client import Counter, Gauge, Histogram

import app.observability.metric_slots  # noqa: F401 - selects the storage of metrics before the first exists

log = logging.getLogger(__name__)

SLOW_QUERY_SECONDS = 1.0
QUERIES_PER_SUMMARY = 1_000
N_PLUS_ONE_THRESHOLD = 10  # executions of one statement in one unit of work

# Each bound is 20 % above the previous one, from 10 µs to an hour. So the middle of a bucket differs by at
# most 9.6 % from any duration in it.
BUCKET_GROWTH = 1.2
FIRST_BOUND_SECONDS = 0.00001
BUCKET_BOUNDS = tuple(float(f"{FIRST_BOUND_SECONDS * BUCKET_GROWTH**n:.4g}") for n in range(110))


class FineHistogram(Histogram):
    """A histogram of many buckets that finds the bucket by binary search."""

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        """Add one observation. `exemplar` is ignored."""
        self._sum.inc(amount)
        self._buckets[bisect_left(self._upper_bounds, amount)].inc(1)


QUERY_SECONDS = FineHistogram(
    "frontdesk_db_query_duration_seconds",
    "Duration of statements until the server responded, by kind (SELECT, INSERT, ...).",
    ["kind"],
    buckets=BUCKET_BOUNDS,
)
QUERY_ERRORS = Counter("frontdesk_db_query_errors", "Statements that failed.", ["kind"])
SLOW_QUERIES = Counter("frontdesk_db_slow_queries", "Statements that took longer than a second.", ["kind"])
REPEATED_STATEMENTS = Counter(
    "frontdesk_db_repeated_statements",
    "Units of work that executed the same statement ten times or more (N+1).",
)
POOL_MAX_CONNECTIONS = Gauge(
    "frontdesk_db_pool_max_connections", "Maximum number of pool connections.", multiprocess_mode="livesum"
)
POOL_IN_USE = Gauge(
    "frontdesk_db_pool_in_use_connections", "Pool connections in use.", multiprocess_mode="livesum"
)
POOL_WAITING_REQUESTS = Gauge(
    "frontdesk_db_pool_waiting_requests",
    "Requests waiting for a pool connection.",
    multiprocess_mode="livesum",
)
POOL_WAIT_SECONDS = Histogram(
    "frontdesk_db_pool_wait_seconds",
    "Waiting time of requests that found no idle pool connection.",
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10),
)
POOL_TIMEOUTS = Counter(
    "frontdesk_db_pool_timeouts", "Requests that timed out waiting for a pool connection."
)
POOL_HIGH_EPISODES = Counter(
    "frontdesk_db_pool_high_episodes", "Number of times that pool usage rose above 80 %."
)
FAILURES = Counter(
    "frontdesk_failures", "Reported failures, by component and error code.", ["component", "code"]
)


# Prometheus computes an increase from two scraped values. Without an initial zero, alerts would miss the
# first failure.
for component in ("data_layer", "whatsapp", "yclients", "web"):
    for code in ("internal", "unavailable", "timeout"):
        FAILURES.labels(component, code)
for kind in ("SELECT", "INSERT", "UPDATE", "DELETE", "COPY", "OTHER"):
    QUERY_ERRORS.labels(kind)
    SLOW_QUERIES.labels(kind)
TRANSFER_WAITING_KEYS = Gauge(
    "frontdesk_transfer_waiting_keys",
    "Changed keys that the standby of a transfer has not applied yet.",
    multiprocess_mode="livemostrecent",
)
TRANSFER_LAG_SECONDS = Gauge(
    "frontdesk_transfer_lag_seconds",
    "Age of the oldest changed key that the standby has not applied yet.",
    multiprocess_mode="livemostrecent",
)
TRANSFER_REPLAY_SECONDS = Gauge(
    "frontdesk_transfer_replay_seconds",
    "Duration of the relay's last apply cycle.",
    multiprocess_mode="livemostrecent",
)
TRANSFER_VERIFIED_TIMESTAMP = Gauge(
    "frontdesk_transfer_verified_timestamp_seconds",
    "Time of the last verification of both sides, in seconds since 1970.",
    multiprocess_mode="livemostrecent",
)
TRANSFER_VERIFIED_EQUAL = Gauge(
    "frontdesk_transfer_verified_equal",
    "Result of the last verification: 1 equal, 0 different.",
    multiprocess_mode="livemostrecent",
)
READS_COMPARED = Counter(
    "frontdesk_transfer_reads_compared", "Reads whose results were compared with the standby's."
)
READS_DIFFERED = Counter(
    "frontdesk_transfer_reads_differed", "Compared reads whose results still differed when repeated."
)
READS_NOT_COMPARED = Counter(
    "frontdesk_transfer_reads_not_compared",
    "Reads selected for comparison but not compared: too many at once, or one database did not respond.",
)


BACKUP_TIMESTAMP = Gauge(
    "frontdesk_backup_timestamp_seconds",
    "Time of the newest good backup, in seconds since 1970; 0 without a backup.",
    multiprocess_mode="livemostrecent",
)
BACKUP_DRILL_TIMESTAMP = Gauge(
    "frontdesk_backup_drill_timestamp_seconds",
    "Time of the last successful restore drill, in seconds since 1970; 0 without a drill.",
    multiprocess_mode="livemostrecent",
)


class PoolUsage(Protocol):
    """The values of a pool that the gauges report."""

    in_use: int
    waiting: int

    @property
    def max_size(self) -> int:
        """Maximum number of connections."""
        ...


open_pools: WeakSet[PoolUsage] = WeakSet()

_POOL_GAUGES: dict[Gauge, Callable[[PoolUsage], int]] = {
    POOL_MAX_CONNECTIONS: lambda pool: pool.max_size,
    POOL_IN_USE: lambda pool: pool.in_use,
    POOL_WAITING_REQUESTS: lambda pool: pool.waiting,
}


def update_pool_gauges() -> None:
    """Set the gauges of the pools. Setting them here instead of in each query keeps queries fast.

    Called before the metrics are read. Workers that share metrics also call it every few seconds, because
    another worker may serve `/metrics`.
    """
    for gauge, value in _POOL_GAUGES.items():
        gauge.set(sum(value(pool) for pool in list(open_pools)))


def _set_gauge_function(gauge: Gauge, value: Callable[[PoolUsage], int]) -> None:
    """Let the gauge compute its value when a program serves the default registry of prometheus_client."""
    gauge.set_function(lambda: sum(value(pool) for pool in list(open_pools)))


for gauge, value in _POOL_GAUGES.items():
    _set_gauge_function(gauge, value)


class _Queries:
    """Counts queries, and logs a summary after every QUERIES_PER_SUMMARY queries of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._children: dict[str, Histogram] = {}
        self._total = 0
        self._recent: list[tuple[str, float]] = []

    def count(self, kind: str, seconds: float) -> None:
        """Count one statement. It takes no lock, because every query calls it."""
        child = self._children.get(kind)
        if child is None:
            child = self._children[kind] = QUERY_SECONDS.labels(kind)
        child.observe(seconds)
        self._recent.append((kind, seconds))
        if len(self._recent) >= QUERIES_PER_SUMMARY:
            self._log_summary()

    def _log_summary(self) -> None:
        with self._lock:
            recent = self._recent
            if len(recent) < QUERIES_PER_SUMMARY:  # another thread has just logged the summary
                return
            self._recent = []
            self._total += len(recent)
            total = self._total
        kinds = Tally(kind for kind, _ in recent)
        times = sorted(seconds for _, seconds in recent)
        log.info(
            "Queries: %d in this process; of the last %d %s; p50 %.1f ms, p95 %.1f ms, p99 %.1f ms,"
            " slowest %.1f ms, %d over %g s",
            total,
            len(times),
            ", ".join(f"{kind} {number}" for kind, number in kinds.most_common()),
            *(1000 * times[int(share * (len(times) - 1))] for share in (0.5, 0.95, 0.99, 1)),
            sum(time > SLOW_QUERY_SECONDS for time in times),
            SLOW_QUERY_SECONDS,
        )


count_query = _Queries().count
