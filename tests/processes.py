"""Real processes for tests, with captured output; they are killed at the end of the test."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from tests.watching import outputs

TLS = httpx.create_ssl_context()  # shared, because each context loads all CA certificates
WAIT_TIMEOUT_SECONDS = 180.0  # so long that a busy machine causes no failure
BIN = Path(sys.executable).parent

# Processes that need no command line start faster as forks of a process that has imported the application.
FORK_SERVER = multiprocessing.get_context("forkserver")
FORK_SERVER.set_forkserver_preload(
    [
        "app.transfer.cutover.cutover",
        "app.transfer.relay.relay",
        "app.yclients.api.client",
        "tests.transfer.controllers",
        "tests.transfer.writers",
    ]
)


class Process:
    """A running command whose stdout and stderr are written to a file."""

    def __init__(self, command: list[str], output: Path, cwd: Path, **environment: str) -> None:
        self._output = output
        outputs.add(output)
        with output.open("w") as file:
            self._popen = subprocess.Popen(
                command,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=os.environ | environment,
                preexec_fn=restore_sigint,
            )
        self.pid = self._popen.pid

    @property
    def output(self) -> str:
        return self._output.read_text()

    def send(self, signal_: signal.Signals) -> None:
        self._popen.send_signal(signal_)

    def wait(self) -> int:
        """Wait until the process exits and return its exit code."""
        return self._popen.wait(WAIT_TIMEOUT_SECONDS)

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.pid).children()

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.pid).children(recursive=True)

    def is_running(self) -> bool:
        return self._popen.poll() is None

    def wait_for(self, text: str) -> None:
        """Wait until the output contains the text; fail if the process exits without it."""
        wait_until(lambda: text in self.output or self._popen.poll() is not None)
        assert text in self.output, self.output

    def end(self) -> None:
        """Kill the process and all its descendants, if it still runs."""
        if self.is_running():
            for process in [*self.descendants(), psutil.Process(self.pid)]:
                process.kill()
            self._popen.wait()


def restore_sigint() -> None:
    """Restore the default SIGINT handler: shells make background processes ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def running_process(command: list[str], output: Path, cwd: Path, **environment: str) -> Iterator[Process]:
    """Run a command during the `with` block; kill it at the end."""
    process = Process(command, output, cwd, **environment)
    try:
        yield process
    finally:
        process.end()


def wait_until(condition: Callable[[], bool]) -> None:
    """Poll until the condition is true; fail after WAIT_TIMEOUT_SECONDS."""
    deadline = time.monotonic() + WAIT_TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.05)


def free_port() -> int:
    """Return a local port that is not in use."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def get(port: int, path: str) -> httpx.Response:
    """Send a GET request to a local server over a new connection."""
    return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=10, trust_env=False, verify=TLS)


def is_serving(port: int) -> bool:
    """Return True if a server answers HTTP requests on the port."""
    try:
        get(port, "/health")
    except httpx.TransportError:
        return False
    return True
