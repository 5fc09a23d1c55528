"""Measuring a pair fairly: alternately, several times, and the medians compared.

Machines are noisy and differ: only the ratio of two figures from the same run says anything.
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
LINES = 20  # of a profile


@dataclass(frozen=True)
class Target:
    """What the ratio (ours to theirs) has to reach; `of_ours` where our own figure has to."""

    at_least: float | None = None
    at_most: float | None = None
    of_ours: bool = False

    def met(self, ours: float, ratio: float | None) -> bool | None:
        """Whether the target is met; None where nothing was measured to tell."""
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
    """What stands beside our figure. A peer that is not installed has a `missing` that says so."""

    name: str
    measure: Measure | None
    target: Target | None = None
    missing: str = ""


@dataclass(frozen=True)
class Benchmark:
    """One piece of work. Each `measure` does it once and returns the figure in `unit`."""

    id: str
    work: str
    unit: str
    measure: Measure
    peers: Sequence[Peer]
    repeats: int = 9


@dataclass(frozen=True)
class Row:
    """One line of the table."""

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
    """Measure all sides in turn, `repeats` times after one round to warm up; one row for each peer."""
    repeats = repeats or benchmark.repeats
    sides = [benchmark.measure, *(peer.measure for peer in benchmark.peers if peer.measure is not None)]
    figures: dict[Measure, list[float]] = {side: [] for side in sides}
    for round_number in range(repeats + 1):
        for side in sides if round_number % 2 else reversed(sides):
            gc.collect()
            figure = side()
            if round_number:
                figures[side].append(figure)
    ours = median(figures[benchmark.measure])
    rows = []
    for peer in benchmark.peers:
        theirs = median(figures[peer.measure]) if peer.measure is not None else None
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
    """Seconds spent in a `with` block; with a `profiler` set, also where they went."""

    profiler: ClassVar[cProfile.Profile | None] = None
    seconds = 0.0


@contextmanager
def stopwatch() -> Iterator[Stopwatch]:
    """Time a block; the figure is there when it has ended."""
    watch = Stopwatch()
    with watch.profiler or nullcontext():
        start = time.perf_counter()
        yield watch
        watch.seconds = time.perf_counter() - start


def profile(benchmark: Benchmark) -> str:
    """The functions of our side that take the time; the profiler itself slows small calls most."""
    benchmark.measure()  # the first time compiles and connects
    Stopwatch.profiler = cProfile.Profile()
    try:
        benchmark.measure()
        out = StringIO()
        pstats.Stats(Stopwatch.profiler, stream=out).strip_dirs().sort_stats("tottime").print_stats(LINES)
    finally:
        Stopwatch.profiler = None
    return out.getvalue()
