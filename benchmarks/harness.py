"""Measurement of a benchmark and its peers: alternately, several times, with the medians compared.

Machines are noisy and differ: only the ratio of two results of the same run is meaningful.
"""

import cProfile
import gc
import pstats
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from io import StringIO
from statistics import median
from typing import ClassVar

Measure = Callable[[], float]
PROFILE_LINES = 20


@dataclass(frozen=True)
class Target:
    """A bound for the ratio of Frontdesk's result to the peer's; with `of_ours`, for Frontdesk's result."""

    at_least: float | None = None
    at_most: float | None = None
    of_ours: bool = False

    def met(self, ours: float, ratio: float | None) -> bool | None:
        """Return True if the target is met, or None if the ratio was not measured."""
        value = ours if self.of_ours else ratio
        if value is None:
            return None
        return (self.at_least is None or value >= self.at_least) and (
            self.at_most is None or value <= self.at_most
        )

    def __str__(self) -> str:
        bound = f"≥ {self.at_least:g}" if self.at_least is not None else f"≤ {self.at_most:g}"
        return bound if self.of_ours else f"{bound} times"


@dataclass(frozen=True)
class Peer:
    """A program that Frontdesk is compared with. `missing` is the reason if there is no `measure`."""

    name: str
    measure: Measure | None
    target: Target | None = None
    missing: str = ""


@dataclass(frozen=True)
class Benchmark:
    """A piece of work to measure. Each `measure` does it once and returns a result in `unit`."""

    id: str
    work: str
    unit: str
    measure: Measure
    peers: Sequence[Peer]
    repeats: int = 9


@dataclass(frozen=True)
class Row:
    """One row of the result table: Frontdesk compared with one peer."""

    id: str
    work: str
    ours: float
    beside: str
    theirs: float | None
    unit: str
    ratio: float | None
    target: str
    met: bool | None
    note: str = ""


def run(benchmark: Benchmark, repeats: int | None = None) -> list[Row]:
    """Measure Frontdesk and the peers alternately, and return one row per peer.

    `repeats` rounds are measured after one warm-up round. By default it is the benchmark's own number.
    """
    repeats = repeats or benchmark.repeats
    sides = [benchmark.measure, *(peer.measure for peer in benchmark.peers if peer.measure is not None)]
    results: dict[Measure, list[float]] = {side: [] for side in sides}
    for round_number in range(repeats + 1):
        for side in sides if round_number % 2 else reversed(sides):
            gc.collect()
            result = side()
            if round_number:
                results[side].append(result)
    ours = median(results[benchmark.measure])
    rows = []
    for peer in benchmark.peers:
        theirs = median(results[peer.measure]) if peer.measure is not None else None
        ratio = ours / theirs if theirs else None
        target, met = ("", None) if peer.target is None else (str(peer.target), peer.target.met(ours, ratio))
        rows.append(
            Row(
                benchmark.id,
                benchmark.work,
                ours,
                peer.name,
                theirs,
                benchmark.unit,
                ratio,
                target,
                met,
                peer.missing,
            )
        )
    return rows


class Stopwatch:
    """Duration of a `with` block in seconds; if `profiler` is set, the block is also profiled."""

    profiler: ClassVar[cProfile.Profile | None] = None
    seconds = 0.0


@contextmanager
def stopwatch() -> Iterator[Stopwatch]:
    """Measure a `with` block. `seconds` of the yielded object is set when the block ends."""
    watch = Stopwatch()
    with watch.profiler or nullcontext():
        start = time.perf_counter()
        yield watch
        watch.seconds = time.perf_counter() - start


def profile(benchmark: Benchmark) -> str:
    """Return the profile of Frontdesk's measure, sorted by time. Profiling slows small calls most."""
    benchmark.measure()  # the first run compiles statements and opens connections
    Stopwatch.profiler = cProfile.Profile()
    try:
        benchmark.measure()
        out = StringIO()
        pstats.Stats(Stopwatch.profiler, stream=out).strip_dirs().sort_stats("tottime").print_stats(
            PROFILE_LINES
        )
    finally:
        Stopwatch.profiler = None
    return out.getvalue()
