"""Slow, silent and pipelining clients do not block a gunicorn worker: raw sockets, real processes."""

import re
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from app.config import PROJECT_ROOT
from tests.processes import BIN, Process, free_port, get, is_serving, running_process, wait_until

Starter = Callable[..., tuple[Process, int]]


@contextmanager
def serving(output: Path, database_url: str, *options: str) -> Iterator[tuple[Process, int]]:
    """Run gunicorn on a free port; yield its process and the port once it answers."""
    port = free_port()
    command = [str(BIN / "gunicorn"), "--bind", f"127.0.0.1:{port}", *options, "wsgi:app"]
    with running_process(command, output, PROJECT_ROOT, DATABASE_URL=database_url) as process:
        wait_until(lambda: is_serving(port))
        yield process, port


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory, worker_database_url: str) -> Iterator[int]:
    """Return the port of a worker that accepts forty connections."""
    folder = tmp_path_factory.mktemp("gunicorn")
    with serving(folder / "output", worker_database_url, "--worker-connections", "40") as (_, port):
        yield port


@pytest.fixture
def gunicorn(tmp_path: Path, worker_database_url: str) -> Iterator[Starter]:
    """Return a function that starts gunicorn, for example `gunicorn("--threads", "1")`."""
    with ExitStack() as stack:
        yield lambda *options: stack.enter_context(
            serving(tmp_path / "output", worker_database_url, *options)
        )


def request_for(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: here", *headers, "", ""]).encode()


def connected(port: int, data: bytes = b"") -> socket.socket:
    """Open a connection to the port and send `data`."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.sendall(data)
    return connection


def test_pipelined_requests_are_answered_in_order(port: int) -> None:
    paths = ["/health", "/nowhere", "/health/live"]
    with connected(port) as connection:
        connection.sendall(
            b"".join(map(request_for, paths[:-1])) + request_for(paths[-1], "Connection: close")
        )
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200", b"404", b"200"]


@pytest.mark.parametrize("data", [b"", b"GET /hea"])
def test_many_silent_connections_do_not_block_a_probe(port: int, data: bytes) -> None:
    with ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(connected(port, data))
        assert get(port, "/health/live").status_code == 200


def test_a_worker_accepts_no_more_connections_than_it_may_open_files(gunicorn: Starter) -> None:
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, files[1]))
    try:
        process, port = gunicorn()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, files)
    (worker,) = process.children()
    with ExitStack() as stack:
        for _ in range(250):
            stack.enter_context(connected(port))
        assert get(port, "/health/ready").status_code == 200
    assert process.children() == [worker]


def test_probes_with_an_incomplete_body_or_head_do_not_delay_other_probes(port: int) -> None:
    with ExitStack() as stack:
        for _ in range(6):
            stack.enter_context(connected(port, request_for("/health", "content-length: 10")))
            stack.enter_context(connected(port, request_for("/health", f"X: {5000 * 'x'}")[:-2]))
        time.sleep(0.1)  # until the worker has received them
        with httpx.Client(trust_env=False, timeout=3) as client:
            assert client.get(f"http://127.0.0.1:{port}/health/live").status_code == 200


def test_idle_connections_do_not_delay_the_replacement_of_a_worker_after_max_requests(
    gunicorn: Starter,
) -> None:
    process, port = gunicorn("--max-requests", "5")
    (worker,) = process.children()
    with connected(port), connected(port, request_for("/health")) as idle:
        assert idle.recv(1000).startswith(b"HTTP/1.1 200")
        for _ in range(5):
            assert get(port, "/health").status_code == 200  # within httpx's default timeout of five seconds
    wait_until(lambda: process.children() not in ([worker], []))


def test_queued_requests_are_served_before_the_server_stops(gunicorn: Starter) -> None:
    process, port = gunicorn("--threads", "1")
    with ExitStack() as stack:
        slow = stack.enter_context(connected(port, request_for("/nowhere", "Content-Length: 2")))
        queued = [stack.enter_context(connected(port, request_for("/nowhere"))) for _ in range(3)]
        process.send(signal.SIGTERM)
        slow.sendall(b"{}")
        assert [connection.recv(1000)[:12] for connection in (slow, *queued)] == 4 * [b"HTTP/1.1 404"]
    assert process.wait() == 0
