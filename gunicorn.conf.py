"""gunicorn's settings; its command line and GUNICORN_CMD_ARGS go before them.

The number of workers is left to gunicorn (`--workers`, WEB_CONCURRENCY; 1 by default): every worker has
a pool of POSTGRES_MAX_CONNECTIONS, so one with threads spends the connections of one service.
"""

import logging
import os
import signal
import threading
from typing import Any

from app.observability.addresses import hide_secrets

worker_class = "gthread"
threads = 8
timeout = 30  # seconds without a sign of life from a worker until it is replaced
graceful_timeout = 30  # seconds for requests that are under way when it is told to stop
loglevel = "warning"
control_socket_disable = True  # nobody here manages gunicorn over a socket in the home directory

# The webhook's address holds its secret, and both logs write addresses.
for name in ("gunicorn.access", "gunicorn.error"):
    logging.getLogger(name).addFilter(hide_secrets)

DRAIN = 2.0  # seconds between "not ready" and closing the door: a load balancer's next probe comes first


def post_worker_init(worker: Any) -> None:
    """Open the pool; on SIGTERM turn unready first and stop a moment later (a second one: at once)."""
    worker.wsgi.extensions["desk"].database.pool.open()
    stop = signal.getsignal(signal.SIGTERM)

    def drain(number: int, frame: object) -> None:
        worker.wsgi.extensions["health"].shutting_down = True
        signal.signal(number, stop)
        timer = threading.Timer(DRAIN, os.kill, (os.getpid(), number))
        timer.daemon = True
        timer.start()

    signal.signal(signal.SIGTERM, drain)


def worker_exit(server: Any, worker: Any) -> None:
    """Give the connections back; a worker that could not load the application has none."""
    if hasattr(worker, "wsgi"):
        worker.wsgi.extensions["desk"].close()
