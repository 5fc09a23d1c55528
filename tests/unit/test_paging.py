"""Lists that others change while they are read."""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.yclients.api.paging import MAX_CONCURRENT_REQUESTS, PagedList, map_in_order
from app.yclients.api.responses import ApiResponse

SIZE = 10
Change = Callable[[list[int]], None]


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    with ThreadPoolExecutor(MAX_CONCURRENT_REQUESTS) as executor:
        yield executor


class Upstream:
    """Rows 0, 1, 2, … in pages. `changes` happen before the request with that number (from 1)."""

    def __init__(
        self, count: int, changes: dict[int, Change] | None = None, counts: bool = True, cap: int = SIZE
    ) -> None:
        self.ids = list(range(count))
        self.requests: list[int] = []
        self._changes = changes or {}
        self._counts = counts
        self._cap = cap

    def page(self, number: int) -> ApiResponse:
        self.requests.append(number)
        self._changes.get(len(self.requests), lambda ids: None)(self.ids)
        rows = [{"id": each} for each in self.ids[(number - 1) * self._cap : number * self._cap]]
        return ApiResponse(rows, len(self.ids) if self._counts else None)


class OneAtATime(Executor):
    """So that a change happens between two certain pages."""

    def submit(self, function: Any, /, *arguments: Any, **keywords: Any) -> Any:
        class Lazy:
            def result(self) -> Any:
                return function(*arguments, **keywords)

            def cancel(self) -> None: ...

        return Lazy()


def read(upstream: Upstream, executor: Executor) -> tuple[PagedList, list[int]]:
    listing = PagedList(executor, upstream.page, SIZE)
    return listing, [row["id"] for rows in listing for row in rows]


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 95, 100])
@pytest.mark.parametrize("counts", [True, False])
def test_each_row_is_returned_once_in_order(executor: Executor, count: int, counts: bool) -> None:
    listing, ids = read(Upstream(count, counts=counts), executor)
    assert ids == list(range(count))
    assert listing.is_complete
    assert listing.seen_ids == set(ids)


def test_a_short_list_takes_one_request(executor: Executor) -> None:
    upstream = Upstream(3)
    read(upstream, executor)
    assert upstream.requests == [1]


@pytest.mark.parametrize("counts", [True, False])
def test_pages_can_be_shorter_than_requested(executor: Executor, counts: bool) -> None:
    listing, ids = read(Upstream(25, counts=counts, cap=4), executor)
    assert ids == list(range(25))
    assert listing.is_complete


def test_a_row_added_at_the_front_repeats_a_row_and_loses_none() -> None:
    upstream = Upstream(35, {3: lambda ids: ids.insert(0, 99)})
    listing, ids = read(upstream, OneAtATime())
    assert {*range(35)} <= set(ids)
    assert listing.is_complete


def test_a_row_that_moved_to_a_page_already_read_is_found_by_a_second_reading() -> None:
    upstream = Upstream(35, {3: lambda ids: ids.remove(0)})
    listing, ids = read(upstream, OneAtATime())
    assert 20 in ids  # the row that moved from the third page to the second
    assert listing.is_complete
    assert listing.seen_ids == {*range(35)}


def test_a_row_moved_to_the_end_does_not_hide_another() -> None:
    upstream = Upstream(35, {3: lambda ids: ids.append(ids.pop(0))})
    listing, ids = read(upstream, OneAtATime())
    assert {*range(35)} == set(ids)
    assert listing.is_complete


def test_a_list_that_changes_in_every_reading_is_incomplete() -> None:
    upstream = Upstream(200, {number: lambda ids: ids.pop(0) for number in range(2, 200)})
    listing, _ = read(upstream, OneAtATime())
    assert not listing.is_complete


def test_a_count_above_the_number_of_rows_makes_the_list_incomplete() -> None:
    upstream = Upstream(15)
    page = upstream.page
    listing = PagedList(OneAtATime(), lambda number: ApiResponse(page(number).rows, 99), SIZE)
    assert [len(rows) for rows in listing] == [10, 5, 10, 5]
    assert not listing.is_complete


def test_a_count_below_the_number_of_rows_does_not_end_the_list() -> None:
    upstream = Upstream(35)
    page = upstream.page
    listing = PagedList(OneAtATime(), lambda number: ApiResponse(page(number).rows, 10), SIZE)
    assert sum(len(rows) for rows in listing) == 35


def test_a_repeated_page_ends_the_reading() -> None:
    rows = [{"id": each} for each in range(SIZE)]
    requests: list[int] = []

    def page(number: int) -> ApiResponse:
        requests.append(number)
        return ApiResponse(rows, 1000)

    listing = PagedList(OneAtATime(), page, SIZE)
    assert list(listing) == [rows] * 4
    assert requests == [1, 2, 1, 2]
    assert not listing.is_complete


def test_rows_without_an_id_count_as_rows(executor: Executor) -> None:
    listing = PagedList(executor, lambda number: ApiResponse([{"id": "1"}, {}, 7], 3), SIZE)
    assert [len(rows) for rows in listing] == [3]
    assert listing.is_complete
    assert listing.seen_ids == {1}


@given(calls=st.lists(st.integers(), max_size=20), stop=st.integers(0, 20))
def test_results_are_in_order_and_reading_stops_with_the_caller(
    executor: Executor, calls: list[int], stop: int
) -> None:
    assert list(map_in_order(executor, lambda n: n * 2, calls)) == [n * 2 for n in calls]
    started: list[int] = []

    def note(call: int) -> int:
        started.append(call)
        return call

    answers = map_in_order(executor, note, calls)
    taken = [answer for answer, _ in zip(answers, range(stop), strict=False)]
    answers.close()  # type: ignore[attr-defined] # a generator is what it is
    assert taken == calls[:stop]
    assert len(started) <= stop + MAX_CONCURRENT_REQUESTS + 1
