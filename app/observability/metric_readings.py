"""The metrics read back: of this process, or of all workers where they share a directory."""

import math
import os
from collections import defaultdict
from dataclasses import dataclass

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from app.observability.metrics import BOUNDS, GROWTH, QUERY_SECONDS, publish_pools

SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True)
class KindFigures:
    """Statements of one kind: how many, and seconds in all."""

    count: int
    seconds: float


@dataclass(frozen=True)
class QueryFigures:
    """Statements by kind, and percentiles of their durations in seconds (None before the first)."""

    kinds: dict[str, KindFigures]
    percentiles: dict[str, float | None]

    @property
    def total(self) -> int:
        """All statements."""
        return sum(kind.count for kind in self.kinds.values())


def registry() -> CollectorRegistry:
    """What `/metrics` shows, whichever worker answers."""
    publish_pools()
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return REGISTRY
    shared = CollectorRegistry()
    MultiProcessCollector(shared)  # type: ignore[no-untyped-call] # has no annotations
    return shared


def query_figures() -> QueryFigures:
    """What happened to statements since the service started."""
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
    kinds = {kind: KindFigures(counts[kind], seconds.get(kind, 0.0)) for kind in sorted(counts)}
    return QueryFigures(
        {kind: each for kind, each in kinds.items() if each.count},
        {label: percentile(cumulative, share) for label, share in SHARES.items()},
    )


def percentile(cumulative: dict[float, float], share: float) -> float | None:
    """Seconds that `share` of the durations stay below, to within a tenth: the middle of a bucket.

    `cumulative` holds how many durations are at most each bound.
    """
    total = cumulative.get(math.inf, 0)
    if not total:
        return None
    rank = max(1.0, math.ceil(share * total))
    bound = next(bound for bound in sorted(cumulative) if cumulative[bound] >= rank)
    return BOUNDS[-1] if bound == math.inf else bound / math.sqrt(GROWTH)
