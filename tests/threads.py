"""Calls that start at the same moment."""

from collections.abc import Callable, Iterable
from threading import Barrier, Thread
from typing import Any


def at_once(calls: Iterable[Callable[[], Any]]) -> list[Any]:
    """Run the calls in threads that start together; return their answers in order.

    Raises the first exception of a call when all have ended.
    """
    given = list(calls)
    barrier, answers = Barrier(len(given)), [None] * len(given)
    errors: list[Exception] = []

    def run(index: int) -> None:
        barrier.wait()
        try:
            answers[index] = given[index]()
        except Exception as error:  # noqa: BLE001 - raised below, in the thread of the test
            errors.append(error)

    threads = [Thread(target=run, args=(index,)) for index in range(len(given))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return answers
