"""gunicorn's settings. Its command line and GUNICORN_CMD_ARGS override them.

The number of workers is gunicorn's default: `--workers` or WEB_CONCURRENCY, else 1. Each worker has a pool of
POSTGRES_MAX_CONNECTIONS, so a single worker with threads uses the connections of one service.
"""

import fcntl
import gc
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

# Imports free almost nothing: garbage collection would take a fifth of their time. It is enabled after the
# imports, by `when_ready` in the master and by `post_worker_init` in the workers.
gc.disable()

METRICS_DIR_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
PREFIX = "frontdesk-metrics-"


def prepare_metrics_directory() -> IO[str]:
    """Prepare an empty directory for the workers' metrics: PROMETHEUS_MULTIPROC_DIR, or else a temporary one.

    Return the directory's open lock file, which workers inherit. Directories whose lock is free were left by
    a killed server and are removed.
    """
    memory = Path("/dev/shm")  # noqa: S108 - in memory: a full disk under a mapped file kills the process
    parent = memory if os.access(memory, os.W_OK) else Path(tempfile.gettempdir())
    for leftover in parent.glob(f"{PREFIX}*"):
        with suppress(OSError), (leftover / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(leftover)
    directory = Path(
        os.environ.setdefault(METRICS_DIR_VARIABLE, "") or tempfile.mkdtemp(prefix=PREFIX, dir=parent)
    )
    os.environ[METRICS_DIR_VARIABLE] = str(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if "GUNICORN_PID" not in os.environ:  # set during an upgrade, while the old workers still write there
        for old in (*directory.glob("*.db"), *directory.glob("slow_queries.*")):
            old.unlink()
    lock = (directory / "lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_SH)
    return lock


# prometheus_client reads the directory when it is imported, so prepare it before importing the app. If it is
# imported already, this is a reload, or `frontdesk up`, whose single worker shares its metrics with no other.
if "prometheus_client" not in sys.modules:
    metrics_lock = prepare_metrics_directory()

from app.config import Settings  # noqa: E402 - see above
from app.database import connection_budget  # noqa: E402
from app.errors import ConfigurationError  # noqa: E402
from app.observability import logs, metric_slots  # noqa: E402
from app.observability.log_redaction import request_redaction_filter  # noqa: E402
from app.web.serving.gunicorn_worker import Worker  # noqa: E402

worker_class = Worker
threads = 12  # for requests; probes have their own threads
timeout = 30  # seconds without a heartbeat after which a worker is replaced
graceful_timeout = 30  # seconds for running requests when a worker stops
# Let clients close idle connections: closing from this side can race with a request in flight, which then
# fails. Clients close after a few seconds, nginx after a minute.
keepalive = 75  # seconds
# Half of the files that a worker may open: a worker without a free file descriptor exits.
open_file_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
worker_connections = 1000 if open_file_limit == resource.RLIM_INFINITY else min(1000, open_file_limit // 2)
loglevel = "warning"
control_socket_disable = True  # gunicorn is not managed over its socket in the home directory

# The webhook's URL contains its secret, and an invalid request line may contain anything.
for name in ("gunicorn.access", "gunicorn.error"):
    logging.getLogger(name).addFilter(request_redaction_filter)

CLIENT_TIMEOUT_SECONDS = 5  # a thread waits this long for a client to send the rest or to read the response
# All responses except large sets of WhatsApp keys fit, so that no thread waits for the client to read them.
SEND_BUFFER_BYTES = 200 * 1024
DRAIN_SECONDS = 2.0  # between "not ready" and closing the listener: load balancers probe in this time


def on_starting(server: Any) -> None:
    """Configure logging in the master as in the workers.

    Ignore invalid settings here: loading the application reports them.
    """
    with suppress(ConfigurationError):
        logs.configure(Settings.load())


def when_ready(server: Any) -> None:
    """Enable garbage collection in the master, which has imported its modules."""
    gc.enable()


def set_socket_timeouts(listener: socket.socket) -> None:
    """Set timeouts and buffer size on a listener; accepted sockets inherit them. gunicorn sets no timeout."""
    seconds = struct.pack("ll", CLIENT_TIMEOUT_SECONDS, 0)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, seconds)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, seconds)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)


def pre_fork(server: Any, worker: Any) -> None:
    """Assign the lowest free metric slot to the worker; a replacement reuses the slot of its predecessor."""
    used_slots = {running.slot for running in server.WORKERS.values()}
    slots = (f"{server.pid}-{number}" for number in itertools.count(1))
    worker.slot = next(slot for slot in slots if slot not in used_slots)


def post_fork(server: Any, worker: Any) -> None:
    """Use this slot's metric files, and import the application without garbage collection."""
    gc.disable()
    metric_slots.use_slot(worker.slot)


def post_worker_init(worker: Any) -> None:
    """Enable garbage collection, open the pool, start the checks, and replace the SIGTERM handler.

    On SIGTERM the worker reports "not ready" and begins to stop DRAIN_SECONDS later; a second SIGTERM ends
    this delay.
    """
    gc.freeze()  # the objects of the imported modules remain until the worker exits
    gc.enable()
    for listener in worker.sockets:
        set_socket_timeouts(listener.sock)
    database = worker.wsgi.extensions["desk"].database
    database.open()
    worker.wsgi.extensions["status"].history.start()
    worker.wsgi.extensions[
        "health"
    ].check_whatsapp.start()  # the first check of a million keys is the slowest
    if worker.age == 1:  # the budget is the same for all workers; the first one logs it
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
    """Close the connections. A worker that could not load the application has none."""
    if hasattr(worker, "wsgi"):
        worker.wsgi.extensions["desk"].close()


def child_exit(server: Any, worker: Any) -> None:
    """Release the metric slot of a worker that has exited."""
    metric_slots.release_slot(worker.slot)


def on_exit(server: Any) -> None:
    """Remove the metrics directory if it is temporary and no newer master uses it (after an upgrade)."""
    directory = Path(os.environ.get(METRICS_DIR_VARIABLE, ""))
    if directory.name.startswith(PREFIX) and not server.reexec_pid:
        shutil.rmtree(directory, ignore_errors=True)
