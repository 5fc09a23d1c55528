"""A warning that can come true a thousand times a second, said a few times a minute."""

import logging
import threading
import time

A_MINUTE = 60.0  # seconds
AT_MOST = 5  # lines a minute


class Sparingly:
    """Logs a warning AT_MOST times a minute; the next one tells how many were left out."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._said: list[float] = []
        self._left_out = 0

    def warn(self, text: str, *values: object) -> None:
        """Say it, or count it."""
        now = time.monotonic()
        with self._lock:
            self._said = [moment for moment in self._said if now - moment < A_MINUTE]
            if len(self._said) >= AT_MOST:
                self._left_out += 1
                return
            self._said.append(now)
            left_out, self._left_out = self._left_out, 0
        if left_out:
            text, values = f"{text} (and %d times more since the last such line)", (*values, left_out)
        self._log.warning(text, *values)
