"""P12 and P13: the copy of a transfer compared with COPY, its verification compared with a sum of hashes."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg

from app.transfer.copying.copy import copy
from app.transfer.protocol import change_capture, control_schema
from app.transfer.protocol.endpoints import Side, Sides
from app.transfer.start import start
from app.transfer.verification.verify import verify
from benchmarks.environment import Environment
from benchmarks.harness import Benchmark, Peer, Target, stopwatch

ROWS_PER_CLIENT = 25  # 500,000 rows for a salon of 20,000 clients

_FILL = """
    INSERT INTO clients (company_id, yclients_id, name, phone, email, visit_count, total_spent, search_name)
    SELECT 1, n, 'Client ' || n, '+7968' || lpad(n::text, 7, '0'), 'c' || n || '@example.com',
        n / 100, n * 1.5, 'client ' || n
    FROM generate_series(1, {rows}) AS n
"""


class Transfer:
    """A filled legacy side, an empty primary side, and a third database for the peer."""

    def __init__(self, environment: Environment) -> None:
        self.rows = environment.rows * ROWS_PER_CLIENT
        self.sides = Sides(
            Side("legacy", environment.new_database("legacy")),
            Side("primary", environment.new_database("primary")),
        )
        self.plain = environment.new_database("plain")
        execute(
            self.sides.legacy.url,
            "INSERT INTO companies (company_id, title) VALUES (1, 'Salon')",
            _FILL.format(rows=self.rows),
            "VACUUM (ANALYZE) clients",
        )

    def begin(self) -> None:
        """Start or restart the transfer, with an empty primary side and change capture on both sides."""
        for side in self.sides:
            with closing(side.connect()) as connection:
                change_capture.drop_triggers(connection)
                if control_schema.is_set_up(connection):
                    control_schema.drop(connection)
        execute(self.sides.primary.url, "TRUNCATE companies CASCADE", "CHECKPOINT")
        start(self.sides)


def copying(environment: Environment) -> list[Benchmark]:
    """Return the benchmarks of P12: rate of the copy, compared with one COPY stream."""
    transfer = Transfer(environment)

    def ours() -> float:
        transfer.begin()
        with stopwatch() as watch:
            report = copy(transfer.sides)
        assert report.rows == transfer.rows + 1, report
        return transfer.rows / watch.seconds

    def one_stream() -> float:
        execute(
            transfer.plain,
            "TRUNCATE companies CASCADE",
            "INSERT INTO companies (company_id, title) VALUES (1, 'Salon')",
            "CHECKPOINT",
        )
        with (
            closing(psycopg.connect(transfer.sides.legacy.url)) as source,
            closing(psycopg.connect(transfer.plain)) as target,
            stopwatch() as watch,
        ):
            with (
                source.cursor().copy("COPY clients TO STDOUT (FORMAT binary)") as reader,
                target.cursor().copy("COPY clients FROM STDIN (FORMAT binary)") as writer,
            ):
                for data in reader:
                    writer.write(data)
            target.commit()
        return transfer.rows / watch.seconds

    peer = Peer("psycopg: COPY binary to COPY binary, one stream", one_stream, Target(at_least=0.85))
    return [Benchmark("P12", f"transfer copy, {transfer.rows:,} clients", "rows/s", ours, [peer], repeats=5)]


def verifying(environment: Environment) -> list[Benchmark]:
    """Return the benchmarks of P13: time of the verification, compared with a sum of hashes."""
    transfer = Transfer(environment)
    transfer.begin()
    copy(transfer.sides)

    def ours() -> float:
        with stopwatch() as watch:
            report = verify(transfer.sides)
        assert report.is_equal, report
        return watch.seconds

    def sum_of_hashes() -> float:
        def add(side: Side) -> object:
            with psycopg.connect(side.url) as connection:
                return connection.execute(
                    "SELECT sum(hashtextextended(clients::text, 0)) FROM clients"
                ).fetchone()

        with stopwatch() as watch, ThreadPoolExecutor(2) as threads:
            legacy, primary = threads.map(add, transfer.sides)
        assert legacy == primary
        return watch.seconds

    peer = Peer("sum(hashtextextended(row)), both sides at once", sum_of_hashes, Target(at_most=2.5))
    return [
        Benchmark("P13", f"transfer verify, {transfer.rows:,} equal clients", "s", ours, [peer], repeats=5)
    ]


def execute(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)
