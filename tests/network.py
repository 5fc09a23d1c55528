"""A TCP proxy in front of a server, which tests can cut, silence, slow down and heal."""

import asyncio
import ctypes
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Self
from urllib.parse import urlsplit

_CHUNK_BYTES = 16_384
_ATTACH_FILTER, _DETACH_FILTER = 26, 27  # Linux: SO_ATTACH_FILTER, SO_DETACH_FILTER
_DROP = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF: return 0
_RST = struct.pack("ii", 1, 0)  # SO_LINGER with timeout 0: close sends RST instead of FIN


class TcpProxy:
    """A local port that forwards connections to a server. Its methods are thread-safe."""

    def __init__(self, server_url: str) -> None:
        """Start the proxy. `server_url` must have a host and a port."""
        self._server = urlsplit(server_url)
        # Delay in seconds, and bytes per second of a connection, in each direction; a rate of 0 is unlimited.
        self.delay, self.rate = 0.0, 0
        self._triggers: list[_FaultTrigger] = []
        self._links: set[_Link] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._listener = self._listen(0)
        self.port = self._listener.getsockname()[1]
        self._call(self._accept_on(self._listener))

    @property
    def url(self) -> str:
        """The server's URL through this proxy."""
        return self._server._replace(netloc=f"{self._server.username}@127.0.0.1:{self.port}").geturl()

    def cut(self) -> None:
        """Reset every connection and refuse new ones."""
        self._call(self._cut())

    def black_hole(self) -> None:
        """Drop every packet without any response: nothing is acknowledged, and attempts to connect hang."""
        self._call(self._silence(drops=True))

    def mute(self) -> None:
        """Accept connections and data, but forward nothing."""
        self._call(self._silence(drops=False))

    def slow(self, delay: float = 0.0, rate: int = 0) -> None:
        """Delay data by `delay` seconds and limit it to `rate` bytes per second (0: no limit), each way."""
        self.delay, self.rate = delay, rate

    def heal(self) -> None:
        """Remove all faults. Delayed data of connections that are still open is delivered."""
        self._call(self._heal())

    def inject_fault_on(self, pattern: bytes, fault: "NetworkFault", at: "TriggerPoint" = "answer") -> None:
        """Inject `fault` once, on a connection whose client sends `pattern`.

        `at` is "request" (before the server receives the pattern), "answer" (before the client receives the
        server's response), or a number of bytes: when that many bytes after the pattern have passed, in
        either direction.
        """
        self._triggers.append(_FaultTrigger(pattern, fault, at))

    @property
    def have_all_faults_fired(self) -> bool:
        """True if every fault requested with `inject_fault_on` has happened."""
        return not self._triggers

    def close(self) -> None:
        """Close all connections and stop the thread."""
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    def _listen(self, port: int) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(128)
        listener.setblocking(False)
        self._flowing = asyncio.Event()
        self._flowing.set()
        return listener

    async def _accept_on(self, listener: socket.socket) -> None:
        self._accepting = self._loop.create_task(self._accept(listener))

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            client, _ = await self._loop.sock_accept(listener)
            link = _Link(self, client)
            self._links.add(link)
            link.task = self._loop.create_task(self._carry(link))

    async def _carry(self, link: "_Link") -> None:
        try:
            await self._flowing.wait()
            server = link.server = socket.socket()
            server.setblocking(False)
            await self._loop.sock_connect(server, (self._server.hostname, self._server.port))
            for end in (link.client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            directions = [link.pass_on(link.client, server), link.pass_on(server, link.client)]
            tasks = [self._loop.create_task(direction) for direction in directions]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        except OSError:
            pass  # the server refused or lost the connection, so the client's connection is closed too
        finally:
            self._links.discard(link)
            link.close()

    async def _cut(self) -> None:
        self._accepting.cancel()
        self._listener.close()
        for link in [*self._links]:
            link.cut()

    async def _end(self) -> None:
        ending = [link.task for link in self._links if link.task is not None]
        await self._cut()
        await asyncio.gather(self._accepting, *ending, return_exceptions=True)

    async def _silence(self, drops: bool) -> None:
        self._flowing.clear()
        if drops:
            for end in self._sockets():
                end.setsockopt(
                    socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(_DROP))
                )

    async def _slow(self, delay: float) -> None:
        self.delay = delay

    async def _heal(self) -> None:
        self.delay, self.rate = 0.0, 0
        self._triggers.clear()
        if self._listener.fileno() == -1:
            self._listener = self._listen(self.port)
            await self._accept_on(self._listener)
        for end in self._sockets():
            with suppress(OSError):  # this socket has no filter
                end.setsockopt(socket.SOL_SOCKET, _DETACH_FILTER, 0)
        self._flowing.set()

    def _sockets(self) -> list[socket.socket]:
        ends = [end for link in self._links for end in (link.client, link.server) if end is not None]
        return [end for end in (self._listener, *ends) if end.fileno() != -1]


