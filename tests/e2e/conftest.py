"""A copy of the project for tests that run it as a newcomer does, with an embedded server of its own."""

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
    """The project in a folder of its own; `.frontdesk` in it is nobody else's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        for name in ("app", "alembic"):
            shutil.copytree(PROJECT_ROOT / name, folder / name)
        for name in ("alembic.ini", "gunicorn.conf.py"):
            shutil.copy(PROJECT_ROOT / name, folder / name)

    def command(self, *arguments: str) -> list[str]:
        """`frontdesk` with the code of this folder."""
        return [sys.executable, "-c", CALL, *arguments]

    def servers(self) -> list[psutil.Process]:
        """The embedded server's processes, and what serves HTTP."""
        return [
            process
            for process in psutil.process_iter(["cmdline", "cwd"])
            if str(self.folder) in " ".join(process.info["cmdline"] or ())
            or (process.info["cwd"] == str(self.folder) and process.is_running())
        ]

    def wait_until_all_is_quiet(self) -> None:
        wait_until(lambda: not self.servers())


@pytest.fixture
def checkout() -> Iterator[Checkout]:
    folder = Path(tempfile.mkdtemp(prefix="up"))  # short: the path of a socket has a hundred characters
    folder.chmod(0o755)  # as root, the server runs as another user
    checkout = Checkout(folder)
    yield checkout
    for process in checkout.servers():
        process.kill()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def frontdesk(checkout: Checkout, tmp_path: Path) -> Iterator[StartFrontdesk]:
    """Starts commands: `frontdesk("up", DATABASE_URL=…)`; `up` on the checkout's own port."""
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
