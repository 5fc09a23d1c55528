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

PROBES = 4  # threads
REFUSALS = 2  # threads
STUCK = 1.0  # seconds in which no work began or was finished, with all threads taken
PATIENCE = 5.0  # seconds in line
TICK = 0.2  # seconds between looks at the line
LAST_WORDS = 0.5  # seconds for a request that is on its way when the worker stops
HEAD = 4096  # bytes; whoever sent so many is taken to have sent a head


class Worker(ThreadWorker):  # type: ignore[misc] # gunicorn has no types
    """`threads` of the settings are those that work; the other lanes have their own.

    All but the handling of requests happens in gunicorn's main loop, one thing after the other.
    """

    def get_thread_pool(self) -> ThreadPoolExecutor:
        """Make the lanes; gunicorn's own pool is the one for work."""
        self._probes = ThreadPoolExecutor(PROBES, "probes")
        self._refusals = ThreadPoolExecutor(REFUSALS, "refusals", initializer=load_shedding.refuse_here)
        self._at_work: set[TConn] = set()
        self._line: deque[tuple[float, TConn]] = deque()
        self._moved = time.monotonic()
        return ThreadPoolExecutor(self.cfg.threads, "work")

    def enqueue_req(self, conn: TConn) -> None:
        """Give a connection its lane, or a place in line, when there is the head of a request."""
        try:
            fresh = conn.sock.recv(HEAD, MSG_PEEK | MSG_DONTWAIT)
            closed = len(fresh) <= getattr(conn, "seen", 0)  # or it would not have woken us
        except BlockingIOError:
            fresh, closed = b"", False
        except OSError:  # it is broken, as whoever reads it will find
            fresh, closed = b"", True
        head = _left_over(conn) + fresh
        if not closed and _is_unfinished(conn, head):
            self._wait_for_more_than(len(fresh), conn)
            return
        conn.data_ready, conn.seen = True, 0
        conn.sock.setsockopt(SOL_SOCKET, SO_RCVLOWAT, 1)
        if not head or load_shedding.is_probe(head):
            self._send(self._probes, conn)
        elif self._is_stuck():
            self._send(self._refusals, conn)
        else:
            self._line.append((time.monotonic(), conn))
            self._advance()

    def finish_request(self, conn: TConn, fs: "Future[Any]") -> None:
        """Let the next one in line work; a request that came along with this one has its turn later."""
        if conn in self._at_work:
            self._at_work.remove(conn)
            self._moved = time.monotonic()
        super().finish_request(conn, fs)
        self._advance()
        if _left_over(conn) and self.keepalived_conns and self.keepalived_conns[-1] is conn:
            self.on_client_socket_readable(conn, conn.sock)  # its socket may never wake us

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Look at the line now and then, as long as there is one."""
        if not self.alive:  # gunicorn would wait for the idle as for requests; nobody replaces it before
            end = time.monotonic() + LAST_WORDS
            for conn in (*self.keepalived_conns, *self.pending_conns):
                conn.timeout = min(conn.timeout, end)
        super().wait_for_and_dispatch_events(min(timeout, TICK) if self._line or not self.alive else timeout)
        self._make_room(self.worker_connections - len(self.sockets))
        latest = time.monotonic() - PATIENCE
        while self._line and (self._is_stuck() or self._line[0][0] < latest):
            self._send(self._refusals, self._line.popleft()[1])

    def _make_room(self, most: int) -> None:
        """Close the connections that have been idle for longest until there are fewer than `most`.

        Whoever opens connections and says nothing would else keep everybody out, probes too.
        """
        for idle in (self.pending_conns, self.keepalived_conns):
            while idle and self.nr_conns >= most:
                conn = idle.popleft()
                self.poller.unregister(conn.sock)
                self.nr_conns -= 1
                conn.close()
        if self._line and self.nr_conns >= most:
            self._send(self._refusals, self._line.popleft()[1])

    def _wait_for_more_than(self, count: int, conn: TConn) -> None:
        conn.seen = count
        conn.sock.setsockopt(SOL_SOCKET, SO_RCVLOWAT, count + 1)
        conn.sock.setblocking(False)
        conn.set_timeout()
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, EVENT_READ, partial(self.on_pending_socket_readable, conn))

    def _advance(self) -> None:
        while self._line and len(self._at_work) < self.cfg.threads:
            _, conn = self._line.popleft()
            self._at_work.add(conn)
            self._moved = time.monotonic()
            self._send(self.tpool, conn)

    def _send(self, lane: ThreadPoolExecutor, conn: TConn) -> None:
        done = lane.submit(self.handle, conn)
        done.add_done_callback(lambda future: self.method_queue.defer(self.finish_request, conn, future))

    def _is_stuck(self) -> bool:
        return len(self._at_work) >= self.cfg.threads and time.monotonic() - self._moved > STUCK


def _left_over(conn: TConn) -> bytes:
    """What was read together with the request before: the next one, or its beginning."""
    unreader = getattr(conn.parser, "unreader", None)  # there is no parser before the first request
    return unreader.buf.getvalue()[:HEAD] if unreader else b""


def _is_unfinished(conn: TConn, head: bytes) -> bool:
    if head and conn.sock.family == AF_UNIX:  # poll cannot wait for more there; but a proxy sends all at once
        return False
    return len(head) < HEAD and load_shedding.END not in head
