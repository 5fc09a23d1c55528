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

SLOW = 1.0  # seconds
SUMMARY_EVERY = 1_000  # queries
REPETITIONS = 10  # of one statement in one unit of work

# A fifth from bound to bound, 10 µs to an hour: the middle of a bucket is at most 9.6 % away from
# any duration in it.
GROWTH = 1.2
FIRST = 0.00001  # seconds
BOUNDS = tuple(float(f"{FIRST * GROWTH**n:.4g}") for n in range(110))


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
    "Callers that wait for a connection.",
    multiprocess_mode="livesum",
)
POOL_WAIT = Histogram(
    "frontdesk_db_pool_wait_seconds",
    "Time that callers waited who found no idle connection.",
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10),
)
POOL_TIMEOUTS = Counter("frontdesk_db_pool_timeouts", "Callers that got no connection in time.")
POOL_FULL = Counter("frontdesk_db_pool_high_episodes", "Times that the pool went above 80 %.")
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
TRANSFER_KEYS = Gauge(
    "frontdesk_transfer_waiting_keys",
    "Keys that the standby of a move does not have yet.",
    multiprocess_mode="livemostrecent",
)
TRANSFER_LAG = Gauge(
    "frontdesk_transfer_lag_seconds",
    "Age of the oldest of them.",
    multiprocess_mode="livemostrecent",
)
TRANSFER_REPLAY = Gauge(
    "frontdesk_transfer_replay_seconds",
    "Time that the relay's last round took.",
    multiprocess_mode="livemostrecent",
)
TRANSFER_VERIFIED = Gauge(
    "frontdesk_transfer_verified_timestamp_seconds",
    "When both sides were compared last.",
    multiprocess_mode="livemostrecent",
)
TRANSFER_EQUAL = Gauge(
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


BACKUP_TIME = Gauge(
    "frontdesk_backup_timestamp_seconds",
    "When the newest good backup was taken, in seconds since 1970; 0: there is none.",
    multiprocess_mode="livemostrecent",
)
DRILL_TIME = Gauge(
    "frontdesk_backup_drill_timestamp_seconds",
    "When a backup was last restored for a try and found good, in seconds since 1970; 0: never.",
    multiprocess_mode="livemostrecent",
)


class Pool(Protocol):
    """What the gauges tell of a pool."""

    in_use: int
    waiting: int

    @property
    def max_size(self) -> int:
        """Connections at most."""
        ...


open_pools: WeakSet[Pool] = WeakSet()

_POOL_GAUGES: dict[Gauge, Callable[[Pool], int]] = {
    POOL_MAX: lambda pool: pool.max_size,
    POOL_IN_USE: lambda pool: pool.in_use,
    POOL_WAITING: lambda pool: pool.waiting,
}


def publish_pools() -> None:
    """Bring the pools' gauges up to date; every query would pay for it otherwise.

    Whoever reads the metrics calls it. Workers that share theirs also call it every few seconds, for the
    one of them that is read.
    """
    for gauge, figure in _POOL_GAUGES.items():
        gauge.set(sum(figure(pool) for pool in list(open_pools)))


def _serve(gauge: Gauge, figure: Callable[[Pool], int]) -> None:
    """For a program that serves prometheus_client's own registry: it asks when it is read."""
    gauge.set_function(lambda: sum(figure(pool) for pool in list(open_pools)))


for each in _POOL_GAUGES.items():
    _serve(*each)


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
        if len(self._recent) >= SUMMARY_EVERY:
            self._tell()

    def _tell(self) -> None:
        with self._lock:
            recent = self._recent
            if len(recent) < SUMMARY_EVERY:  # another thread was first
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
            sum(time > SLOW for time in times),
            SLOW,
        )


count_query = _Queries().count
