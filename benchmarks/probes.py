"""P9 and P10: health checks under gunicorn, compared with a bare route, and with an exhausted pool."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.environment import Environment
from benchmarks.harness import Benchmark, Peer, Target

CONNECTIONS = 4
REQUESTS = 250  # per connection
START_TIMEOUT_SECONDS = 30.0  # for gunicorn to answer, and for each response
REPEATS = 15
PROJECT = Path(__file__).parents[1]


def beside_bare_flask(environment: Environment) -> list[Benchmark]:
    """Return the benchmarks of P9: rate of `GET /health`, compared with a bare Flask route."""
    ours = _serve(environment, "wsgi:app", "gunicorn.conf.py")
    bare = _serve(environment, "benchmarks.bare:app", _without_hooks(environment))
    peer = Peer("a bare Flask route under the same gunicorn", _rate(bare), Target(at_least=0.8))
    return [Benchmark("P9", "GET /health", "requests/s", _rate(ours), [peer], REPEATS)]


def exhausted_pool(environment: Environment) -> list[Benchmark]:
    """Return the benchmarks of P10: latency of `GET /health/database` while the pool is exhausted."""
    port = _serve(environment, "benchmarks.exhausted:app", "gunicorn.conf.py")
    ours, beside = (lambda path=path: _p99(port, path) for path in ("/health/database", "/health"))
    peer = Peer("p99 of GET /health of the same process", beside, Target(at_most=300, of_ours=True))
    work = "GET /health/database while the pool is exhausted, p99"
    return [Benchmark("P10", work, "ms", ours, [peer], REPEATS)]


def _without_hooks(environment: Environment) -> str:
    folder = environment.resources.enter_context(tempfile.TemporaryDirectory())
    settings = Path(folder) / "gunicorn.conf.py"
    settings.write_text('worker_class = "gthread"\nthreads = 8\ncontrol_socket_disable = True\n')
    return str(settings)


def _serve(environment: Environment, app: str, settings: str) -> int:
    """Start gunicorn and wait until it answers; return its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    command = [sys.executable, "-m", "gunicorn", "--config", settings, "--bind", f"127.0.0.1:{port}", app]
    process = subprocess.Popen(
        command,
        cwd=PROJECT,
        env=os.environ | {"DATABASE_URL": environment.url},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    environment.resources.callback(process.wait)
    environment.resources.callback(process.terminate)
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while True:
        try:
            _latencies(port, "/health", 1)
        except OSError:
            assert time.monotonic() < deadline, f"{app} does not answer"
            time.sleep(0.1)
        else:
            return port


def _latencies(port: int, path: str, requests: int = REQUESTS) -> list[float]:
    """Return the duration in seconds of each request, all on one keep-alive connection."""
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    latencies = []
    with socket.create_connection(("127.0.0.1", port), timeout=START_TIMEOUT_SECONDS) as connection:
        for _ in range(requests):
            began = time.perf_counter()
            connection.sendall(request)
            answer = connection.recv(65536)
            while (head := answer.find(b"\r\n\r\n")) < 0 or len(answer) < head + 4 + _length(answer[:head]):
                data = connection.recv(65536)
                if not data:
                    raise ConnectionError("the server has closed the connection")
                answer += data
            latencies.append(time.perf_counter() - began)
            assert answer.startswith(b"HTTP/1.1 200"), answer[:100]
    return latencies


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise ValueError("the response has no Content-Length")


def _at_once(port: int, path: str) -> tuple[list[float], float]:
    """Return the latencies of all connections, and the duration of the whole in seconds."""
    began = time.perf_counter()
    with ThreadPoolExecutor(CONNECTIONS) as threads:
        results = list(threads.map(lambda _: _latencies(port, path), range(CONNECTIONS)))
    return [latency for latencies in results for latency in latencies], time.perf_counter() - began


def _rate(port: int) -> Callable[[], float]:
    def measure() -> float:
        latencies, seconds = _at_once(port, "/health")
        return len(latencies) / seconds

    return measure


def _p99(port: int, path: str) -> float:
    """Return the 99th percentile of the latencies, in milliseconds."""
    latencies = sorted(_at_once(port, path)[0])
    return 1000 * latencies[int(0.99 * (len(latencies) - 1))]
