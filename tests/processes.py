"""Real processes for tests: started, watched, and never left behind."""

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

WAIT_TIMEOUT_SECONDS = 180.0  # seconds; a busy machine is no failure
BIN = Path(sys.executable).parent


class Process:
    """A running command whose output goes into a file."""

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
        """The exit code."""
        return self._popen.wait(WAIT_TIMEOUT_SECONDS)

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.pid).children()

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.pid).children(recursive=True)

    def is_running(self) -> bool:
        return self._popen.poll() is None

    def wait_for(self, text: str) -> None:
        """Wait until the output holds the text."""
        wait_until(lambda: text in self.output or self._popen.poll() is not None)
        assert text in self.output, self.output

    def end(self) -> None:
        """Kill the process and all its children, if they still run."""
        if self.is_running():
            for process in [*self.descendants(), psutil.Process(self.pid)]:
                process.kill()
            self._popen.wait()


def restore_sigint() -> None:
    """A shell lets what it runs in the background ignore Ctrl-C, and children inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def running_process(command: list[str], output: Path, cwd: Path, **environment: str) -> Iterator[Process]:
    """A command that runs during the `with` block."""
    process = Process(command, output, cwd, **environment)
    try:
        yield process
    finally:
        process.end()


def wait_until(condition: Callable[[], bool]) -> None:
    """Poll until the condition holds, or fail."""
    deadline = time.monotonic() + WAIT_TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def get(port: int, path: str) -> httpx.Response:
    """GET from a local server; a new connection each time."""
    return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=10, trust_env=False)


def is_serving(port: int) -> bool:
    """Whether somebody serves HTTP there."""
    try:
        get(port, "/health")
    except httpx.TransportError:
        return False
    return True
