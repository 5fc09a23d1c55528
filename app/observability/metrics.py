"""Prometheus metrics of the database, and what the log tells of them every so many queries.

Programs that serve `prometheus_client`'s registry serve these, too. With several gunicorn workers the
values lie in files that the workers share, where custom collectors and exemplars do not work.
"""

import logging
import threading
from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Callable
from typing import Protocol
from weakref import WeakSet

from prometheus_client import Counter, Gauge, Histogram

import app.observability.metric_slots  # noqa: F401 - decides where metrics are kept, before there is one

log = logging.getLogger(__name__)

SLOW_QUERY_SECONDS = 1.0  # seconds
QUERIES_PER_SUMMARY = 1_000  # queries
N_PLUS_ONE_THRESHOLD = 10  # of one statement in one unit of work

# A fifth from bound to bound, 10 µs to an hour: the middle of a bucket is at most 9.6 % away from
# any duration in it.
BUCKET_GROWTH = 1.2
FIRST_BOUND_SECONDS = 0.00001  # seconds
BUCKET_BOUNDS = tuple(float(f"{FIRST_BOUND_SECONDS * BUCKET_GROWTH**n:.4g}") for n in range(110))


class FineHistogram(Histogram):
    """A histogram of many buckets that finds the right one without trying each."""

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        """Count one observation."""
        self._sum.inc(amount)
        self._buckets[bisect_left(self._upper_bounds, amount)].inc(1)


QUERY_SECONDS = FineHistogram(
    "frontdesk_db_query_duration_seconds",
    "Time until the server had answered a statement, by its kind.",
    ["kind"],
    buckets=BUCKET_BOUNDS,
)
QUERY_ERRORS = Counter("frontdesk_db_query_errors", "Statements that ended in an error.", ["kind"])
SLOW_QUERIES = Counter("frontdesk_db_slow_queries", "Statements that took longer than a second.", ["kind"])
REPEATED_STATEMENTS = Counter(
    "frontdesk_db_repeated_statements", "Units of work that ran one statement ten times (N+1)."
)
POOL_MAX_CONNECTIONS = Gauge(
    "frontdesk_db_pool_max_connections", "Connections that may be open.", multiprocess_mode="livesum"
)
POOL_IN_USE = Gauge(
    "frontdesk_db_pool_in_use_connections",
    "Connections that somebody works with.",
    multiprocess_mode="livesum",
)
POOL_WAITING_REQUESTS = Gauge(
    "frontdesk_db_pool_waiting_requests",
    "Callers that wait for a connection.",
    multiprocess_mode="livesum",
)
POOL_WAIT_SECONDS = Histogram(
    "frontdesk_db_pool_wait_seconds",
    "Time that callers waited who found no idle connection.",
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10),
)
POOL_TIMEOUTS = Counter("frontdesk_db_pool_timeouts", "Callers that got no connection in time.")
POOL_HIGH_EPISODES = Counter("frontdesk_db_pool_high_episodes", "Times that the pool went above 80 %.")
FAILURES = Counter(
    "frontdesk_failures", "Failures that were reported, by where and what.", ["component", "code"]
)


# Prometheus sees a counter grow only from a value that it has seen: an alert would miss the first failure.
for component in ("data_layer", "whatsapp", "yclients", "web"):
    for code in ("internal", "unavailable", "timeout"):
        FAILURES.labels(component, code)
for kind in ("SELECT", "INSERT", "UPDATE", "DELETE", "COPY", "OTHER"):
    QUERY_ERRORS.labels(kind)
    SLOW_QUERIES.labels(kind)
TRANSFER_WAITING_KEYS = Gauge(
    "frontdesk_transfer_waiting_keys",
    "Keys that the standby of a move does not have yet.",
    multiprocess_mode="livemostrecent",
)
TRANSFER_LAG_SECONDS = Gauge(
    "frontdesk_transfer_lag_seconds",
    "Age of the oldest of them.",
    multiprocess_mode="livemostrecent",
)
TRANSFER_REPLAY_SECONDS = Gauge(
    "frontdesk_transfer_replay_seconds",
    "Time that the relay's last round took.",
    multiprocess_mode="livemostrecent",
)
TRANSFER_VERIFIED_TIMESTAMP = Gauge(
    "frontdesk_transfer_verified_timestamp_seconds",
    "When both sides were compared last.",
    multiprocess_mode="livemostrecent",
)
TRANSFER_VERIFIED_EQUAL = Gauge(
    "frontdesk_transfer_verified_equal",
    "Whether they were equal (1) or not (0).",
    multiprocess_mode="livemostrecent",
)
READS_COMPARED = Counter("frontdesk_transfer_reads_compared", "Reads that were compared with the standby.")
READS_DIFFERED = Counter("frontdesk_transfer_reads_differed", "Those that differed, checked again.")
READS_NOT_COMPARED = Counter(
    "frontdesk_transfer_reads_not_compared",
    "Reads that were to be compared and were not: too many at once, or a side that did not answer.",
)


BACKUP_TIMESTAMP = Gauge(
    "frontdesk_backup_timestamp_seconds",
    "When the newest good backup was taken, in seconds since 1970; 0: there is none.",
    multiprocess_mode="livemostrecent",
)
BACKUP_DRILL_TIMESTAMP = Gauge(
    "frontdesk_backup_drill_timestamp_seconds",
    "When a backup was last restored for a try and found good, in seconds since 1970; 0: never.",
    multiprocess_mode="livemostrecent",
)


class PoolUsage(Protocol):
    """What the gauges tell of a pool."""

    in_use: int
    waiting: int

    @property
    def max_size(self) -> int:
        """Connections at most."""
        ...


open_pools: WeakSet[PoolUsage] = WeakSet()

_POOL_GAUGES: dict[Gauge, Callable[[PoolUsage], int]] = {
    POOL_MAX_CONNECTIONS: lambda pool: pool.max_size,
    POOL_IN_USE: lambda pool: pool.in_use,
    POOL_WAITING_REQUESTS: lambda pool: pool.waiting,
}


def update_pool_gauges() -> None:
    """Bring the pools' gauges up to date; every query would pay for it otherwise.

    Whoever reads the metrics calls it. Workers that share theirs also call it every few seconds, for the
    one of them that is read.
    """
    for gauge, figure in _POOL_GAUGES.items():
        gauge.set(sum(figure(pool) for pool in list(open_pools)))


def _set_gauge_function(gauge: Gauge, figure: Callable[[PoolUsage], int]) -> None:
    """For a program that serves prometheus_client's own registry: it asks when it is read."""
    gauge.set_function(lambda: sum(figure(pool) for pool in list(open_pools)))


for each in _POOL_GAUGES.items():
    _set_gauge_function(*each)


class _Queries:
    """Counts queries; after each SUMMARY_EVERY of this process, tells the log about them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._children: dict[str, Histogram] = {}
        self._total = 0
        self._recent: list[tuple[str, float]] = []

    def count(self, kind: str, seconds: float) -> None:
        """Count one statement; without a lock, for every query comes here."""
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
            if len(recent) < QUERIES_PER_SUMMARY:  # another thread was first
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
