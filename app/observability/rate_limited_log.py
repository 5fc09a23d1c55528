"""Rate limit for warnings that may occur a thousand times per second."""

import logging
import threading
import time

WINDOW_SECONDS = 60.0
MAX_LINES_PER_WINDOW = 5


class RateLimitedLog:
    """Logs at most MAX_LINES_PER_WINDOW warnings per minute; the next one includes the number omitted."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._logged_at: list[float] = []
        self._suppressed = 0

    def warning(self, text: str, *values: object) -> None:
        """Log the warning, or count it as omitted."""
        now = time.monotonic()
        with self._lock:
            self._logged_at = [moment for moment in self._logged_at if now - moment < WINDOW_SECONDS]
            if len(self._logged_at) >= MAX_LINES_PER_WINDOW:
                self._suppressed += 1
                return
            self._logged_at.append(now)
            omitted, self._suppressed = self._suppressed, 0
        if omitted:
            text, values = f"{text} (and %d times more since the last such line)", (*values, omitted)
        self._log.warning(text, *values)
