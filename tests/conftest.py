"""One server for the run, one database for each worker, one company for each test.

Tenants are isolated, so tests that use a company of their own need neither a database of their own nor
an order. A test that must see a whole database takes `database_url`, a clone of a migrated template.
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

# How the controller tells the workers of pytest-xdist where the server is.
SERVER_URL_VARIABLE = "FRONTDESK_TEST_SERVER_URL"
RUN_ID_VARIABLE = "FRONTDESK_TEST_RUN"

hypothesis_settings.register_profile(
    "tests",
    deadline=None,  # two cores and a server: time says nothing
    database=None,
    print_blob=True,
    # Fixtures here are made for sharing: examples tell themselves apart by their own companies or rows.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
hypothesis_settings.load_profile("tests")

_server: Server | None = None
_numbers = itertools.count(1)


def pytest_configure(config: pytest.Config) -> None:
    """Start the server before the workers start; the environment decides nothing but where it is."""
    global _server
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


def pytest_collection_finish() -> None:
    """The tests stay until the end: garbage need not be looked for among them each time."""
    gc.freeze()


def pytest_unconfigure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput") or SERVER_URL_VARIABLE not in os.environ:
        return
    if _server is None:
        _drop(os.environ[SERVER_URL_VARIABLE], _name("template"))
    # Ours goes when the run has ended: nobody need wait until a thousand databases are removed.


@pytest.fixture(scope="session")
def server_url() -> str:
    """libpq URL of the maintenance database of a server that tests may use as they like."""
    return os.environ[SERVER_URL_VARIABLE]


@pytest.fixture(scope="session")
def template(server_url: str) -> str:
    """Name of a database at Alembic's head; the first worker that needs it builds it."""
    name = _name("template")
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(hashtext(%s))", (name,))
        known = connection.execute("SELECT FROM pg_database WHERE datname = %s", (name,)).fetchone()
        if known is None:
            connection.execute(f'CREATE DATABASE "{name}"')
            runner.upgrade(url_of(server_url, name))
    return name


@pytest.fixture(scope="session")
def new_database(server_url: str, template: str) -> Iterator[Callable[[], str]]:
    """Makes databases at head, and answers with their libpq URLs; all of them go at the end."""
    made: list[str] = []

    def make() -> str:
        made.append(_name(f"{os.getpid()}_{next(_numbers)}"))
        execute(server_url, f'CREATE DATABASE "{made[-1]}" TEMPLATE "{template}" STRATEGY FILE_COPY')
        return url_of(server_url, made[-1])

    yield make
    if "TEST_DATABASE_URL" not in os.environ:
        return  # the whole server goes; dropping a hundred databases takes half a minute
    for name in made:
        _drop(server_url, name)


@pytest.fixture
def database_url(new_database: Callable[[], str]) -> str:
    """libpq URL of an empty database at head, for this test alone."""
    return new_database()


@pytest.fixture(scope="session")
def worker_database_url(new_database: Callable[[], str]) -> str:
    """libpq URL of the database that the tests of this worker share."""
    return new_database()


@pytest.fixture(scope="session")
def settings(worker_database_url: str) -> Settings:
    """Settings with room for races."""
    return Settings(database_url=worker_database_url, postgres_max_connections=20)


@pytest.fixture(scope="session")
def desk(settings: Settings) -> Iterator[Frontdesk]:
    """The service on the worker's database. Keep to your own companies."""
    with Frontdesk(settings) as desk:
        yield desk


@pytest.fixture(scope="session")
def new_company(desk: Frontdesk) -> Callable[..., DataLayer]:
    """Makes companies that nobody else uses: `new_company(timezone="Asia/Kathmandu")`."""

    def make(**fields: Any) -> DataLayer:
        salon = desk.company(900_000 + next(_numbers))
        row = {"title": "Salon", "timezone": "Europe/Moscow", "country": "RU", **fields}
        salon.upsert_company(row).unwrap()
        return salon

    return make


@pytest.fixture
def company_id() -> int:
    """A company id that nobody uses yet."""
    return 900_000 + next(_numbers)


@pytest.fixture
def salon(desk: Frontdesk, company_id: int) -> DataLayer:
    """The data layer of a company that is known: Russian, in Moscow."""
    salon = desk.company(company_id)
    salon.upsert_company({"title": "Salon", "timezone": "Europe/Moscow", "country": "RU"}).unwrap()
    return salon


@pytest.fixture
def uow(desk: Frontdesk, salon: DataLayer) -> Iterator[UnitOfWork]:
    """A unit of work of `salon` that is rolled back in the end."""
    with desk.unit_of_work(salon.company_id) as uow:
        yield uow
        uow.session.rollback()


@pytest.fixture(scope="session")
def _sentry() -> SentryRecorder:
    """Sentry as production starts it, with every trace kept; what it sends stays here."""
    sentry.initialise(Settings(sentry_dsn="http://key@127.0.0.1:9/1", sentry_traces_sample_rate=1))
    recorder = sentry_sdk.get_client().transport = SentryRecorder()
    return recorder


@pytest.fixture(scope="session")
def _lines() -> Iterator[LogRecorder]:
    lines = LogRecorder()
    logging.getLogger().addHandler(lines)
    logging.getLogger("app").setLevel(logging.INFO)
    yield lines
    logging.getLogger().removeHandler(lines)


@pytest.fixture
def sent(_sentry: SentryRecorder) -> SentryRecorder:
    """What this test sends to Sentry."""
    return _sentry


@pytest.fixture(autouse=True)
def nothing_leaks(
    request: pytest.FixtureRequest, _sentry: SentryRecorder, _lines: LogRecorder
) -> Iterator[None]:
    """No test may let a person into the log, into Sentry or into what a process writes.

    Nor may it run one statement ten times for ten rows.
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
    """Whatever is asked for over the network, no test may get it."""
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
