"""Reading lists that others change while they are read, page by page and a few pages ahead."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

from app.yclients.api.responses import ApiResponse
from app.yclients.mapping.values import integer

MAX_CONCURRENT_REQUESTS = (
    4  # requests under way at once: an answer may take a second, and 3.3 may be sent in that time
)
PASSES = 2  # readings of a list that others changed meanwhile

A = TypeVar("A")
T = TypeVar("T")


def map_in_order(executor: Executor, function: Callable[[A], T], arguments: Iterable[A]) -> Iterator[T]:
    """`map` with a few calls ahead of the one whose result is waited for."""
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
    """All rows of a list that comes in pages.

    While it is read, rows may be added (one comes twice) or removed (one slips over to a page that has
    been read already). YClients counts the rows, so what slipped away is noticed, and the list is read once
    more. `is_complete` tells in the end whether every row was seen; `seen_ids` are the ids of all.
    """

    def __init__(self, executor: Executor, fetch: Callable[[int], ApiResponse], page_size: int) -> None:
        """`fetch` takes the number of a page, from 1."""
        self._executor = executor
        self._fetch = fetch
        self._page_size = page_size
        self.seen_ids: set[int] = set()
        self.total: int | None = None
        self.is_complete = False

    def __iter__(self) -> Iterator[list[Any]]:
        """Page after page; the same row may come again."""
        for _ in range(PASSES):
            yield from self._read_once()
            if self.is_complete:
                return

    def _read_once(self) -> Iterator[list[Any]]:
        ids: set[int] = set()
        without_id = 0
        shrank = False
        self.total = None
        for answer in self._answers():
            if answer.total is not None:
                shrank = shrank or (self.total is not None and answer.total < self.total)
                self.total = answer.total
            found = [payload_id(row) for row in answer.rows]
            new = {each for each in found if each is not None} - ids
            ids |= new
            without_id += found.count(None)
            if answer.rows:
                yield answer.rows
            # The last page is short *and* completes the count: a count can be wrong, and pages can be shorter
            # than asked for. Where one of both is missing, a page with nothing new ends the list.
            is_all = self.total is not None and len(ids) + without_id >= self.total
            if not new or (is_all and len(answer.rows) < self._page_size):
                break
        self.seen_ids |= ids
        self.is_complete = (self.total is None or is_all) and not shrank

    def _answers(self) -> Iterator[ApiResponse]:
        """The pages without end; as many as the first one promises are asked for ahead."""
        first = self._fetch(1)
        yield first
        promised = -(-(first.total or 0) // len(first.rows)) if first.rows else 1
        yield from map_in_order(self._executor, self._fetch, range(2, promised + 1))
        yield from map(self._fetch, itertools.count(max(promised, 1) + 1))


def payload_id(row: Any) -> int | None:
    """The YClients id of a payload, where it has one that can be read."""
    found = integer(row.get("id")) if isinstance(row, dict) else None
    return found if isinstance(found, int) else None
