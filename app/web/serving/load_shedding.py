"""Load shedding: probes are always served; other requests get 503 when all threads are stuck.

The thread pools are in gunicorn_worker.py.
"""

import json
import logging
import re
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

from prometheus_client import Counter

from app.observability.rate_limited_log import RateLimitedLog
from app.observability.sentry import UNTRACED_PATHS as PROBES

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

log = logging.getLogger(__name__)

REQUESTS_SHED = Counter(
    "frontdesk_http_turned_away", "Requests answered with 503 because all threads were stuck."
)

_PROBE = re.compile(rb"(?:GET|HEAD) (?:%s)" % b"|".join(map(str.encode, PROBES)))
END = b"\r\n\r\n"  # end of a request head
_BODY = re.compile(rb"\r\n(?:content-length:[ \t]*0*[1-9]|transfer-encoding:)", re.IGNORECASE)
_TOO_MANY = json.dumps(
    {
        "error": {
            "code": "unavailable",
            "message": "Too many requests at once; try again.",
            "retryable": True,
        }
    }
).encode()
_HEADERS = (
    ("Content-Type", "application/json"),
    ("Content-Length", str(len(_TOO_MANY))),
    ("Cache-Control", "no-store"),
    ("Retry-After", "1"),
)

_thread = threading.local()


def is_probe(head: bytes) -> bool:
    """Return True if `head` is the complete head of a probe request without a body.

    A request that is incomplete is not a probe: the probe threads must not wait for the rest of a head or
    for a body.
    """
    head, end, _ = head.partition(END)
    return bool(end and _PROBE.match(head)) and _BODY.search(head) is None


def shed_load_on_this_thread() -> None:
    """Make this thread answer all requests except probes with 503 from now on."""
    _thread.refuses = True


def shed_load(app: "WSGIApplication") -> "WSGIApplication":
    """Wrap a WSGI application: on load-shedding threads, answer 503 to all requests except probes."""
    warning = RateLimitedLog(log)

    def answer(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        if not hasattr(_thread, "refuses") or environ.get("PATH_INFO", "").startswith(PROBES):
            return app(environ, start_response)
        REQUESTS_SHED.inc()
        warning.warning("A request got 503: all threads wait for the database or for clients")
        start_response("503 SERVICE UNAVAILABLE", [*_HEADERS])
        return [_TOO_MANY]

    return answer
