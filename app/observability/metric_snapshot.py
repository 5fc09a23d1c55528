"""All that the status page draws from the metrics, read at one moment."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from app.observability import metrics
from app.observability.metric_readings import percentile, registry

FailureKey = tuple[str, str]  # component and code of a failure


@dataclass(frozen=True)
class MetricSnapshot:
    """Queries since the service started, its failures, callers that waited for a connection, and its
    pool now; of all workers.

    `buckets` holds how many queries took at most so many seconds.
    """

    buckets: Mapping[float, float]
    queries: float
    failures: Mapping[FailureKey, float]
    pool_waits: int
    pool_max: int
    pool_in_use: int
    pool_waiting: int

    def since(self, earlier: "MetricSnapshot") -> "MetricSnapshot":
        """What happened in between, with the pool as it is in this one."""
        return MetricSnapshot(
            {bound: count - earlier.buckets.get(bound, 0) for bound, count in self.buckets.items()},
            self.queries - earlier.queries,
            {
                where: count - earlier.failures.get(where, 0)
                for where, count in self.failures.items()
                if count > earlier.failures.get(where, 0)
            },
            self.pool_waits - earlier.pool_waits,
            self.pool_max,
            self.pool_in_use,
            self.pool_waiting,
        )

    def percentile(self, quantile: float) -> float | None:
        """Seconds; None where nothing was asked."""
        return percentile(dict(self.buckets), quantile)


def take_snapshot() -> MetricSnapshot:
    """Read the metrics."""
    buckets: defaultdict[float, float] = defaultdict(float)
    failures: dict[FailureKey, float] = {}
    plain: defaultdict[str, float] = defaultdict(float)
    for metric in registry().collect():
        for sample in metric.samples:
            if sample.name == f"{metrics.QUERY_SECONDS._name}_bucket":
                buckets[float(sample.labels["le"])] += sample.value
            elif sample.name == f"{metrics.FAILURES._name}_total":
                failures[sample.labels["component"], sample.labels["code"]] = sample.value
            elif not sample.labels:
                plain[sample.name] = sample.value
    return MetricSnapshot(
        buckets,
        max(buckets.values(), default=0),
        failures,
        int(plain[f"{metrics.POOL_WAIT_SECONDS._name}_count"]),
        *(
            int(plain[g._name])
            for g in (metrics.POOL_MAX_CONNECTIONS, metrics.POOL_IN_USE, metrics.POOL_WAITING_REQUESTS)
        ),
    )
