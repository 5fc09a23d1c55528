"""gunicorn's settings; its command line and GUNICORN_CMD_ARGS go before them.

The number of workers is left to gunicorn (`--workers`, WEB_CONCURRENCY; 1 by default): every worker has
a pool of POSTGRES_MAX_CONNECTIONS, so one with threads spends the connections of one service.
"""

import fcntl
import itertools
import logging
import os
import resource
import shutil
import signal
import socket
import struct
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

METRICS_DIR_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
PREFIX = "frontdesk-metrics-"


def prepare_metrics_directory() -> IO[str]:
    """Give the workers an empty directory for their metrics: one that is named, or one of our own.

    Return its open lock, which workers inherit: a directory whose lock is free is what a kill -9 left.
    """
    memory = Path("/dev/shm")  # noqa: S108 - a full disk under a mapped file kills the process
    parent = memory if os.access(memory, os.W_OK) else Path(tempfile.gettempdir())
    for remains in parent.glob(f"{PREFIX}*"):
        with suppress(OSError), (remains / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(remains)
    directory = Path(
        os.environ.setdefault(METRICS_DIR_VARIABLE, "") or tempfile.mkdtemp(prefix=PREFIX, dir=parent)
    )
    os.environ[METRICS_DIR_VARIABLE] = str(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if "GUNICORN_PID" not in os.environ:  # with it, an older master's workers still write there
        for old in (*directory.glob("*.db"), *directory.glob("slow_queries.*")):
            old.unlink()
    lock = (directory / "lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_SH)
    return lock


# prometheus_client wants to know the directory when it is imported, so before the app. Where both are
# already, this is a reload, or `frontdesk up`, whose one worker has nobody to share with.
if "prometheus_client" not in sys.modules:
    metrics_lock = prepare_metrics_directory()

from app.config import Settings  # noqa: E402 - see above
from app.database import connection_budget  # noqa: E402
from app.errors import ConfigurationError  # noqa: E402
from app.observability import logs, metric_slots  # noqa: E402
from app.observability.log_redaction import request_redaction_filter  # noqa: E402
from app.web.serving.gunicorn_worker import Worker  # noqa: E402

worker_class = Worker
threads = 12  # that work; probes have their own
timeout = 30  # seconds without a sign of life from a worker until it is replaced
graceful_timeout = 30  # seconds for requests that are under way when it is told to stop
# Whoever closes an idle connection may cross a request on its way, which then fails: better the client, who
# knows whether there is one. Clients wait a few seconds, nginx a minute.
keepalive = 75  # seconds
# Half of the files that a worker may open; without one left it would end.
open_file_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
worker_connections = 1000 if open_file_limit == resource.RLIM_INFINITY else min(1000, open_file_limit // 2)
loglevel = "warning"
control_socket_disable = True  # nobody here manages gunicorn over a socket in the home directory

# The webhook's address holds its secret, and what is no request may hold anything.
for name in ("gunicorn.access", "gunicorn.error"):
    logging.getLogger(name).addFilter(request_redaction_filter)

# A thread that waits for a client can do nothing else.
CLIENT_TIMEOUT_SECONDS = 5  # seconds that a client may leave an answer unread, or a request unfinished
SEND_BUFFER_BYTES = (
    200 * 1024
)  # bytes; every answer but large WhatsApp keys fits, and goes without its reader
DRAIN_SECONDS = (
    2.0  # seconds between "not ready" and closing the door: a load balancer's next probe comes first
)


def on_starting(server: Any) -> None:
    """Let the master log as the workers do; what is wrong with the settings is said when they load."""
    with suppress(ConfigurationError):
        logs.configure(Settings.load())


def set_socket_timeouts(listener: socket.socket) -> None:
    """Whoever comes in by this door gets these options; gunicorn itself waits for ever."""
    seconds = struct.pack("ll", CLIENT_TIMEOUT_SECONDS, 0)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, seconds)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, seconds)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)


def pre_fork(server: Any, worker: Any) -> None:
    """Give the worker a place: that of one who is gone, or a new one."""
    taken = {each.place for each in server.WORKERS.values()}
    free = (f"{server.pid}-{number}" for number in itertools.count(1))
    worker.place = next(place for place in free if place not in taken)


def post_fork(server: Any, worker: Any) -> None:
    """Count there."""
    metric_slots.use_slot(worker.place)


def post_worker_init(worker: Any) -> None:
    """Open the pool; on SIGTERM turn unready first and stop a moment later (a second one: at once)."""
    for listener in worker.sockets:
        set_socket_timeouts(listener.sock)
    database = worker.wsgi.extensions["desk"].database
    database.open()
    worker.wsgi.extensions["status"].history.start()
    worker.wsgi.extensions["health"].check_whatsapp.start()  # the first look at a million keys takes longest
    if worker.age == 1:  # the first one speaks for all
        threading.Thread(
            target=connection_budget.log_budget, args=(database, worker.cfg.workers), daemon=True
        ).start()
    stop = signal.getsignal(signal.SIGTERM)

    def drain(number: int, frame: object) -> None:
        worker.wsgi.extensions["health"].shutting_down = True
        signal.signal(number, stop)
        timer = threading.Timer(DRAIN_SECONDS, os.kill, (os.getpid(), number))
        timer.daemon = True
        timer.start()

    signal.signal(signal.SIGTERM, drain)


def worker_exit(server: Any, worker: Any) -> None:
    """Give the connections back; a worker that could not load the application has none."""
    if hasattr(worker, "wsgi"):
        worker.wsgi.extensions["desk"].close()


def child_exit(server: Any, worker: Any) -> None:
    """Its place is free."""
    metric_slots.release_slot(worker.place)


def on_exit(server: Any) -> None:
    """Remove the metrics, if the directory is ours and no newer master goes on with it."""
    directory = Path(os.environ.get(METRICS_DIR_VARIABLE, ""))
    if directory.name.startswith(PREFIX) and not server.reexec_pid:
        shutil.rmtree(directory, ignore_errors=True)
