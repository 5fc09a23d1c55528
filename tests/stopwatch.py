"""Time, without what a busy machine takes of it."""

import time
from threading import Event, Thread
from typing import Self

TICK_SECONDS = 0.05  # seconds; a thread of ours that computes lets another one in after 0.005


class Stopwatch:
    """Measures its block, less the time by which a thread that only sleeps woke too late meanwhile.

    What is promised in seconds is promised of a machine that lets a process run when it is due.
    """

    def __enter__(self) -> Self:
        self._withheld = 0.0
        self._ended: float | None = None
        self._stop = Event()
        self._began = self._asleep = time.monotonic()
        self._thread = Thread(target=self._tick)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = self.seconds
        self._stop.set()
        self._thread.join()

    @property
    def seconds(self) -> float:
        """Since the block began, or what the whole block took."""
        if self._ended is not None:
            return self._ended
        now = time.monotonic()
        return now - self._began - self._withheld - max(0.0, now - self._asleep - TICK_SECONDS)

    def _tick(self) -> None:
        while not self._stop.wait(TICK_SECONDS):
            awake = time.monotonic()
            self._withheld += max(0.0, awake - self._asleep - TICK_SECONDS)
            self._asleep = awake
