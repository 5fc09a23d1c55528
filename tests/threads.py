"""Concurrent calls in threads."""

from collections.abc import Callable, Iterable
from threading import Barrier, Thread
from typing import Any


def at_once(calls: Iterable[Callable[[], Any]]) -> list[Any]:
    """Run the calls in threads that start at the same time; return their results in order.

    If calls fail, the first exception is raised when all calls have ended.
    """
    functions = list(calls)
    barrier, results = Barrier(len(functions)), [None] * len(functions)
    errors: list[Exception] = []

    def run(index: int) -> None:
        barrier.wait()
        try:
            results[index] = functions[index]()
        except Exception as error:  # noqa: BLE001 - raised below, in the test's thread
            errors.append(error)

    threads = [Thread(target=run, args=(index,)) for index in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results
