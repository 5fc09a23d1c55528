"""Events that real processes send to Sentry: one per unexpected failure, without personal data."""

import gzip
import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from sentry_sdk.envelope import Envelope

from app.config import PROJECT_ROOT
from tests.processes import BIN, Process, free_port, get, is_serving, running_process, wait_until
from tests.stopwatch import Stopwatch
from tests.watching import find_personal_data

NOWHERE = "postgresql://someone:s3cret@127.0.0.1:1/nowhere"
CLIENT = {"yclients_id": 1, "name": "Anna", "phone": "+79681234567"}

COMMAND = """
import sys
from app.cli import main
sys.argv[0] = "frontdesk"
main()
"""
# A bug in Frontdesk whose exception message contains personal data.
MISTAKE = """
import app.cli.import_files as imports

def import_files(desk, company_id, files, **options):
    rows = [open(file).read() for file in files]
    raise ZeroDivisionError(f"Anna +79681234567 {rows}")

imports.import_files = import_files
"""
LIBRARY = """
from app import Frontdesk
with Frontdesk.from_env() as desk:
    error = desk.company(1).upsert_client({"yclients_id": 1, "name": "Anna", "phone": "+79681234567"}).error
    assert error.code == "unavailable"
"""


class Sentry:
    """A fake Sentry server that stores received items. `answer` is the HTTP status of its responses."""

    def __init__(self) -> None:
        self.items: list[tuple[str, Any]] = []
        self.answer = 200
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                for item in Envelope.deserialize(body).items:
                    recorder.items.append((item.type or "", json.loads(item.get_bytes())))
                self.send_response(recorder.answer)
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: Any) -> None:
                """Do not log requests to stderr."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.dsn = f"http://key@127.0.0.1:{self._server.server_port}/1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        """Stop the server."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def events(self) -> list[Any]:
        """Received error events."""
        return [item for kind, item in self.items if kind == "event"]


@pytest.fixture
def sentry() -> Iterator[Sentry]:
    """Run a fake Sentry, and assert afterwards that it received no personal data."""
    sentry = Sentry()
    yield sentry
    sentry.close()
    assert find_personal_data(json.dumps(sentry.items, ensure_ascii=False)) == []


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a file with one client, to be imported."""
    file = tmp_path / "clients.json"
    file.write_text(json.dumps([CLIENT], ensure_ascii=False))
    return file


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Return a function that starts a Python program: `run(code, "import", …, SENTRY_DSN=…)`."""
    with ExitStack() as stack:

        def start(code: str, *arguments: str, **environment: str) -> Process:
            command = [sys.executable, "-c", code, *arguments]
            return stack.enter_context(
                running_process(command, tmp_path / "output", PROJECT_ROOT, **environment)
            )

        yield start


@pytest.mark.parametrize(
    ("code", "options", "exit_code", "kind"),
    [
        (COMMAND, [], 3, "UnavailableError"),
        (MISTAKE + COMMAND, [], 3, "ZeroDivisionError"),
        (MISTAKE.replace("Anna +79681234567 {rows}", "shown") + COMMAND, ["--debug"], 1, "ZeroDivisionError"),
    ],
    ids=["unreachable database", "bug", "bug with --debug"],
)
def test_a_failed_command_sends_one_event(
    run: Callable[..., Process],
    sentry: Sentry,
    file: Path,
    database_url: str,
    code: str,
    options: list[str],
    exit_code: int,
    kind: str,
) -> None:
    url = NOWHERE if kind == "UnavailableError" else database_url
    command = run(
        code, *options, "import", "--company", "1", str(file), DATABASE_URL=url, SENTRY_DSN=sentry.dsn
    )
    assert command.wait() == exit_code
    (event,) = sentry.events
    assert event["exception"]["values"][-1]["type"] == kind
    assert event["tags"]["service"] == "frontdesk"
    if not options:
        assert len(command.output.splitlines()) == 1
        assert event["tags"]["component"] == "cli"
        assert event["tags"]["operation"] == "import"


def test_rejected_rows_send_no_event(
    run: Callable[..., Process], sentry: Sentry, file: Path, database_url: str
) -> None:
    file.write_text(json.dumps([CLIENT | {"yclients_id": None}]))
    environment = {"DATABASE_URL": database_url, "SENTRY_DSN": sentry.dsn}
    assert run(COMMAND, "import", "--company", "1", str(file), **environment).wait() == 1
    assert sentry.events == []


@pytest.mark.parametrize("answer", [200, pytest.param(403, marks=pytest.mark.full)])
def test_a_failure_in_a_program_that_uses_the_library_is_sent_before_it_exits(
    run: Callable[..., Process], sentry: Sentry, answer: int
) -> None:
    sentry.answer = answer
    environment = {"DATABASE_URL": NOWHERE, "SENTRY_DSN": sentry.dsn, "POSTGRES_CONNECTION_TIMEOUT": "300"}
    assert run(LIBRARY, **environment).wait() == 0
    (event,) = sentry.events
    assert event["tags"]["operation"] == "upsert_client"
    assert event["tags"]["code"] == "unavailable"


def test_an_unresponsive_sentry_does_not_delay_requests(run: Callable[..., Process], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        dsn = f"http://key@127.0.0.1:{silent.getsockname()[1]}/1"
        port = free_port()
        command = [str(BIN / "gunicorn"), "--bind", f"127.0.0.1:{port}", "wsgi:app"]
        environment = {"DATABASE_URL": NOWHERE, "SENTRY_DSN": dsn, "POSTGRES_CONNECTION_TIMEOUT": "300"}
        with running_process(command, tmp_path / "served", PROJECT_ROOT, **environment):
            wait_until(lambda: is_serving(port))
            for _ in range(5):
                assert get(port, "/whatsapp/1/creds").status_code == 503
            with Stopwatch() as watch:
                assert get(port, "/health/live").status_code == 200
            assert watch.seconds < 1
