"""Fixtures: a separate database for each test, empty, in the old schema, or at head."""

import itertools
import os
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from tests.migrations.databases import Database, MakeDatabase, url_of

_numbers = itertools.count()


@pytest.fixture(scope="session")
def make_database(server_url: str) -> Iterator[MakeDatabase]:
    """Return a function that creates a database, optionally from a template; all are dropped at the end."""
    made = []

    def make(template: Database | None = None) -> Database:
        name = f"migrations_{os.getpid()}_{next(_numbers)}"
        source = sql.Identifier(conninfo_to_dict(template.url)["dbname"] if template else "template0")
        with psycopg.connect(server_url, autocommit=True) as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY").format(
                    sql.Identifier(name), source
                )
            )
        made.append(name)
        return Database(url_of(server_url, name))

    yield make
    if "TEST_DATABASE_URL" not in os.environ:
        return  # the test server is deleted as a whole; dropping a hundred databases takes half a minute
    with psycopg.connect(server_url, autocommit=True) as connection:
        for name in made:
            connection.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
            )


@pytest.fixture(scope="session")
def baseline_template(make_database: MakeDatabase) -> Database:
    database = make_database()
    database.upgrade("baseline")
    return database


@pytest.fixture(scope="session")
def head_template(make_database: MakeDatabase) -> Database:
    database = make_database()
    database.upgrade()
    return database


@pytest.fixture
def old(make_database: MakeDatabase, baseline_template: Database) -> Database:
    """A database in the schema of the first installations, stamped with the baseline revision."""
    return make_database(baseline_template)


@pytest.fixture
def at_head(make_database: MakeDatabase, head_template: Database) -> Database:
    return make_database(head_template)


@pytest.fixture
def fresh(make_database: MakeDatabase) -> Database:
    return make_database()
