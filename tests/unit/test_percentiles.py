"""Percentiles from the histogram are accurate to 10 %."""

import math
from bisect import bisect_left

from hypothesis import given
from hypothesis import strategies as st

from app.observability.metric_readings import percentile
from app.observability.metrics import BUCKET_BOUNDS

DURATIONS = st.lists(
    st.floats(min_value=BUCKET_BOUNDS[0], max_value=BUCKET_BOUNDS[-1]), min_size=1, max_size=200
)


def cumulative(durations: list[float]) -> dict[float, float]:
    bounds = [*BUCKET_BOUNDS, math.inf]
    counts = [0] * len(bounds)
    for duration in durations:
        counts[bisect_left(bounds, duration)] += 1
    return {bound: sum(counts[: number + 1]) for number, bound in enumerate(bounds)}


@given(DURATIONS, st.sampled_from([0.5, 0.95, 0.99]))
def test_a_percentile_is_accurate_to_ten_percent(durations: list[float], share: float) -> None:
    exact = sorted(durations)[math.ceil(share * len(durations)) - 1]
    found = percentile(cumulative(durations), share)
    assert found is not None
    assert abs(found - exact) <= 0.1 * exact


def test_a_percentile_is_none_before_the_first_query() -> None:
    assert percentile({}, 0.5) is None
    assert percentile(cumulative([]), 0.5) is None


def test_a_duration_beyond_the_last_bound_counts_as_the_last_bound() -> None:
    assert percentile(cumulative([100_000.0]), 0.5) == BUCKET_BOUNDS[-1]


def test_the_bounds_range_from_ten_microseconds_to_an_hour() -> None:
    assert BUCKET_BOUNDS[0] == 0.00001
    assert BUCKET_BOUNDS[-1] >= 3600
