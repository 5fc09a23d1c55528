"""P5 and P6: one client by phone, beside psycopg itself and beside an ORM session as usually written."""

import itertools
from collections.abc import Callable
from typing import Any

from psycopg_pool import ConnectionPool
from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session

from app.models import Client
from benchmarks.bulk import Bulk
from benchmarks.environment import COMPANY, Environment
from benchmarks.harness import Benchmark, Measure, Peer, Target, stopwatch

CALLS = 1000  # at most; fewer in a small salon
REPEATS = 15
WORK = "get_client_by_phone, one of {:,}"


class Lookups:
    """A salon full of clients, and the ways to find one by phone."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        bulk = Bulk(environment)
        bulk.filled()
        # A stride that is prime to the number of rows: neighbours in time are none in the table.
        phones = [row["phone"] for row in bulk.stored.rows]
        self._phones = itertools.cycle(phones[i * 7919 % len(phones)] for i in range(len(phones)))
        self.calls = min(CALLS, bulk.count)
        self.work = WORK.format(bulk.count)

    def ours(self) -> Callable[[str], Any]:
        """The operation of the data layer."""
        salon = self._environment.desk.company(COMPANY)
        return lambda phone: salon.get_client_by_phone(phone).unwrap()

    def psycopg(self) -> Callable[[str], Any]:
        """The same SELECT as a tuple, through a pool of the same size."""
        columns = ", ".join(f"{column.name}" for column in Client.__table__.columns)
        statement = (
            f"SELECT {columns} FROM clients WHERE company_id = %s AND deleted_at IS NULL AND phone = %s"
            " ORDER BY id LIMIT 1"
        )
        pool: ConnectionPool[Any] = ConnectionPool(
            self._environment.url, min_size=1, max_size=3, kwargs={"autocommit": True}, open=True
        )
        self._environment.resources.callback(pool.close)

        def find(phone: str) -> Any:
            with pool.connection() as connection:
                return connection.execute(statement, (COMPANY, phone)).fetchone()

        return find

    def orm(self) -> Callable[[str], Any]:
        """A session for each call, as usually written."""
        url = self._environment.url.replace("postgresql://", "postgresql+psycopg://", 1)
        engine = create_engine(url)
        self._environment.resources.callback(engine.dispose)

        def find(phone: str) -> Any:
            with Session(engine) as session:
                return session.scalars(
                    select(Client)
                    .where(Client.company_id == COMPANY, Client.deleted_at.is_(None), Client.phone == phone)
                    .order_by(Client.id)
                    .limit(1)
                ).first()

        return find

    def seconds(self, find: Callable[[str], Any]) -> float:
        """How long `calls` calls take."""
        phones = list(itertools.islice(self._phones, self.calls))
        with stopwatch() as watch:
            for phone in phones:
                assert find(phone) is not None
        return watch.seconds

    def microseconds(self, find: Callable[[str], Any]) -> Measure:
        """Microseconds a call."""
        return lambda: self.seconds(find) / self.calls * 1e6

    def rate(self, find: Callable[[str], Any]) -> Measure:
        """Calls a second."""
        return lambda: self.calls / self.seconds(find)


def beside_psycopg(environment: Environment) -> list[Benchmark]:
    """P5."""
    lookups = Lookups(environment)
    name = "psycopg through psycopg_pool, autocommit: the same SELECT"
    peer = Peer(name, lookups.microseconds(lookups.psycopg()), Target(at_most=2.5))
    return [Benchmark("P5", lookups.work, "µs", lookups.microseconds(lookups.ours()), [peer], REPEATS)]


def beside_orm(environment: Environment) -> list[Benchmark]:
    """P6."""
    lookups = Lookups(environment)
    peer = Peer(
        "ORM session per call, scalars(select(…)).first()", lookups.rate(lookups.orm()), Target(at_least=2)
    )
    return [Benchmark("P6", lookups.work, "calls/s", lookups.rate(lookups.ours()), [peer], REPEATS)]
