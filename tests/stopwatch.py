"""Stopwatch that subtracts delays caused by a busy machine."""

import time
from threading import Event, Thread
from typing import Self

TICK_SECONDS = 0.05  # ten times the interval at which Python switches between computing threads


class Stopwatch:
    """Measures the duration of a `with` block, less the delays of a background thread that only sleeps.

    The thread wakes too late when the operating system does not schedule the process in time. Time limits
    of tests assume a machine without such delays.
    """

    def __enter__(self) -> Self:
        self._delays = 0.0
        self._ended: float | None = None
        self._stop = Event()
        self._began = self._asleep_since = time.monotonic()
        self._thread = Thread(target=self._tick)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = self.seconds
        self._stop.set()
        self._thread.join()

    @property
    def seconds(self) -> float:
        """Seconds since the block began, or the duration of the block once it has ended."""
        if self._ended is not None:
            return self._ended
        now = time.monotonic()
        return now - self._began - self._delays - max(0.0, now - self._asleep_since - TICK_SECONDS)

    def _tick(self) -> None:
        while not self._stop.wait(TICK_SECONDS):
            awake = time.monotonic()
            self._delays += max(0.0, awake - self._asleep_since - TICK_SECONDS)
            self._asleep_since = awake
