"""Current values of the metrics of this process, or of all workers that share a metrics directory."""

import math
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import REGISTRY, CollectorRegistry, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from app.observability.metrics import BUCKET_BOUNDS, BUCKET_GROWTH, QUERY_SECONDS, update_pool_gauges

QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True)
class QueryKindReading:
    """Number and total duration of the statements of one kind."""

    count: int
    total_seconds: float


@dataclass(frozen=True)
class QueryReadings:
    """Statements by kind, and percentiles of their durations in seconds (None before the first)."""

    kinds: dict[str, QueryKindReading]
    percentiles: dict[str, float | None]

    @property
    def total(self) -> int:
        """Number of statements of all kinds."""
        return sum(kind.count for kind in self.kinds.values())


def registry() -> CollectorRegistry:
    """Return the registry with the metrics of all workers, as `/metrics` shows them."""
    update_pool_gauges()
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return REGISTRY
    shared = CollectorRegistry()
    shared.register(_SharedFiles(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])))
    return shared


class _SharedFiles(Collector):
    """The metric files of all workers, except empty ones.

    A starting worker creates an empty file and then sets its size. If the worker is killed between the two
    steps, the file stays empty. MultiProcessCollector fails on empty files.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def collect(self) -> Iterable[Metric]:
        files = [str(file) for file in self._directory.glob("*.db") if _is_written(file)]
        merged: Iterable[Metric] = MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call] # has no annotations
        return merged


def _is_written(file: Path) -> bool:
    try:
        return file.stat().st_size > 0
    except FileNotFoundError:  # when a worker has exited, the files of its live gauges are deleted
        return False


def read_query_metrics() -> QueryReadings:
    """Return counts and durations of the statements since the service started."""
    counts: dict[str, int] = {}
    seconds: dict[str, float] = {}
    cumulative: defaultdict[float, float] = defaultdict(float)
    name = QUERY_SECONDS._name
    for metric in registry().collect():
        if metric.name != name:
            continue
        for sample in metric.samples:
            if sample.name == f"{name}_count":
                counts[sample.labels["kind"]] = int(sample.value)
            elif sample.name == f"{name}_sum":
                seconds[sample.labels["kind"]] = sample.value
            elif sample.name == f"{name}_bucket":
                cumulative[float(sample.labels["le"])] += sample.value
    kinds = {kind: QueryKindReading(counts[kind], seconds.get(kind, 0.0)) for kind in sorted(counts)}
    return QueryReadings(
        {kind: reading for kind, reading in kinds.items() if reading.count},
        {label: percentile(cumulative, share) for label, share in QUANTILES.items()},
    )


def percentile(cumulative: dict[float, float], quantile: float) -> float | None:
    """Return a percentile in seconds, accurate to 10 % (the middle of a bucket), or None without durations.

    `cumulative` maps each bucket bound in seconds to the number of durations up to it.
    """
    total = cumulative.get(math.inf, 0)
    if not total:
        return None
    rank = max(1.0, math.ceil(quantile * total))
    bound = next(bound for bound in sorted(cumulative) if cumulative[bound] >= rank)
    return BUCKET_BOUNDS[-1] if bound == math.inf else bound / math.sqrt(BUCKET_GROWTH)
