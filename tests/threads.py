"""Calls that start at the same moment."""

from collections.abc import Callable, Iterable
from threading import Barrier, Thread
from typing import Any


def at_once(calls: Iterable[Callable[[], Any]]) -> list[Any]:
    """Run the calls in threads that start together; their answers, in order. An exception is an answer."""
    given = list(calls)
    barrier, answers = Barrier(len(given)), [None] * len(given)

    def run(index: int) -> None:
        barrier.wait()
        try:
            answers[index] = given[index]()
        except Exception as error:  # noqa: BLE001 - handed to the test, which compares it with what it expects
            answers[index] = error

    threads = [Thread(target=run, args=(index,)) for index in range(len(given))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers
