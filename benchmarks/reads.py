"""P5 and P6: reading one client by phone, compared with plain psycopg and with an ORM session."""

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

CALLS = 1000  # per measurement; fewer if the salon has fewer clients
REPEATS = 15
WORK = "get_client_by_phone, one of {:,}"


class Lookups:
    """A salon with clients, and the measured ways to read one by phone."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        bulk = Bulk(environment)
        bulk.filled()
        # A stride of 7919 rows (a prime), so that successive calls read distant rows.
        phones = [row["phone"] for row in bulk.stored.rows]
        self._phones = itertools.cycle(phones[i * 7919 % len(phones)] for i in range(len(phones)))
        self.calls = min(CALLS, bulk.count)
        self.work = WORK.format(bulk.count)

    def ours(self) -> Callable[[str], Any]:
        """Return a function that reads a client with the data layer."""
        salon = self._environment.desk.company(COMPANY)
        return lambda phone: salon.get_client_by_phone(phone).unwrap()

    def psycopg(self) -> Callable[[str], Any]:
        """Return a function that runs the same SELECT with psycopg, through a pool of the same size."""
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
        """Return a function that reads a client with an ORM session per call."""
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
        """Return the duration of `self.calls` calls in seconds."""
        phones = list(itertools.islice(self._phones, self.calls))
        with stopwatch() as watch:
            for phone in phones:
                assert find(phone) is not None
        return watch.seconds

    def microseconds(self, find: Callable[[str], Any]) -> Measure:
        """Return a measure of microseconds per call."""
        return lambda: self.seconds(find) / self.calls * 1e6

    def rate(self, find: Callable[[str], Any]) -> Measure:
        """Return a measure of calls per second."""
        return lambda: self.calls / self.seconds(find)


def beside_psycopg(environment: Environment) -> list[Benchmark]:
    """Return the benchmarks of P5: time of a read, compared with psycopg."""
    lookups = Lookups(environment)
    name = "psycopg through psycopg_pool, autocommit: the same SELECT"
    peer = Peer(name, lookups.microseconds(lookups.psycopg()), Target(at_most=2.5))
    return [Benchmark("P5", lookups.work, "µs", lookups.microseconds(lookups.ours()), [peer], REPEATS)]


def beside_orm(environment: Environment) -> list[Benchmark]:
    """Return the benchmarks of P6: rate of reads, compared with an ORM session per call."""
    lookups = Lookups(environment)
    peer = Peer(
        "ORM session per call, scalars(select(…)).first()", lookups.rate(lookups.orm()), Target(at_least=2)
    )
    return [Benchmark("P6", lookups.work, "calls/s", lookups.rate(lookups.ours()), [peer], REPEATS)]
