"""Two databases of one move: a legacy and a primary, both at head."""

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest

from app.transfer.sides import Side, Sides


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
