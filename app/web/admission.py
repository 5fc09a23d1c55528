"""Some threads are kept for probes: however long the database keeps everybody waiting, they are answered.

A server with threads answers nobody while each of them waits: for a connection, for a lock, for a client
that does not read. So requests that do work take at most so many at once; the next ones wait a moment
where things move, and are told to come again where nothing does.
"""

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from prometheus_client import Counter
from werkzeug.wsgi import ClosingIterator

from app.observability.sparingly import Sparingly

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

RESERVED = 4  # threads
PATIENCE = 0.5  # seconds for a place
STUCK = 1.0  # seconds in which no request began or was finished

log = logging.getLogger(__name__)

TURNED_AWAY = Counter("frontdesk_http_turned_away", "Requests that found no free thread and were sent away.")

WORK = ("/whatsapp/", "/webhooks/")
TOO_MANY = json.dumps(
    {
        "error": {
            "code": "unavailable",
            "message": "Too many requests at once; try again.",
            "retryable": True,
        }
    }
).encode()
HEADERS = (
    ("Content-Type", "application/json"),
    ("Content-Length", str(len(TOO_MANY))),
    ("Cache-Control", "no-store"),
    ("Retry-After", "1"),
)


class Admission:
    """Lets requests in to `app`, first come, first served; without a limit, which the server sets, all.

    A request is over when its answer was sent, so this stands around the application.
    """

    def __init__(self, app: "WSGIApplication") -> None:
        self._app = app
        self._lock = threading.Lock()
        self._free: int | None = None
        self._waiting: deque[threading.Event] = deque()
        self._moved = time.monotonic()
        self._warning = Sparingly(log)

    def limit_to(self, threads: int) -> None:
        """Keep RESERVED of the server's threads free, as far as there are so many."""
        self._free = max(1, threads - RESERVED)

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """WSGI."""
        if self._free is None or not environ.get("PATH_INFO", "").startswith(WORK):
            return self._app(environ, start_response)
        if not self._enter():
            TURNED_AWAY.inc()
            self._warning.warn("A request was turned away: all threads wait for the database or for clients")
            start_response("503 SERVICE UNAVAILABLE", [*HEADERS])
            return [TOO_MANY]
        try:
            return ClosingIterator(self._app(environ, start_response), [self._leave])
        except BaseException:  # no answer will be closed, so its place is given back here
            self._leave()
            raise

    def _enter(self) -> bool:
        with self._lock:
            assert self._free is not None  # noqa: S101 - asked before
            now = time.monotonic()
            if self._free:
                self._free -= 1
                self._moved = now
                return True
            if now - self._moved > STUCK:
                return False
            turn = threading.Event()
            self._waiting.append(turn)
        if turn.wait(PATIENCE):
            return True
        with self._lock:
            if turn.is_set():
                return True
            self._waiting.remove(turn)
            return False

    def _leave(self) -> None:
        with self._lock:
            assert self._free is not None  # noqa: S101 - it was asked when the request came in
            self._moved = time.monotonic()
            if self._waiting:
                self._waiting.popleft().set()  # the place goes from hand to hand
            else:
                self._free += 1
