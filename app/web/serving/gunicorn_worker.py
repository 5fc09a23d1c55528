"""gunicorn's worker with threads, in lanes: whatever keeps its work waiting, probes are answered at once.

A server with one crowd of threads answers nobody while each of them waits: for a connection, for a lock,
for a client that does not read. Here work has one lane, probes and the pages of operators have another. Who
finds all working threads taken stands in line, and who has not said all of a request's head yet is not
waited for: neither takes a thread. Where nothing moves any more, a third lane sends the line away, to come
again later.
"""

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from selectors import EVENT_READ
from socket import AF_UNIX, MSG_DONTWAIT, MSG_PEEK, SO_RCVLOWAT, SOL_SOCKET
from typing import Any

from gunicorn.workers.gthread import TConn, ThreadWorker

from app.web.serving import load_shedding

PROBE_THREADS = 4  # threads
SHEDDING_THREADS = 2  # threads
STUCK_AFTER_SECONDS = 1.0  # seconds in which no work began or was finished, with all threads taken
QUEUE_TIMEOUT_SECONDS = 5.0  # seconds in line
QUEUE_CHECK_INTERVAL_SECONDS = 0.2  # seconds between looks at the line
SHUTDOWN_GRACE_SECONDS = 0.5  # seconds for a request that is on its way when the worker stops
MAX_HEAD_BYTES = 4096  # bytes; whoever sent so many is taken to have sent a head


class Worker(ThreadWorker):  # type: ignore[misc] # gunicorn has no types
    """`threads` of the settings are those that work; the other lanes have their own.

    All but the handling of requests happens in gunicorn's main loop, one thing after the other.
    """

    def get_thread_pool(self) -> ThreadPoolExecutor:
        """Make the lanes; gunicorn's own pool is the one for work."""
        self._probe_pool = ThreadPoolExecutor(PROBE_THREADS, "probes")
        self._shedding_pool = ThreadPoolExecutor(
            SHEDDING_THREADS, "refusals", initializer=load_shedding.shed_load_on_this_thread
        )
        self._active_conns: set[TConn] = set()
        self._queue: deque[tuple[float, TConn]] = deque()
        self._last_progress_at = time.monotonic()
        return ThreadPoolExecutor(self.cfg.threads, "work")

    def enqueue_req(self, conn: TConn) -> None:
        """Give a connection its lane, or a place in line, when there is the head of a request."""
        try:
            fresh = conn.sock.recv(MAX_HEAD_BYTES, MSG_PEEK | MSG_DONTWAIT)
            closed = len(fresh) <= getattr(conn, "seen", 0)  # or it would not have woken us
        except BlockingIOError:
            fresh, closed = b"", False
        except OSError:  # it is broken, as whoever reads it will find
            fresh, closed = b"", True
        head = _buffered_bytes(conn) + fresh
        if not closed and _is_head_incomplete(conn, head):
            self._wait_for_more_than(len(fresh), conn)
            return
        conn.data_ready, conn.seen = True, 0
        conn.sock.setsockopt(SOL_SOCKET, SO_RCVLOWAT, 1)
        if not head or load_shedding.is_probe(head):
            self._submit(self._probe_pool, conn)
        elif self._is_stuck():
            self._submit(self._shedding_pool, conn)
        else:
            self._queue.append((time.monotonic(), conn))
            self._start_queued()

    def finish_request(self, conn: TConn, fs: "Future[Any]") -> None:
        """Let the next one in line work; a request that came along with this one has its turn later."""
        if conn in self._active_conns:
            self._active_conns.remove(conn)
            self._last_progress_at = time.monotonic()
        super().finish_request(conn, fs)
        self._start_queued()
        if _buffered_bytes(conn) and self.keepalived_conns and self.keepalived_conns[-1] is conn:
            self.on_client_socket_readable(conn, conn.sock)  # its socket may never wake us

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Look at the line now and then, as long as there is one."""
        if not self.alive:  # gunicorn would wait for the idle as for requests; nobody replaces it before
            end = time.monotonic() + SHUTDOWN_GRACE_SECONDS
            for conn in (*self.keepalived_conns, *self.pending_conns):
                conn.timeout = min(conn.timeout, end)
        super().wait_for_and_dispatch_events(
            min(timeout, QUEUE_CHECK_INTERVAL_SECONDS) if self._queue or not self.alive else timeout
        )
        self._close_idle_conns(self.worker_connections - len(self.sockets))
        latest = time.monotonic() - QUEUE_TIMEOUT_SECONDS
        while self._queue and (self._is_stuck() or self._queue[0][0] < latest):
            self._submit(self._shedding_pool, self._queue.popleft()[1])

    def _close_idle_conns(self, max_conns: int) -> None:
        """Close the connections that have been idle for longest until there are fewer than `max_conns`.

        Whoever opens connections and says nothing would else keep everybody out, probes too.
        """
        for idle in (self.pending_conns, self.keepalived_conns):
            while idle and self.nr_conns >= max_conns:
                conn = idle.popleft()
                self.poller.unregister(conn.sock)
                self.nr_conns -= 1
                conn.close()
        if self._queue and self.nr_conns >= max_conns:
            self._submit(self._shedding_pool, self._queue.popleft()[1])

    def _wait_for_more_than(self, count: int, conn: TConn) -> None:
        conn.seen = count
        conn.sock.setsockopt(SOL_SOCKET, SO_RCVLOWAT, count + 1)
        conn.sock.setblocking(False)
        conn.set_timeout()
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, EVENT_READ, partial(self.on_pending_socket_readable, conn))

    def _start_queued(self) -> None:
        while self._queue and len(self._active_conns) < self.cfg.threads:
            _, conn = self._queue.popleft()
            self._active_conns.add(conn)
            self._last_progress_at = time.monotonic()
            self._submit(self.tpool, conn)

    def _submit(self, pool: ThreadPoolExecutor, conn: TConn) -> None:
        done = pool.submit(self.handle, conn)
        done.add_done_callback(lambda future: self.method_queue.defer(self.finish_request, conn, future))

    def _is_stuck(self) -> bool:
        return (
            len(self._active_conns) >= self.cfg.threads
            and time.monotonic() - self._last_progress_at > STUCK_AFTER_SECONDS
        )


def _buffered_bytes(conn: TConn) -> bytes:
    """What was read together with the request before: the next one, or its beginning."""
    unreader = getattr(conn.parser, "unreader", None)  # there is no parser before the first request
    return unreader.buf.getvalue()[:MAX_HEAD_BYTES] if unreader else b""


def _is_head_incomplete(conn: TConn, head: bytes) -> bool:
    if head and conn.sock.family == AF_UNIX:  # poll cannot wait for more there; but a proxy sends all at once
        return False
    return len(head) < MAX_HEAD_BYTES and load_shedding.END not in head
