"""Share one run of a check between concurrent callers, and cache its result for a second."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")

CHECK_TIMEOUT_SECONDS = 0.8  # less than the second after which a probe times out
RESULT_TTL_SECONDS = 1.0


class SingleFlight(Generic[T]):
    """Runs `check` at most once at a time and at most once a second, for any number of callers.

    Calling the object returns the result of the current or last run. A call takes at most `timeout` seconds,
    measured from the start of the run. If the run takes longer, the call returns `timeout_result` and no
    second run is started. An exception of `check` is raised in every call that waits for this run. The
    object may be shared between threads; after a fork, each process runs its own checks.

    Example:
        check = SingleFlight(query_status, timeout_result=None)
        status = check()
    """

    def __init__(self, check: Callable[[], T], timeout_result: T) -> None:
        self._check = check
        self._timeout_result = timeout_result
        self._lock = threading.Lock()
        self._flight: _Flight[T] | None = None

    def start(self) -> None:
        """Start a run now without waiting for it.

        If several checks are started first and called afterwards, they run at the same time.
        """
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
    """One run of a check, in its own thread, so that callers can stop waiting for it."""

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
        except BaseException as error:  # noqa: BLE001 - the future raises it in each waiting call
            self._finished_at = time.monotonic()
            self.future.set_exception(error)
        else:
            self._finished_at = time.monotonic()
            self.future.set_result(result)
