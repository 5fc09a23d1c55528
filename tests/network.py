"""A line to a server that tests can cut, let fall silent, slow down and heal: a TCP proxy."""

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

_CHUNK = 16_384
_ATTACH_FILTER, _DETACH_FILTER = 26, 27  # Linux: SO_ATTACH_FILTER, SO_DETACH_FILTER
_DROP = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF: return 0
_RST = struct.pack("ii", 1, 0)  # SO_LINGER: close without a goodbye


class TcpProxy:
    """A port that leads to a server's. Every method may be called at any moment, from any thread."""

    def __init__(self, server_url: str) -> None:
        """`server_url` holds a host and a port."""
        self._server = urlsplit(server_url)
        self.delay, self.rate = 0.0, 0  # seconds each way; bytes a second of a connection each way, 0: any
        self._traps: list[_FaultTrigger] = []
        self._links: set[_Link] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._listener = self._listen(0)
        self.port = self._listener.getsockname()[1]
        self._call(self._accept_on(self._listener))

    @property
    def url(self) -> str:
        """The server's URL, along this line."""
        return self._server._replace(netloc=f"{self._server.username}@127.0.0.1:{self.port}").geturl()

    def cut(self) -> None:
        """Reset every connection, and refuse new ones."""
        self._call(self._cut())

    def black_hole(self) -> None:
        """Let every packet vanish: nobody is told, nothing is acknowledged, attempts to connect hang."""
        self._call(self._silence(drops=True))

    def mute(self) -> None:
        """Let the line accept whatever is sent or connects, and pass nothing on."""
        self._call(self._silence(drops=False))

    def slow(self, delay: float = 0.0, rate: int = 0) -> None:
        """From now on so many seconds each way, and so many bytes a second."""
        self.delay, self.rate = delay, rate

    def heal(self) -> None:
        """All is well again; what was held up on connections that still stand arrives."""
        self._call(self._heal())

    def inject_fault_on(self, pattern: bytes, fault: "NetworkFault", at: "TriggerPoint" = "answer") -> None:
        """Once somebody sends `pattern`: `fault`, before the server gets it or before its answer gets back.

        A number: when so many bytes of what follows have passed, in either direction.
        """
        self._traps.append(_FaultTrigger(pattern, fault, at))

    @property
    def have_all_faults_fired(self) -> bool:
        """Whether every fault that was arranged with `inject_fault_on` has happened."""
        return not self._traps

    def close(self) -> None:
        """End all connections and the thread."""
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

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
            for each in (link.client, server):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ways = [link.pass_on(link.client, server), link.pass_on(server, link.client)]
            tasks = [self._loop.create_task(way) for way in ways]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        except OSError:
            pass  # the server refuses, or is gone: so is this connection
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
            for each in self._sockets():
                each.setsockopt(
                    socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(_DROP))
                )

    async def _slow(self, delay: float) -> None:
        self.delay = delay

    async def _heal(self) -> None:
        self.delay, self.rate = 0.0, 0
        self._traps.clear()
        if self._listener.fileno() == -1:
            self._listener = self._listen(self.port)
            await self._accept_on(self._listener)
        for each in self._sockets():
            with suppress(OSError):  # it has none
                each.setsockopt(socket.SOL_SOCKET, _DETACH_FILTER, 0)
        self._flowing.set()

    def _sockets(self) -> list[socket.socket]:
        ends = [end for link in self._links for end in (link.client, link.server) if end is not None]
        return [each for each in (self._listener, *ends) if each.fileno() != -1]


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

    def springs(self, is_answer: bool, passed: int) -> bool:
        """On what arrives after the pattern, which is that itself as long as nothing has passed."""
        if self.at == "answer":
            return is_answer
        return self.at == "request" or passed > self.at


class _Link:
    """One client's connection."""

    def __init__(self, line: TcpProxy, client: socket.socket) -> None:
        client.setblocking(False)
        self.client = client
        self.server: socket.socket | None = None
        self.task: asyncio.Task[None] | None = None
        self._line = line
        self._trap: _FaultTrigger | None = None
        self._passed = 0
        self._is_cut = False

    def cut(self) -> None:
        self._is_cut = True
        for each in (self.client, self.server):
            if each is not None and each.fileno() != -1:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
        if self.task is not None:
            self.task.cancel()

    def close(self) -> None:
        for each in (self.client, self.server):
            if each is not None:
                each.close()

    async def pass_on(self, from_: socket.socket, to: socket.socket) -> None:
        """Until one of the two ends."""
        loop = asyncio.get_running_loop()
        way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)
        arriving = loop.create_task(self._deliver(way, to))
        try:
            while data := await loop.sock_recv(from_, _CHUNK):
                await way.put((loop.time() + self._line.delay, data))
            await way.put((0.0, b""))
            await arriving
        finally:
            arriving.cancel()

    async def _deliver(self, way: "asyncio.Queue[tuple[float, bytes]]", to: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, data = await way.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            await self._line._flowing.wait()
            if not data:
                return
            if (trap := self._sprung(data, is_answer=to is self.client)) is not None:
                await trap.fault(self._line)
                await self._line._flowing.wait()
                if self._is_cut:
                    return
            await loop.sock_sendall(to, data)
            if self._line.rate:
                await asyncio.sleep(len(data) / self._line.rate)

    def _sprung(self, data: bytes, is_answer: bool) -> _FaultTrigger | None:
        traps = self._line._traps
        if self._trap not in traps:
            self._trap = None if is_answer else next((each for each in traps if each.pattern in data), None)
            self._passed = 0
        else:
            self._passed += len(data)
        if self._trap is None or not self._trap.springs(is_answer, self._passed):
            return None
        traps.remove(self._trap)
        return self._trap
