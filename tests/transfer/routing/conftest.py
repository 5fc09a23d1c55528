"""Two databases behind one data layer."""

from collections.abc import Callable, Iterator

import pytest

from app import Frontdesk
from app.observability import sentry
from tests.moves import NAME, SALON, Move
from tests.servers import execute


@pytest.fixture(scope="package")
def pair(new_database: Callable[[], str]) -> Move:
    return Move(new_database(), new_database())


@pytest.fixture
def move(pair: Move) -> Iterator[Move]:
    """Two empty databases at head."""
    yield pair
    pair.forget()
    sentry.backend = sentry.ONE_DATABASE


@pytest.fixture
def started(move: Move) -> Move:
    """The same with a move that has begun, and the company on both sides."""
    for url, title in ((move.legacy, "legacy"), (move.primary, "primary")):
        execute(url, f"INSERT INTO companies (company_id, title) VALUES ({SALON}, '{title}')")
    move.start()
    return move


@pytest.fixture
def desk(started: Move) -> Iterator[Frontdesk]:
    with Frontdesk(started.settings(service_name=NAME)) as desk:
        yield desk
