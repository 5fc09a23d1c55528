"""A warning that can come true a thousand times a second, said a few times a minute."""

import logging
import threading
import time

WINDOW_SECONDS = 60.0  # seconds
MAX_LINES_PER_WINDOW = 5  # lines a minute


class RateLimitedLog:
    """Logs a warning AT_MOST times a minute; the next one tells how many were left out."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._logged_at: list[float] = []
        self._suppressed = 0

    def warning(self, text: str, *values: object) -> None:
        """Say it, or count it."""
        now = time.monotonic()
        with self._lock:
            self._logged_at = [moment for moment in self._logged_at if now - moment < WINDOW_SECONDS]
            if len(self._logged_at) >= MAX_LINES_PER_WINDOW:
                self._suppressed += 1
                return
            self._logged_at.append(now)
            left_out, self._suppressed = self._suppressed, 0
        if left_out:
            text, values = f"{text} (and %d times more since the last such line)", (*values, left_out)
        self._log.warning(text, *values)
