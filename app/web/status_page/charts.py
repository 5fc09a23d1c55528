"""Figures over time as SVG: what the template draws, without a library and without JavaScript."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

WIDTH, HEIGHT = 360, 120  # of the drawing, in its own units; the page scales it
LEFT, RIGHT, TOP, BOTTOM = 44, 356, 8, 100  # of the area inside the axes

Point = tuple[float, float | None]  # seconds ago, and the value; None is a gap


@dataclass(frozen=True)
class Curve:
    """One curve: its name is its class in the style sheet and its word in the legend."""

    name: str
    path: str


@dataclass(frozen=True)
class Mark:
    """A line across and the words beside it."""

    at: float
    text: str


@dataclass(frozen=True)
class Strip:
    """A stretch of time in one state."""

    name: str
    left: float
    width: float


@dataclass(frozen=True)
class Chart:
    """A drawing; `summary` says in words what it shows, for those who cannot see it."""

    summary: str
    lines: Sequence[Curve] = ()
    y_marks: Sequence[Mark] = ()
    x_marks: Sequence[Mark] = ()
    strips: Sequence[Strip] = field(default=())


def chart_of_times(window: float, curves: dict[str, Sequence[Point]], summary: str) -> Chart:
    """Durations in milliseconds on a logarithmic scale: 1 ms and 1 s are both to be seen."""
    values = [value for points in curves.values() for _, value in points if value]
    low = math.floor(math.log10(min(values, default=1)))
    high = max(low + 2, math.ceil(math.log10(max(values, default=1))))

    def height(value: float) -> float:
        return _between(BOTTOM, TOP, (math.log10(max(value, 10.0**low)) - low) / (high - low))

    marks = [Mark(height(10.0**power), milliseconds(10.0**power)) for power in range(low, high + 1)]
    return Chart(summary, _lines(window, curves, height), marks, _minutes(window))


def chart_of_counts(window: float, curves: dict[str, Sequence[Point]], top: float, summary: str) -> Chart:
    """Counts from nothing to `top`, or to what there is more."""
    top = _round(max([top, 1, *(value for points in curves.values() for _, value in points if value)]))

    def height(value: float) -> float:
        return _between(BOTTOM, TOP, value / top)

    marks = [Mark(height(value), f"{value:g}") for value in (0, top)]
    return Chart(summary, _lines(window, curves, height), marks, _minutes(window))


def strip_of_states(window: float, every: float, states: Iterable[tuple[float, str]], summary: str) -> Chart:
    """States over time (seconds ago and name, the oldest first), each until the next one."""
    strips = []
    for name, group in groupby(states, key=lambda each: each[1]):
        ago = [moment for moment, _ in group]
        left, right = _x_position(window, ago[0] + every), _x_position(window, ago[-1])
        strips.append(Strip(name, round(left, 1), round(max(right - left, 1), 1)))
    return Chart(summary, strips=strips, x_marks=_minutes(window))


def milliseconds(value: float | None) -> str:
    """For people: a dash for None, else two or three digits."""
    if value is None:
        return "–"
    if value >= 1000:
        return f"{value / 1000:.3g} s"
    return f"{value:.2g} ms" if value < 100 else f"{value:.0f} ms"


def _round(number: float) -> float:
    """The next number with one digit that counts: 40 for 36.9; counts up to ten stay as they are."""
    digit = 10.0 ** max(0, math.floor(math.log10(number)))
    return math.ceil(number / digit) * digit


def _between(start: float, end: float, share: float) -> float:
    return start + (end - start) * share


def _x_position(window: float, ago: float) -> float:
    return _between(RIGHT, LEFT, min(1.0, max(0.0, ago / window)))


def _minutes(window: float) -> list[Mark]:
    return [
        Mark(_x_position(window, window * share), f"−{window * share / 60:g} min" if share else "now")
        for share in (1, 0.5, 0)
    ]


def _lines(
    window: float, curves: dict[str, Sequence[Point]], height: Callable[[float], float]
) -> list[Curve]:
    return [Curve(name, _path(window, points, height)) for name, points in curves.items()]


def _path(window: float, points: Sequence[Point], height: Callable[[float], float]) -> str:
    """Connects the points that follow each other without a gap; one that stands alone is a dot."""
    parts: list[str] = []
    for is_there, group in groupby(points, key=lambda point: point[1] is not None):
        if is_there:
            spots = [f"{_x_position(window, ago):.1f} {height(value or 0):.1f}" for ago, value in group]
            parts.append("M" + "L".join(spots) + ("h0" if len(spots) == 1 else ""))
    return "".join(parts)
