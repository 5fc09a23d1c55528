"""Fixtures that run `frontdesk` from a copy of the project, with an embedded server in that copy."""

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from app.config import PROJECT_ROOT
from tests.processes import Process, free_port, running_process, wait_until

CALL = "import sys; from app.cli import main; sys.argv[0] = 'frontdesk'; main()"

StartFrontdesk = Callable[..., Process]


class Checkout:
    """A copy of the project in a temporary folder, with its own `.frontdesk` and a free port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        for name in ("app", "alembic"):
            shutil.copytree(PROJECT_ROOT / name, folder / name)
        for name in ("alembic.ini", "gunicorn.conf.py"):
            shutil.copy(PROJECT_ROOT / name, folder / name)

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of `frontdesk` that runs the code of this folder."""
        return [sys.executable, "-c", CALL, *arguments]

    def servers(self) -> list[psutil.Process]:
        """Return the running processes of the embedded server and of the HTTP service."""
        return [
            process
            for process in psutil.process_iter(["cmdline", "cwd"])
            if str(self.folder) in " ".join(process.info["cmdline"] or ())
            or (process.info["cwd"] == str(self.folder) and process.is_running())
        ]

    def wait_until_all_is_quiet(self) -> None:
        """Wait until no process of this folder runs."""
        wait_until(lambda: not self.servers())


@pytest.fixture
def checkout() -> Iterator[Checkout]:
    """Copy the project; afterwards kill its processes and remove it."""
    folder = Path(tempfile.mkdtemp(prefix="up"))  # short: a socket path is limited to about 100 characters
    folder.chmod(0o755)  # a server started by root runs as another user
    checkout = Checkout(folder)
    yield checkout
    for process in checkout.servers():
        process.kill()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def frontdesk(checkout: Checkout, tmp_path: Path) -> Iterator[StartFrontdesk]:
    """Return a function that starts a command: `frontdesk("up", DATABASE_URL=…)`.

    `up` listens on the port of the checkout. The processes are killed after the test.
    """
    with ExitStack() as stack:
        outputs = (tmp_path / f"output{number}" for number in range(100))

        def start(*arguments: str, **environment: str) -> Process:
            if arguments[-1] == "up":
                arguments = (*arguments, "--port", str(checkout.port))
            command = checkout.command(*arguments)
            return stack.enter_context(
                running_process(command, next(outputs), checkout.folder, **environment)
            )

        yield start
