"""A check that a thousand probes at once cost no more than one."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")

CHECK_TIMEOUT_SECONDS = 0.8  # seconds; a probe gives up after one
RESULT_TTL_SECONDS = 1.0  # seconds


class SingleFlight(Generic[T]):
    """Runs `check` at most once at a time and once a second, whoever asks and however many.

    An answer takes at most `deadline` seconds: whoever asks while a check takes longer gets `timeout_result`
    (at once, if the deadline has passed already), and no second check is started beside it. What the
    check raises is raised to all who asked. Safe to share between threads; after a fork, each process
    runs its own.
    """

    def __init__(self, check: Callable[[], T], timeout_result: T) -> None:
        self._check = check
        self._timeout_result = timeout_result
        self._lock = threading.Lock()
        self._flight: _Flight[T] | None = None

    def start(self) -> None:
        """Begin now what is asked for later: several checks then take no longer than the slowest."""
        self._current()

    def __call__(self, timeout: float = CHECK_TIMEOUT_SECONDS) -> T:
        flight = self._current()
        try:
            return flight.future.result(timeout=max(0.0, flight.started_at + timeout - time.monotonic()))
        except TimeoutError:
            return self._timeout_result

    def _current(self) -> "_Flight[T]":
        with self._lock:
            if self._flight is None or self._flight.is_expired():
                self._flight = _Flight(self._check)
            return self._flight


class _Flight(Generic[T]):
    """One run of a check, in a thread of its own: nobody can be made to wait for it."""

    def __init__(self, check: Callable[[], T]) -> None:
        self.started_at = time.monotonic()
        self.future: Future[T] = Future()
        self._finished_at: float | None = None
        threading.Thread(target=self._run, args=(check,), name="check", daemon=True).start()

    def is_expired(self) -> bool:
        return self._finished_at is not None and time.monotonic() > self._finished_at + RESULT_TTL_SECONDS

    def _run(self, check: Callable[[], T]) -> None:
        try:
            result = check()
        except BaseException as error:  # noqa: BLE001 - handed over to those who wait, every one of them
            self._finished_at = time.monotonic()
            self.future.set_exception(error)
        else:
            self._finished_at = time.monotonic()
            self.future.set_result(result)
