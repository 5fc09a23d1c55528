"""Fixture that creates test clients of the web application."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from flask.testing import FlaskClient

from app import Frontdesk, Settings, create_app

Opener = Callable[..., FlaskClient]


@pytest.fixture
def serving() -> Iterator[Opener]:
    """Return a function that creates a test client, for example `serving(database_url=…, health_token=…)`."""
    with ExitStack() as stack:

        def make(**settings: Any) -> FlaskClient:
            desk = stack.enter_context(Frontdesk(Settings(**settings)))
            return create_app(desk).test_client()

        yield make
