"""Charts of metrics over time: coordinates and labels from which the template draws SVG.

No chart library and no JavaScript is used.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

WIDTH, HEIGHT = 360, 120  # size of a chart in SVG units; the page scales it
LEFT, RIGHT, TOP, BOTTOM = 44, 356, 8, 100  # edges of the area inside the axes, in SVG units

Point = tuple[float, float | None]  # seconds ago, and the value; None is a gap in the curve


@dataclass(frozen=True)
class Curve:
    """One curve. `name` is its CSS class and its label in the legend; `path` is SVG path data."""

    name: str
    path: str


@dataclass(frozen=True)
class Mark:
    """A mark on an axis: its coordinate in SVG units and its label."""

    at: float
    text: str


@dataclass(frozen=True)
class Strip:
    """A period in one state, as a rectangle. `name` is the state and the CSS class."""

    name: str
    left: float
    width: float


@dataclass(frozen=True)
class Chart:
    """A chart. `summary` is the text that screen readers read instead of it."""

    summary: str
    lines: Sequence[Curve] = ()
    y_marks: Sequence[Mark] = ()
    x_marks: Sequence[Mark] = ()
    strips: Sequence[Strip] = field(default=())


def chart_of_times(window: float, curves: dict[str, Sequence[Point]], summary: str) -> Chart:
    """Return a chart of durations in milliseconds on a logarithmic scale, which shows both 1 ms and 1 s.

    `window` is the length of the time axis in seconds; `curves` maps names to points, oldest first.
    """
    values = [value for points in curves.values() for _, value in points if value]
    low = math.floor(math.log10(min(values, default=1)))
    high = max(low + 2, math.ceil(math.log10(max(values, default=1))))

    def height(value: float) -> float:
        return _between(BOTTOM, TOP, (math.log10(max(value, 10.0**low)) - low) / (high - low))

    marks = [Mark(height(10.0**power), milliseconds(10.0**power)) for power in range(low, high + 1)]
    return Chart(summary, _lines(window, curves, height), marks, _minutes(window))


def chart_of_counts(window: float, curves: dict[str, Sequence[Point]], top: float, summary: str) -> Chart:
    """Return a chart of counts from 0 to `top`, or to the highest value if that is greater.

    `window` is the length of the time axis in seconds; `curves` maps names to points, oldest first.
    """
    top = _round(max([top, 1, *(value for points in curves.values() for _, value in points if value)]))

    def height(value: float) -> float:
        return _between(BOTTOM, TOP, value / top)

    marks = [Mark(height(value), f"{value:g}") for value in (0, top)]
    return Chart(summary, _lines(window, curves, height), marks, _minutes(window))


def strip_of_states(window: float, every: float, states: Iterable[tuple[float, str]], summary: str) -> Chart:
    """Return a chart of states over time, with equal states joined.

    Args:
        window: Length of the time axis, in seconds.
        every: Seconds between two states.
        states: Seconds ago and name of each state, the oldest first.
        summary: Text for screen readers.
    """
    strips = []
    for name, group in groupby(states, key=lambda state: state[1]):
        ago = [seconds for seconds, _ in group]
        left, right = _x_position(window, ago[0] + every), _x_position(window, ago[-1])
        strips.append(Strip(name, round(left, 1), round(max(right - left, 1), 1)))
    return Chart(summary, strips=strips, x_marks=_minutes(window))


def milliseconds(value: float | None) -> str:
    """Format milliseconds for the page, for example "1.2 ms" or "1.25 s"; None gives a dash."""
    if value is None:
        return "–"
    if value >= 1000:
        return f"{value / 1000:.3g} s"
    return f"{value:.2g} ms" if value < 100 else f"{value:.0f} ms"


def _round(number: float) -> float:
    """Round up to one significant digit: 40 for 36.9. Numbers below ten are rounded up to an integer."""
    unit = 10.0 ** max(0, math.floor(math.log10(number)))
    return math.ceil(number / unit) * unit


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
    """Return SVG path data that connects adjacent points; a point between two gaps is drawn as a dot."""
    parts: list[str] = []
    for has_value, group in groupby(points, key=lambda point: point[1] is not None):
        if has_value:
            spots = [f"{_x_position(window, ago):.1f} {height(value or 0):.1f}" for ago, value in group]
            parts.append("M" + "L".join(spots) + ("h0" if len(spots) == 1 else ""))
    return "".join(parts)
