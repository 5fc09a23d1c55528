"""Divergences that services come upon, counted over five minutes; too many are told to Sentry, once."""

import logging
import threading
import time
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from app.observability import metrics, sentry

log = logging.getLogger(__name__)

WINDOW_SECONDS = 300.0  # seconds
MAX_DIFFERING_READS = 10  # differences in the window, at any rate
MAX_DIFFERING_PERCENT = 5.0
MIN_COMPARISONS = 20  # comparisons from which on a rate means something
MAX_LISTED = 20  # keys in one message


@dataclass(frozen=True)
class RecentComparisons:
    """What the last five minutes of this process brought: reads compared, and those that differed."""

    compared: int = 0
    differed: int = 0

    @property
    def percent(self) -> float:
        """Of a hundred compared reads."""
        return 100 * self.differed / self.compared if self.compared else 0.0

    @property
    def is_alarming(self) -> bool:
        """Over 5 % of enough comparisons, or more than ten."""
        return self.differed > MAX_DIFFERING_READS or (
            self.compared >= MIN_COMPARISONS and self.percent > MAX_DIFFERING_PERCENT
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "compared": self.compared,
            "differed": self.differed,
            "percent": round(self.percent, 1),
            "window_seconds": int(WINDOW_SECONDS),
        }


class DivergenceMonitor:
    """Safe to share between threads. One message an episode, which ends when the figures are calm again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: deque[tuple[float, tuple[str, ...]]] = deque()  # when, and the keys that differed
        self._is_alarmed = False

    def record(self, differing: Collection[str] = ()) -> None:
        """Count one comparison. `differing` names what differed: tables and our ids, nothing personal."""
        metrics.READS_COMPARED.inc()
        if differing:
            metrics.READS_DIFFERED.inc()
            log.warning("A read differs on the two sides: %s", ", ".join(list(differing)[:MAX_LISTED]))
        with self._lock:
            self._seen.append((time.monotonic(), tuple(differing)))
        recent = self.recent()
        with self._lock:
            is_new = recent.is_alarming and not self._is_alarmed
            self._is_alarmed = recent.is_alarming
            keys = sorted({key for _, named in self._seen for key in named})
        if is_new:
            sentry.capture_message(
                f"The two sides of the move diverge: {recent.differed} of {recent.compared} compared reads"
                f" ({recent.percent:.1f} %) in five minutes differed: {', '.join(keys[:MAX_LISTED])}",
                component="transfer",
            )

    def recent(self) -> RecentComparisons:
        """The window, now."""
        with self._lock:
            while self._seen and self._seen[0][0] < time.monotonic() - WINDOW_SECONDS:
                self._seen.popleft()
            return RecentComparisons(len(self._seen), sum(bool(keys) for _, keys in self._seen))


shared_monitor = DivergenceMonitor()
