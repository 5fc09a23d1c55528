"""Tests of `gunicorn wsgi:app` as deployments run it, with real processes and signals."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest

from app.config import PROJECT_ROOT
from tests.processes import BIN, Process, free_port, get, is_serving, running_process, wait_until

Starter = Callable[..., tuple[Process, int]]


@pytest.fixture
def gunicorn(tmp_path: Path) -> Iterator[Starter]:
    """Return a function that starts gunicorn on a free port, for example `gunicorn(url, "--preload")`."""
    with ExitStack() as stack:

        def start(database_url: str, *options: str, app: str = "wsgi:app") -> tuple[Process, int]:
            port = free_port()
            command = [str(BIN / "gunicorn"), "--bind", f"127.0.0.1:{port}", *options, app]
            process = stack.enter_context(
                running_process(command, tmp_path / "output", PROJECT_ROOT, DATABASE_URL=database_url)
            )
            return process, port

        yield start


def connections_of(url: str) -> int:
    with psycopg.connect(url) as connection:
        counted = connection.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE application_name = 'frontdesk' AND datname = current_database()"
        ).fetchone()
    return int(counted[0]) if counted else 0


@pytest.mark.parametrize("options", [(), ("--preload", "--workers", "3")])
def test_gunicorn_serves_requests_and_closes_all_database_connections_at_exit(
    gunicorn: Starter, database_url: str, options: tuple[str, ...]
) -> None:
    process, port = gunicorn(database_url, *options)
    wait_until(lambda: is_serving(port))
    for _ in range(12):
        assert get(port, "/health/ready").status_code == 200
        assert get(port, "/health/database").json()["database"]["connections"]["max"] == 3
    process.send(signal.SIGINT)
    assert process.wait() == 0
    wait_until(lambda: connections_of(database_url) == 0)


def test_a_worker_reports_not_ready_before_it_stops(gunicorn: Starter, database_url: str) -> None:
    process, port = gunicorn(database_url)
    wait_until(lambda: is_serving(port))
    with httpx.Client(trust_env=False) as client:
        process.send(signal.SIGTERM)
        wait_until(lambda: get(port, "/health/ready").status_code == 503)
        assert client.get(f"http://127.0.0.1:{port}/health/ready").json()["code"] == "shutting_down"
        began = time.monotonic()
        assert process.wait() == 0
        assert time.monotonic() - began < 20  # it does not wait for a client's idle connection


def test_a_killed_worker_is_replaced(gunicorn: Starter, database_url: str) -> None:
    process, port = gunicorn(database_url, "--preload")
    wait_until(lambda: is_serving(port))
    (worker,) = process.children()
    worker.kill()
    psutil.wait_procs([worker], timeout=10)
    wait_until(lambda: len(process.children()) == 1 and is_serving(port))
    assert get(port, "/health/ready").status_code == 200


@pytest.mark.parametrize("options", [(), pytest.param(("--preload",), marks=pytest.mark.full)])
def test_garbage_is_collected_after_the_imports(
    gunicorn: Starter, database_url: str, tmp_path: Path, options: tuple[str, ...]
) -> None:
    (tmp_path / "with_gc.py").write_text(
        "import gc\nfrom wsgi import app\napp.add_url_rule('/gc', view_func=lambda: str(gc.isenabled()))\n"
    )
    _, port = gunicorn(database_url, *options, "--pythonpath", str(tmp_path), app="with_gc:app")
    wait_until(lambda: is_serving(port))
    assert get(port, "/gc").text == "True"


@pytest.mark.parametrize("options", [(), ("--preload",)])
def test_an_invalid_configuration_is_reported_without_a_traceback(
    gunicorn: Starter, options: tuple[str, ...]
) -> None:
    process, _ = gunicorn("mysql://app_user:secret@somewhere", *options)
    assert process.wait() != 0
    assert "DATABASE_URL: is not a PostgreSQL URL" in process.output
    assert "Traceback" not in process.output
    assert "secret" not in process.output
