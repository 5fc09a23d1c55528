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

from app.web import admission

PROBES = 4  # threads
REFUSALS = 2  # threads
STUCK = 1.0  # seconds in which no work began or was finished, with all threads taken
PATIENCE = 5.0  # seconds in line
TICK = 0.2  # seconds between looks at the line
HEAD = 4096  # bytes; whoever sent so many is taken to have sent a head


class Worker(ThreadWorker):  # type: ignore[misc] # gunicorn has no types
    """`threads` of the settings are those that work; the other lanes have their own.

    All but the handling of requests happens in gunicorn's main loop, one thing after the other.
    """

    def get_thread_pool(self) -> ThreadPoolExecutor:
        """Make the lanes; gunicorn's own pool is the one for work."""
        self._probes = ThreadPoolExecutor(PROBES, "probes")
        self._refusals = ThreadPoolExecutor(REFUSALS, "refusals", initializer=admission.refuse_here)
        self._at_work: set[TConn] = set()
        self._line: deque[tuple[float, TConn]] = deque()
        self._moved = time.monotonic()
        return ThreadPoolExecutor(self.cfg.threads, "work")

    def enqueue_req(self, conn: TConn) -> None:
        """Give a connection its lane, or a place in line, when there is the head of a request."""
        try:
            head = conn.sock.recv(HEAD, MSG_PEEK | MSG_DONTWAIT)
        except BlockingIOError:
            self._wait_for_more_than(0, conn)
            return
        except OSError:  # it is broken, as whoever reads it will find
            head = b""
        if self._will_say_more(conn, head):
            self._wait_for_more_than(len(head), conn)
            return
        conn.data_ready, conn.seen = True, 0
        conn.sock.setsockopt(SOL_SOCKET, SO_RCVLOWAT, 1)
        if not head or admission.is_probe(head):
            self._send(self._probes, conn)
        elif self._is_stuck():
            self._send(self._refusals, conn)
        else:
            self._line.append((time.monotonic(), conn))
            self._advance()

    def finish_request(self, conn: TConn, fs: "Future[Any]") -> None:
        """Let the next one in line work."""
        if conn in self._at_work:
            self._at_work.remove(conn)
            self._moved = time.monotonic()
        super().finish_request(conn, fs)
        self._advance()

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Look at the line now and then, as long as there is one."""
        super().wait_for_and_dispatch_events(min(timeout, TICK) if self._line else timeout)
        latest = time.monotonic() - PATIENCE
        while self._line and (self._is_stuck() or self._line[0][0] < latest):
            self._send(self._refusals, self._line.popleft()[1])

    def _will_say_more(self, conn: TConn, head: bytes) -> bool:
        if conn.sock.family == AF_UNIX:  # poll cannot wait for more there; but a proxy sends all at once
            return False
        closed = len(head) <= getattr(conn, "seen", 0)  # or it would not have woken us
        return not closed and len(head) < HEAD and b"\r\n\r\n" not in head

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
