"""Shared fixtures: one server per test run, one database per pytest-xdist worker, one company per test.

Tenants are isolated, so tests with their own company can share a database and run in any order. A test that
needs a whole database uses `database_url`, a copy of a migrated template.
"""

import gc
import itertools
import json
import logging
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
import sentry_sdk
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from app import Frontdesk, Settings
from app.data_layer import DataLayer
from app.data_layer.unit_of_work import UnitOfWork
from app.migrations import runner
from app.observability import sentry, slow_queries
from tests.servers import Server, execute, url_of
from tests.watching import LogRecorder, SentryRecorder, find_personal_data, outputs, repetitions

# The controller of pytest-xdist passes the server to the workers in these environment variables.
SERVER_URL_VARIABLE = "FRONTDESK_TEST_SERVER_URL"
RUN_ID_VARIABLE = "FRONTDESK_TEST_RUN"

MAX_ID_CHARS = 60

hypothesis_settings.register_profile(
    "tests",
    deadline=None,  # examples use the database, so their durations vary widely
    database=None,
    print_blob=True,
    # Function-scoped fixtures are safe to share: each example uses its own companies or rows.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
hypothesis_settings.load_profile("tests")

_server: Server | None = None
_numbers = itertools.count(1)


def pytest_configure(config: pytest.Config) -> None:
    """Start the server before the workers, and remove settings from the environment.

    TEST_DATABASE_URL names a server to use instead.
    """
    global _server
    gc.disable()  # until the tests have been collected
    for name in Settings.model_fields:
        os.environ.pop(name.upper(), None)
    os.environ["ENVIRONMENT"] = "test"
    if hasattr(config, "workerinput") or config.option.collectonly:
        return
    os.environ[RUN_ID_VARIABLE] = str(os.getpid())
    if "TEST_DATABASE_URL" in os.environ:
        os.environ[SERVER_URL_VARIABLE] = os.environ["TEST_DATABASE_URL"]
    else:
        _server = Server()
        os.environ[SERVER_URL_VARIABLE] = _server.url


def pytest_make_parametrize_id(val: object) -> str | None:
    """Shorten long texts in the names of tests. Each worker sends all names to the controller."""
    if isinstance(val, str | bytes) and len(val) > MAX_ID_CHARS:
        return f"{val[:MAX_ID_CHARS]!a} and more, {len(val)} in all"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run groups first: a group runs in one process, and would be the last to finish if it began late."""
    items.sort(key=lambda item: item.get_closest_marker("xdist_group") is None)


def pytest_collection_finish() -> None:
    """Spend less time in garbage collection. The collected tests exist until the end of the run."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    gc.enable()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Drop the template database from a server that the tests did not start."""
    if hasattr(config, "workerinput") or SERVER_URL_VARIABLE not in os.environ:
        return
    if _server is None:
        _drop(os.environ[SERVER_URL_VARIABLE], _name("template"))
    # A server that the tests started is removed by its guard process after the run, without delaying it.


@pytest.fixture(scope="session")
def server_url() -> str:
    """Return the libpq URL of the maintenance database of the server for tests."""
    return os.environ[SERVER_URL_VARIABLE]


@pytest.fixture(scope="session")
def template(server_url: str) -> str:
    """Return the name of a database at Alembic's head, created by the first worker that needs it."""
    name = _name("template")
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(hashtext(%s))", (name,))
        exists = connection.execute("SELECT FROM pg_database WHERE datname = %s", (name,)).fetchone()
        if exists is None:
            connection.execute(f'CREATE DATABASE "{name}"')
            runner.upgrade(url_of(server_url, name))
    return name


@pytest.fixture(scope="session")
def new_database(server_url: str, template: str) -> Iterator[Callable[[], str]]:
    """Yield a function that creates a database at head and returns its libpq URL; drop all at the end."""
    made: list[str] = []

    def make() -> str:
        made.append(_name(f"{os.getpid()}_{next(_numbers)}"))
        execute(server_url, f'CREATE DATABASE "{made[-1]}" TEMPLATE "{template}" STRATEGY FILE_COPY')
        return url_of(server_url, made[-1])

    yield make
    if "TEST_DATABASE_URL" not in os.environ:
        return  # the whole server is removed; dropping a hundred databases would take half a minute
    for name in made:
        _drop(server_url, name)


@pytest.fixture
def database_url(new_database: Callable[[], str]) -> str:
    """Return the libpq URL of an empty database at head, for this test only."""
    return new_database()


@pytest.fixture(scope="session")
def worker_database_url(new_database: Callable[[], str]) -> str:
    """Return the libpq URL of the database that the tests of this worker share."""
    return new_database()


@pytest.fixture(scope="session")
def settings(worker_database_url: str) -> Settings:
    """Return settings with enough connections for tests of races."""
    return Settings(database_url=worker_database_url, postgres_max_connections=20)


@pytest.fixture(scope="session")
def desk(settings: Settings) -> Iterator[Frontdesk]:
    """Yield a Frontdesk on the worker's database. A test must use only its own companies."""
    with Frontdesk(settings) as desk:
        yield desk


@pytest.fixture(scope="session")
def new_company(desk: Frontdesk) -> Callable[..., DataLayer]:
    """Return a function that creates a company for one test: `new_company(timezone="Asia/Kathmandu")`."""

    def make(**fields: Any) -> DataLayer:
        salon = desk.company(900_000 + next(_numbers))
        row = {"title": "Salon", "timezone": "Europe/Moscow", "country": "RU", **fields}
        salon.upsert_company(row).unwrap()
        return salon

    return make


@pytest.fixture
def company_id() -> int:
    """Return an unused company id."""
    return 900_000 + next(_numbers)


@pytest.fixture
def salon(desk: Frontdesk, company_id: int) -> DataLayer:
    """Create a Russian company in Moscow, and return its data layer."""
    salon = desk.company(company_id)
    salon.upsert_company({"title": "Salon", "timezone": "Europe/Moscow", "country": "RU"}).unwrap()
    return salon


@pytest.fixture
def uow(desk: Frontdesk, salon: DataLayer) -> Iterator[UnitOfWork]:
    """Yield a unit of work of `salon`, which is rolled back after the test."""
    with desk.unit_of_work(salon.company_id) as uow:
        yield uow
        uow.session.rollback()


@pytest.fixture(scope="session")
def _sentry() -> SentryRecorder:
    """Initialise Sentry as in production, but sample every trace and record payloads instead of sending."""
    sentry.initialise(Settings(sentry_dsn="http://key@127.0.0.1:9/1", sentry_traces_sample_rate=1))
    recorder = sentry_sdk.get_client().transport = SentryRecorder()
    return recorder


@pytest.fixture(scope="session")
def _lines() -> Iterator[LogRecorder]:
    """Record every log line of the run."""
    lines = LogRecorder()
    logging.getLogger().addHandler(lines)
    logging.getLogger("app").setLevel(logging.INFO)
    yield lines
    logging.getLogger().removeHandler(lines)


@pytest.fixture
def sent(_sentry: SentryRecorder) -> SentryRecorder:
    """Return the recorder of the payloads that this test sends to Sentry."""
    return _sentry


@pytest.fixture(autouse=True)
def nothing_leaks(
    request: pytest.FixtureRequest, _sentry: SentryRecorder, _lines: LogRecorder
) -> Iterator[None]:
    """Fail a test that writes personal data to the log, to Sentry or to the output of a process.

    Also fail a test in which a unit of work runs the same statement ten times (N+1), unless it has the marker
    `repeats_statements`.
    """
    _sentry.payloads.clear()
    _lines.lines.clear()
    slow_queries._own.clear()
    before = repetitions()
    yield
    assert find_personal_data(json.dumps(_sentry.payloads, ensure_ascii=False)) == []
    assert find_personal_data("\n".join(_lines.lines)) == []
    assert find_personal_data(outputs.new()) == []
    if request.node.get_closest_marker("repeats_statements") is None:
        assert repetitions() == before, "N+1: a unit of work has run the same statement ten times"


@pytest.fixture(scope="session", autouse=True)
def only_local_sockets() -> Iterator[None]:
    """Fail any attempt of a test to connect to another host."""
    connect = socket.socket.connect

    def connect_locally(self: socket.socket, address: Any) -> None:
        host = address[0] if isinstance(address, tuple) else "localhost"
        if host not in ("127.0.0.1", "::1", "localhost"):
            raise RuntimeError(f"a test tried to reach {host}")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect_locally)
        yield


def _name(part: str) -> str:
    return f"frontdesk_test_{os.environ[RUN_ID_VARIABLE]}_{part}"


def _drop(server_url: str, name: str) -> None:
    execute(server_url, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
