"""Reading of paged lists that may change meanwhile, with several concurrent requests."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

from app.yclients.api.responses import ApiResponse
from app.yclients.mapping.values import integer

MAX_CONCURRENT_REQUESTS = 4  # a response may take a second, and the rate limit allows 3.3 requests per second
PASSES = 2  # attempts to read a list that changes meanwhile

A = TypeVar("A")
T = TypeVar("T")


def map_in_order(executor: Executor, function: Callable[[A], T], arguments: Iterable[A]) -> Iterator[T]:
    """Yield the results like `map`, with up to MAX_CONCURRENT_REQUESTS calls in progress."""
    pending: deque[Future[T]] = deque()
    try:
        for argument in arguments:
            pending.append(executor.submit(function, argument))
            if len(pending) == MAX_CONCURRENT_REQUESTS:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


class PagedList:
    """All rows of a paged list.

    A row that is added meanwhile shifts another one to the next page, where it is read again. A row that is
    removed shifts another one to a page that has already been read. The total count of YClients reveals this,
    and the list is read once more. After iteration, `is_complete` is True if every row was read, and
    `seen_ids` contains the ids of the rows.
    """

    def __init__(self, executor: Executor, fetch: Callable[[int], ApiResponse], page_size: int) -> None:
        """Read pages with `fetch`, which takes the number of a page, from 1."""
        self._executor = executor
        self._fetch = fetch
        self._page_size = page_size
        self.seen_ids: set[int] = set()
        self.total: int | None = None
        self.is_complete = False

    def __iter__(self) -> Iterator[list[Any]]:
        """Yield the rows of each page. A row may occur more than once."""
        for _ in range(PASSES):
            yield from self._read_once()
            if self.is_complete:
                return

    def _read_once(self) -> Iterator[list[Any]]:
        ids: set[int] = set()
        without_id = 0
        shrank = False
        self.total = None
        for page in self._pages():
            if page.total is not None:
                shrank = shrank or (self.total is not None and page.total < self.total)
                self.total = page.total
            page_ids = [payload_id(row) for row in page.rows]
            new = {row_id for row_id in page_ids if row_id is not None} - ids
            ids |= new
            without_id += page_ids.count(None)
            if page.rows:
                yield page.rows
            # The list ends with a short page that also completes the total. Neither alone is sufficient,
            # because totals can be wrong and pages shorter than requested. A page without new rows ends it
            # too.
            is_all = self.total is not None and len(ids) + without_id >= self.total
            if not new or (is_all and len(page.rows) < self._page_size):
                break
        self.seen_ids |= ids
        self.is_complete = (self.total is None or is_all) and not shrank

    def _pages(self) -> Iterator[ApiResponse]:
        """Yield pages without end. Pages up to the total of the first page are requested concurrently."""
        first = self._fetch(1)
        yield first
        expected = -(-(first.total or 0) // len(first.rows)) if first.rows else 1
        yield from map_in_order(self._executor, self._fetch, range(2, expected + 1))
        yield from map(self._fetch, itertools.count(max(expected, 1) + 1))


def payload_id(row: Any) -> int | None:
    """Return the YClients id of a payload, or None if it is missing or invalid."""
    row_id = integer(row.get("id")) if isinstance(row, dict) else None
    return row_id if isinstance(row_id, int) else None
