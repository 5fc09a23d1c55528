"""P1 to P4: many client rows at once, beside the plain merge that PostgreSQL can do, and beside ORMs."""

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
    """Seven columns of a client, as a caller writes them."""
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
    """The same rows in the two forms that ours and the peers take, made before the clock starts."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        # Every peer writes the same columns as ours, the folded name too, which it gets for nothing.
        self.rows = [{**row, "search_name": search_name(*map(row.get, NAME))} for row in batch.rows]
        self.tuples = [tuple(row.values()) for row in self.rows]
        self.columns = tuple(self.rows[0])


class Bulk:
    """One table in a known state, and the ways to write rows to it."""

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
        """The table before P1."""
        self.environment.maintain("TRUNCATE clients")

    def filled(self) -> None:
        """The table before P2 and P3: every row once, none of them dead, statistics fresh."""
        self.empty()
        self.raw(self.stored)
        self.environment.maintain("VACUUM (ANALYZE) clients")

    def ours(self, given: Given, outcome: str) -> None:
        """One unit of work that answers with a report of every row; all of them have the same `outcome`."""
        with self.environment.desk.unit_of_work(COMPANY) as uow:
            report = uow.clients.bulk_upsert(given.batch)
        assert getattr(report, outcome) == self.count, report

    def raw(self, given: Given) -> None:
        """One transaction that does not know what became of any row."""
        merge(self.environment.raw, Client.__tablename__, COMPANY, given.columns, given.tuples)

    def rate(self, prepare: Callable[[], None], write: Callable[[], object]) -> Measure:
        """Rows per second of `write`; `prepare` is not counted."""

        def measure() -> float:
            prepare()
            with stopwatch() as watch:
                write()
            return self.count / watch.seconds

        return measure

    def wal(self, write: Callable[[], object]) -> Measure:
        """Bytes of write-ahead log for each row, where every row is there already."""

        def measure() -> float:
            self.filled()
            return self.environment.wal_bytes(write) / self.count

        return measure


def new_rows(environment: Environment) -> list[Benchmark]:
    """P1."""
    bulk = Bulk(environment)
    ours = bulk.rate(bulk.empty, lambda: bulk.ours(bulk.stored, "inserted"))
    raw = bulk.rate(bulk.empty, lambda: bulk.raw(bulk.stored))
    work = f"bulk_upsert of {bulk.count:,} new clients"
    checked = Benchmark("P1", work, "rows/s", ours, [Peer(RAW, raw, Target(at_least=0.6))])
    # The operation checks the rows first: no target, but what a caller waits for.
    salon = environment.desk.company(COMPANY)
    whole = bulk.rate(bulk.empty, lambda: salon.upsert_clients(bulk.given).unwrap())
    return [
        checked,
        Benchmark("P1", "upsert_clients: the same, checked first", "rows/s", whole, [Peer(RAW, raw)]),
    ]


def changed_rows(environment: Environment) -> list[Benchmark]:
    """P2."""
    bulk = Bulk(environment)
    ours = bulk.rate(bulk.filled, lambda: bulk.ours(bulk.changed, "updated"))
    raw = bulk.rate(bulk.filled, lambda: bulk.raw(bulk.changed))
    peers = [Peer(RAW, raw, Target(at_least=0.6))]
    return [Benchmark("P2", f"the same {bulk.count:,} clients, every one changed", "rows/s", ours, peers)]


def unchanged_rows(environment: Environment) -> list[Benchmark]:
    """P3: the time, and what is written to the log."""
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
    """P4: P1 beside what ORMs offer for it."""
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
