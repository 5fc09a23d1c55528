"""Two databases of one move: a legacy and a primary, both at head."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import psycopg
import pytest

from app.migrations import runner
from app.transfer.cutover.cutover import change_live_side
from app.transfer.protocol.endpoints import Side, Sides
from tests.network import TcpProxy
from tests.processes import free_port
from tests.servers import Server, execute, url_of
from tests.transfer.distant import RemoteSides


@pytest.fixture(autouse=True)
def a_busy_machine_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A switch may close for long, unless a test says how long."""
    monkeypatch.setitem(change_live_side.__kwdefaults__, "max_pause", 10.0)


@pytest.fixture
def sides(new_database: Callable[[], str]) -> Sides:
    """Two empty databases at head, for this test alone."""
    return Sides(Side("legacy", new_database()), Side("primary", new_database()))


@pytest.fixture
def legacy(sides: Sides) -> Iterator[psycopg.Connection[Any]]:
    """A plain session of somebody who knows nothing of the move, in autocommit."""
    with closing(psycopg.connect(sides.legacy.url, autocommit=True)) as connection:
        yield connection


@pytest.fixture
def primary(sides: Sides) -> Iterator[psycopg.Connection[Any]]:
    """The same on primary."""
    with closing(psycopg.connect(sides.primary.url, autocommit=True)) as connection:
        yield connection


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Server, Server]]:
    """Two servers that tests may kill and freeze."""
    pair = (Server(), Server())
    yield pair
    for server in pair:
        server.delete()


@pytest.fixture(scope="session")
def distant_servers() -> Iterator[tuple[Server, Server]]:
    """Two servers that listen on ports, each with a template at head."""
    pair = (Server(free_port()), Server(free_port()))
    try:
        for server in pair:
            execute(server.url, "CREATE DATABASE at_head")
            runner.upgrade(url_of(server.url, "at_head"))
        yield pair
    finally:
        for server in pair:
            server.delete()


@pytest.fixture
def distant(distant_servers: tuple[Server, Server]) -> Iterator[RemoteSides]:
    """Two databases at head, on servers of their own, with lines to them."""
    for server in distant_servers:
        execute(server.url, "CREATE DATABASE moved TEMPLATE at_head STRATEGY FILE_COPY")
    urls = [url_of(server.url, "moved") for server in distant_servers]
    with ExitStack() as stack:
        lines = [stack.enter_context(TcpProxy(url)) for url in (*urls, *urls)]
        yield RemoteSides(Sides(Side("legacy", urls[0]), Side("primary", urls[1])), *lines)
    for server in distant_servers:
        execute(server.url, "DROP DATABASE moved WITH (FORCE)")
