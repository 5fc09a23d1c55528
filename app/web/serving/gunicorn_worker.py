"""gunicorn's threaded worker with three thread pools, so that probes are answered at once under any load.

A server with one thread pool stops answering while all its threads wait: for a connection, for a lock, for a
client that does not read. This worker has one pool for requests and one for probes and the pages of
operators. A request that finds all threads busy waits in a queue. A connection whose request head is
incomplete waits in the poller. Neither occupies a thread. When all threads are stuck, a third pool answers
the queued requests with 503 and Retry-After.
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

PROBE_THREADS = 4
SHEDDING_THREADS = 2
STUCK_AFTER_SECONDS = 1.0  # all threads are busy and no request has started or finished for this time
QUEUE_TIMEOUT_SECONDS = 5.0  # a request that has been queued for longer gets 503
QUEUE_CHECK_INTERVAL_SECONDS = 0.2
SHUTDOWN_GRACE_SECONDS = 0.5  # for a request that is in transit when the worker stops
MAX_HEAD_BYTES = 4096  # a request head that is longer than this is passed on without waiting for its end


class Worker(ThreadWorker):  # type: ignore[misc] # gunicorn has no types
    """gunicorn worker with separate thread pools for requests, probes and load shedding.

    gunicorn's setting `threads` is the size of the pool for requests. Requests are handled in the pools;
    everything else runs in gunicorn's main loop, in one thread, and needs no locks.
    """

    def get_thread_pool(self) -> ThreadPoolExecutor:
        """Create the three thread pools and return the one for requests; gunicorn owns that one."""
        self._probe_pool = ThreadPoolExecutor(PROBE_THREADS, "probes")
        self._shedding_pool = ThreadPoolExecutor(
            SHEDDING_THREADS, "refusals", initializer=load_shedding.shed_load_on_this_thread
        )
        self._active_conns: set[TConn] = set()
        self._queue: deque[tuple[float, TConn]] = deque()
        self._last_progress_at = time.monotonic()
        return ThreadPoolExecutor(self.cfg.threads, "work")

    def enqueue_req(self, conn: TConn) -> None:
        """Submit a connection to its thread pool, or queue it, once a complete request head has arrived."""
        try:
            fresh = conn.sock.recv(MAX_HEAD_BYTES, MSG_PEEK | MSG_DONTWAIT)
            # The poller has reported the socket: without new bytes, the client has closed the connection.
            closed = len(fresh) <= getattr(conn, "seen", 0)
        except BlockingIOError:
            fresh, closed = b"", False
        except OSError:  # a broken connection; the thread that reads it handles the error
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
        """Start the next queued request.

        A pipelined request, which arrived together with the finished one, is queued like a new one.
        """
        if conn in self._active_conns:
            self._active_conns.remove(conn)
            self._last_progress_at = time.monotonic()
        super().finish_request(conn, fs)
        self._start_queued()
        # The poller does not report bytes that have been read already.
        if _buffered_bytes(conn) and self.keepalived_conns and self.keepalived_conns[-1] is conn:
            self.on_client_socket_readable(conn, conn.sock)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Dispatch events as gunicorn does, then shed queued requests that are stuck or have waited too long.

        While requests are queued, wait at most QUEUE_CHECK_INTERVAL_SECONDS for events.
        """
        # At shutdown gunicorn waits for idle connections as for running requests, and starts no replacement
        # until then. Let them time out after the grace period.
        if not self.alive:
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
        """Close the longest-idle connections until fewer than `max_conns` are open.

        Clients that open connections and send nothing would otherwise block all requests, probes included.
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
    """Return bytes that were read together with the previous request: the next request or its beginning."""
    unreader = getattr(conn.parser, "unreader", None)  # there is no parser before the first request
    return unreader.buf.getvalue()[:MAX_HEAD_BYTES] if unreader else b""


def _is_head_incomplete(conn: TConn, head: bytes) -> bool:
    # SO_RCVLOWAT has no effect on poll for Unix sockets. Their client is a proxy, which sends whole heads.
    if head and conn.sock.family == AF_UNIX:
        return False
    return len(head) < MAX_HEAD_BYTES and load_shedding.END not in head
