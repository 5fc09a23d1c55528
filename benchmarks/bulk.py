"""P1 to P4: bulk upserts of client rows, compared with a plain merge in PostgreSQL and with ORMs."""

from collections.abc import Callable
from typing import Any

from app.models import Client
from app.schemas.schema import Batch
from app.text import search_name
from benchmarks import orm_peers
from benchmarks.environment import COMPANY, Environment
from benchmarks.harness import Benchmark, Measure, Peer, Target, stopwatch
from benchmarks.raw_merge import merge

Rows = list[dict[str, Any]]
RAW = "psycopg: COPY to a temporary table, INSERT … SELECT … ON CONFLICT DO UPDATE"
SLOW_PEER_REPEATS = 3
NAME = ("name", "surname", "patronymic")


def clients(count: int, comment: str = "постоянный клиент") -> Rows:
    """Return `count` client rows with seven columns, in the form that callers pass."""
    names = ("Анна Петрова", "Ирина", "Olga", "Мария Сергеевна", "Екатерина")
    return [
        {
            "yclients_id": number,
            "name": f"{names[number % len(names)]} {number}",
            "phone": f"+7968{number:07d}",
            "email": f"client{number}@example.com",
            "visit_count": number % 50,
            "total_spent": f"{number % 9000}.50",
            "comment": comment,
        }
        for number in range(1, count + 1)
    ]


class Given:
    """The same rows in the forms that Frontdesk and the peers take, created before the measurement."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        # Peers write the same columns as Frontdesk, including search_name, which they need not compute.
        self.rows = [{**row, "search_name": search_name(*map(row.get, NAME))} for row in batch.rows]
        self.tuples = [tuple(row.values()) for row in self.rows]
        self.columns = tuple(self.rows[0])


class Bulk:
    """The table `clients` in a known state, and the measured ways to write rows to it."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.count = environment.rows
        self.given = clients(self.count)
        self.stored = self._given(self.given)
        self.changed = self._given(clients(self.count, comment="переехала"))

    def _given(self, rows: Rows) -> Given:
        with self.environment.desk.unit_of_work(COMPANY) as uow:
            return Given(uow.clients.validate(rows))

    def empty(self) -> None:
        """Empty the table, as P1 needs it."""
        self.environment.maintain("TRUNCATE clients")

    def filled(self) -> None:
        """Fill the table, as P2 and P3 need it: each row once, no dead rows, current statistics."""
        self.empty()
        self.raw(self.stored)
        self.environment.maintain("VACUUM (ANALYZE) clients")

    def ours(self, given: Given, outcome: str) -> None:
        """Upsert the rows with Frontdesk in one unit of work; assert that each row has this `outcome`."""
        with self.environment.desk.unit_of_work(COMPANY) as uow:
            report = uow.clients.bulk_upsert(given.batch)
        assert getattr(report, outcome) == self.count, report

    def raw(self, given: Given) -> None:
        """Merge the rows with plain SQL in one transaction, without a report of the outcomes."""
        merge(self.environment.raw, Client.__tablename__, COMPANY, given.columns, given.tuples)

    def rate(self, prepare: Callable[[], None], write: Callable[[], object]) -> Measure:
        """Return a measure of rows per second of `write`. The time of `prepare` does not count."""

        def measure() -> float:
            prepare()
            with stopwatch() as watch:
                write()
            return self.count / watch.seconds

        return measure

    def wal(self, write: Callable[[], object]) -> Measure:
        """Return a measure of WAL bytes per row of `write`, with all rows stored before."""

        def measure() -> float:
            self.filled()
            return self.environment.wal_bytes(write) / self.count

        return measure


def new_rows(environment: Environment) -> list[Benchmark]:
    """Return the benchmarks of P1: upserts of new rows."""
    bulk = Bulk(environment)
    ours = bulk.rate(bulk.empty, lambda: bulk.ours(bulk.stored, "inserted"))
    raw = bulk.rate(bulk.empty, lambda: bulk.raw(bulk.stored))
    work = f"bulk_upsert of {bulk.count:,} new clients"
    bulk_only = Benchmark("P1", work, "rows/s", ours, [Peer(RAW, raw, Target(at_least=0.6))])
    # The whole operation validates the rows first. The peer does not, so there is no target.
    salon = environment.desk.company(COMPANY)
    whole = bulk.rate(bulk.empty, lambda: salon.upsert_clients(bulk.given).unwrap())
    return [
        bulk_only,
        Benchmark("P1", "upsert_clients: the same rows, validated first", "rows/s", whole, [Peer(RAW, raw)]),
    ]


def changed_rows(environment: Environment) -> list[Benchmark]:
    """Return the benchmarks of P2: upserts of stored rows that have all changed."""
    bulk = Bulk(environment)
    ours = bulk.rate(bulk.filled, lambda: bulk.ours(bulk.changed, "updated"))
    raw = bulk.rate(bulk.filled, lambda: bulk.raw(bulk.changed))
    peers = [Peer(RAW, raw, Target(at_least=0.6))]
    return [Benchmark("P2", f"the same {bulk.count:,} clients, all changed", "rows/s", ours, peers)]


def unchanged_rows(environment: Environment) -> list[Benchmark]:
    """Return the benchmarks of P3: upserts of unchanged rows, with their rate and the WAL that they write."""
    bulk = Bulk(environment)
    work = f"the same {bulk.count:,} clients, nothing changed"
    ours = bulk.rate(bulk.filled, lambda: bulk.ours(bulk.stored, "unchanged"))
    raw = bulk.rate(bulk.filled, lambda: bulk.raw(bulk.stored))
    rate = Benchmark("P3", work, "rows/s", ours, [Peer(RAW, raw, Target(at_least=2))])
    our_wal, raw_wal = (
        bulk.wal(lambda: bulk.ours(bulk.stored, "unchanged")),
        bulk.wal(lambda: bulk.raw(bulk.stored)),
    )
    target = Target(at_most=8, of_ours=True)
    return [rate, Benchmark("P3", work, "WAL bytes/row", our_wal, [Peer(RAW, raw_wal, target)])]


def beside_orms(environment: Environment) -> list[Benchmark]:
    """Return the benchmarks of P4: upserts of new rows, compared with bulk upserts of ORMs."""
    bulk = Bulk(environment)
    ours = bulk.rate(bulk.empty, lambda: bulk.ours(bulk.stored, "inserted"))
    peers = []
    for peer in orm_peers.PEERS:
        try:
            write = peer.load(environment.url, COMPANY)
        except ModuleNotFoundError as error:
            missing = f"{error.name} is not installed: it is in the extra `bench`"
            peers.append(Peer(peer.name, None, Target(at_least=peer.target), missing))
            continue
        measure = bulk.rate(bulk.empty, lambda write=write: write(bulk.stored.rows))
        peers.append(Peer(peer.name, measure, Target(at_least=peer.target)))
    work = f"bulk_upsert of {bulk.count:,} new clients"
    return [Benchmark("P4", work, "rows/s", ours, peers, SLOW_PEER_REPEATS)]
