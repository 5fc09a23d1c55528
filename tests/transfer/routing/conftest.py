"""Fixtures: one data layer with a legacy and a primary database."""

from collections.abc import Callable, Iterator

import pytest

from app import Frontdesk
from app.observability import sentry
from tests.moves import APPLICATION_NAME, COMPANY_ID, FakeTransfer
from tests.servers import execute


@pytest.fixture(scope="package")
def pair(new_database: Callable[[], str]) -> FakeTransfer:
    return FakeTransfer(new_database(), new_database())


@pytest.fixture
def move(pair: FakeTransfer) -> Iterator[FakeTransfer]:
    """Two empty databases at the latest revision, before a transfer."""
    yield pair
    pair.reset()
    sentry.backend = sentry.DEFAULT_BACKEND


@pytest.fixture
def started(move: FakeTransfer) -> FakeTransfer:
    """The databases of `move` after the start of a transfer, with the company on both sides."""
    for url, title in ((move.legacy, "legacy"), (move.primary, "primary")):
        execute(url, f"INSERT INTO companies (company_id, title) VALUES ({COMPANY_ID}, '{title}')")
    move.start()
    return move


@pytest.fixture
def desk(started: FakeTransfer) -> Iterator[Frontdesk]:
    with Frontdesk(started.settings(service_name=APPLICATION_NAME)) as desk:
        yield desk
