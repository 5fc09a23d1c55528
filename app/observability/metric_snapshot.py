"""Snapshot of the metrics that the status page shows."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from app.observability import metrics
from app.observability.metric_readings import percentile, registry

FailureKey = tuple[str, str]  # component and code of a failure


@dataclass(frozen=True)
class MetricSnapshot:
    """Metrics of all workers: queries, failures and pool waits since the service started, and the pool now.

    `buckets` maps each bound in seconds to the number of queries that took at most as long.
    """

    buckets: Mapping[float, float]
    queries: float
    failures: Mapping[FailureKey, float]
    pool_waits: int
    pool_max: int
    pool_in_use: int
    pool_waiting: int

    def since(self, earlier: "MetricSnapshot") -> "MetricSnapshot":
        """Return the difference to an earlier snapshot; pool gauges keep their current values."""
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
        """Return a percentile of the query durations in seconds, or None if there were no queries."""
        return percentile(dict(self.buckets), quantile)


def take_snapshot() -> MetricSnapshot:
    """Read the current metrics of all workers."""
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
