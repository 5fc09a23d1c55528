"""Fixtures of the transfer tests: a legacy and a primary database, both at head."""

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
def long_default_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the default `max_pause` ten seconds, so that tests pass on a busy machine."""
    monkeypatch.setitem(change_live_side.__kwdefaults__, "max_pause", 10.0)


@pytest.fixture
def sides(new_database: Callable[[], str]) -> Sides:
    """Two empty databases at head, which only this test uses."""
    return Sides(Side("legacy", new_database()), Side("primary", new_database()))


@pytest.fixture
def legacy(sides: Sides) -> Iterator[psycopg.Connection[Any]]:
    """A session of another program on legacy, in autocommit mode."""
    with closing(psycopg.connect(sides.legacy.url, autocommit=True)) as connection:
        yield connection


@pytest.fixture
def primary(sides: Sides) -> Iterator[psycopg.Connection[Any]]:
    """A session of another program on primary, in autocommit mode."""
    with closing(psycopg.connect(sides.primary.url, autocommit=True)) as connection:
        yield connection


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Server, Server]]:
    """Two servers that tests of a module may kill and freeze."""
    pair = (Server(), Server())
    yield pair
    for server in pair:
        server.delete()


@pytest.fixture(scope="session")
def distant_servers() -> Iterator[tuple[Server, Server]]:
    """Two servers that listen on TCP ports, each with a template database at head."""
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
    """Two databases at head on separate servers, with TCP proxies to them."""
    for server in distant_servers:
        execute(server.url, "CREATE DATABASE moved TEMPLATE at_head STRATEGY FILE_COPY")
    urls = [url_of(server.url, "moved") for server in distant_servers]
    with ExitStack() as stack:
        lines = [stack.enter_context(TcpProxy(url)) for url in (*urls, *urls)]
        yield RemoteSides(Sides(Side("legacy", urls[0]), Side("primary", urls[1])), *lines)
    for server in distant_servers:
        execute(server.url, "DROP DATABASE moved WITH (FORCE)")
