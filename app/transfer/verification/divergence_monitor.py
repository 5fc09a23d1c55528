"""Rate of differing shadow reads over the last five minutes, reported to Sentry once if it is too high."""

import logging
import threading
import time
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from app.observability import metrics, sentry

log = logging.getLogger(__name__)

WINDOW_SECONDS = 300.0
MAX_DIFFERING_READS = 10  # in the window, whatever the percentage
MAX_DIFFERING_PERCENT = 5.0
MIN_COMPARISONS = 20  # below this number the percentage is not used
MAX_LISTED = 20  # keys in one message


@dataclass(frozen=True)
class RecentComparisons:
    """Numbers of shadow reads of this process in the last five minutes: compared, and differing."""

    compared: int = 0
    differed: int = 0

    @property
    def percent(self) -> float:
        """Percentage of compared reads that differed."""
        return 100 * self.differed / self.compared if self.compared else 0.0

    @property
    def is_alarming(self) -> bool:
        """True if more than ten reads differed, or more than 5 % of at least MIN_COMPARISONS reads."""
        return self.differed > MAX_DIFFERING_READS or (
            self.compared >= MIN_COMPARISONS and self.percent > MAX_DIFFERING_PERCENT
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the counts as a dict that can be serialised to JSON."""
        return {
            "compared": self.compared,
            "differed": self.differed,
            "percent": round(self.percent, 1),
            "window_seconds": int(WINDOW_SECONDS),
        }


class DivergenceMonitor:
    """Counts comparisons and sends a Sentry message each time the rate becomes alarming. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # The time (time.monotonic) of each comparison and the keys that differed.
        self._seen: deque[tuple[float, tuple[str, ...]]] = deque()
        self._is_alarmed = False

    def record(self, differing: Collection[str] = ()) -> None:
        """Count one comparison. `differing` holds table names and row ids without personal data."""
        metrics.READS_COMPARED.inc()
        if differing:
            metrics.READS_DIFFERED.inc()
            log.warning(
                "A read returned different rows from the two sides: %s",
                ", ".join(list(differing)[:MAX_LISTED]),
            )
        with self._lock:
            self._seen.append((time.monotonic(), tuple(differing)))
        recent = self.recent()
        with self._lock:
            is_new = recent.is_alarming and not self._is_alarmed
            self._is_alarmed = recent.is_alarming
            keys = sorted({key for _, named in self._seen for key in named})
        if is_new:
            sentry.capture_message(
                f"The two sides of the transfer diverge: {recent.differed} of {recent.compared} compared"
                f" reads ({recent.percent:.1f} %) in five minutes differed: {', '.join(keys[:MAX_LISTED])}",
                component="transfer",
            )

    def recent(self) -> RecentComparisons:
        """Return the counts of the last five minutes."""
        with self._lock:
            while self._seen and self._seen[0][0] < time.monotonic() - WINDOW_SECONDS:
                self._seen.popleft()
            return RecentComparisons(len(self._seen), sum(bool(keys) for _, keys in self._seen))


shared_monitor = DivergenceMonitor()