NetworkFault = Callable[[TcpProxy], Coroutine[Any, Any, None]]
CUT: NetworkFault = TcpProxy._cut
BLACK_HOLE: NetworkFault = partial(TcpProxy._silence, drops=True)
MUTE: NetworkFault = partial(TcpProxy._silence, drops=False)
SLOW: NetworkFault = partial(TcpProxy._slow, delay=0.4)
TriggerPoint = Literal["request", "answer"] | int


@dataclass(frozen=True, eq=False)
class _FaultTrigger:
    pattern: bytes
    fault: NetworkFault
    at: TriggerPoint

    def fires_on(self, is_answer: bool, passed: int) -> bool:
        """Return True if data fires the fault. `passed` counts the bytes after the pattern, 0 for itself."""
        if self.at == "answer":
            return is_answer
        return self.at == "request" or passed > self.at


class _Link:
    """One client's connection through the proxy."""

    def __init__(self, proxy: TcpProxy, client: socket.socket) -> None:
        client.setblocking(False)
        self.client = client
        self.server: socket.socket | None = None
        self.task: asyncio.Task[None] | None = None
        self._proxy = proxy
        self._trigger: _FaultTrigger | None = None
        self._passed = 0
        self._is_cut = False

    def cut(self) -> None:
        """Reset both ends."""
        self._is_cut = True
        for end in (self.client, self.server):
            if end is not None and end.fileno() != -1:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
        if self.task is not None:
            self.task.cancel()

    def close(self) -> None:
        """Close both ends."""
        for end in (self.client, self.server):
            if end is not None:
                end.close()

    async def pass_on(self, from_: socket.socket, to: socket.socket) -> None:
        """Forward data in one direction until the sender closes the connection."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)
        delivery = loop.create_task(self._deliver(queue, to))
        try:
            while data := await loop.sock_recv(from_, _CHUNK_BYTES):
                await queue.put((loop.time() + self._proxy.delay, data))
            await queue.put((0.0, b""))
            await delivery
        finally:
            delivery.cancel()

    async def _deliver(self, queue: "asyncio.Queue[tuple[float, bytes]]", to: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, data = await queue.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            await self._proxy._flowing.wait()
            if not data:
                return
            if (trigger := self._fired(data, is_answer=to is self.client)) is not None:
                await trigger.fault(self._proxy)
                await self._proxy._flowing.wait()
                if self._is_cut:
                    return
            await loop.sock_sendall(to, data)
            if self._proxy.rate:
                await asyncio.sleep(len(data) / self._proxy.rate)

    def _fired(self, data: bytes, is_answer: bool) -> _FaultTrigger | None:
        triggers = self._proxy._triggers
        if self._trigger not in triggers:
            matching = (trigger for trigger in triggers if trigger.pattern in data)
            self._trigger = None if is_answer else next(matching, None)
            self._passed = 0
        else:
            self._passed += len(data)
        if self._trigger is None or not self._trigger.fires_on(is_answer, self._passed):
            return None
        triggers.remove(self._trigger)
        return self._trigger
