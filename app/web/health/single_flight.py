"""A check that a thousand probes at once cost no more than one."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")

DEADLINE = 0.8  # seconds; a probe gives up after one
REMEMBERED = 1.0  # seconds


class SingleFlight(Generic[T]):
    """Runs `check` at most once at a time and once a second, whoever asks and however many.

    An answer takes at most `deadline` seconds: whoever asks while a check takes longer gets `too_late`
    (at once, if the deadline has passed already), and no second check is started beside it. What the
    check raises is raised to all who asked. Safe to share between threads; after a fork, each process
    runs its own.
    """

    def __init__(self, check: Callable[[], T], too_late: T) -> None:
        self._check = check
        self._too_late = too_late
        self._lock = threading.Lock()
        self._flight: _Flight[T] | None = None

    def start(self) -> None:
        """Begin now what is asked for later: several checks then take no longer than the slowest."""
        self._current()

    def __call__(self, deadline: float = DEADLINE) -> T:
        flight = self._current()
        try:
            return flight.landing.result(timeout=max(0.0, flight.departed + deadline - time.monotonic()))
        except TimeoutError:
            return self._too_late

    def _current(self) -> "_Flight[T]":
        with self._lock:
            if self._flight is None or self._flight.is_history():
                self._flight = _Flight(self._check)
            return self._flight


class _Flight(Generic[T]):
    """One run of a check, in a thread of its own: nobody can be made to wait for it."""

    def __init__(self, check: Callable[[], T]) -> None:
        self.departed = time.monotonic()
        self.landing: Future[T] = Future()
        self._landed: float | None = None
        threading.Thread(target=self._fly, args=(check,), name="check", daemon=True).start()

    def is_history(self) -> bool:
        return self._landed is not None and time.monotonic() > self._landed + REMEMBERED

    def _fly(self, check: Callable[[], T]) -> None:
        try:
            result = check()
        except BaseException as error:  # noqa: BLE001 - handed over to those who wait, every one of them
            self._landed = time.monotonic()
            self.landing.set_exception(error)
        else:
            self._landed = time.monotonic()
            self.landing.set_result(result)
