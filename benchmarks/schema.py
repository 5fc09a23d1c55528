"""P15: longest stall of a writer while a UNIQUE constraint is added to a table of 500,000 live rows."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from app.migrations import runner
from benchmarks.environment import Environment
from benchmarks.harness import Benchmark, Peer, Target

ROWS_PER_CLIENT = 25  # 500,000 rows for a salon of 20,000 clients
REPEATS = 5
BEFORE, STEP = "archive", "composite_uniqueness"
PLAIN = "ALTER TABLE clients ADD CONSTRAINT plainly UNIQUE (yclients_id, company_id)"


def unique_constraint(environment: Environment) -> list[Benchmark]:
    """Return the benchmarks of P15: longest write stall of the migration, compared with ALTER TABLE."""
    databases = _Databases(environment)
    ours = databases.longest_stall(_our_step)
    plain = databases.longest_stall(_plain_statement)
    peer = Peer("plain ADD CONSTRAINT … UNIQUE", plain, Target(at_most=0.2))
    work = f"a UNIQUE constraint for {databases.rows:,} live rows, longest stall of a writer"
    return [Benchmark("P15", work, "ms", ours, [peer], REPEATS)]


def _our_step(url: str) -> None:
    """Run the migration in a separate process, so that it does not slow the writer in this process."""
    subprocess.run(
        [sys.executable, "-m", "alembic", "upgrade", STEP],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"DATABASE_URL": url},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )


def _plain_statement(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(PLAIN)


class _Databases:
    """A database with the old schema, filled once and copied for each measurement."""

    def __init__(self, environment: Environment) -> None:
        self.rows = ROWS_PER_CLIENT * environment.rows
        self._environment = environment
        self._names = [f"frontdesk_bench_{os.getpid()}_{name}" for name in ("filled", "copy")]
        for name in self._names:
            environment.resources.callback(self._run, "DROP DATABASE IF EXISTS {} WITH (FORCE)", name)
        self._run("CREATE DATABASE {}", self._names[0])
        url = self._url(self._names[0])
        runner.upgrade(url, BEFORE)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("INSERT INTO companies (company_id, title) VALUES (1, 'Salon')")
            connection.execute(
                "INSERT INTO clients (yclients_id, company_id, phone, name)"
                " SELECT n, 1, n::text, 'Client ' || n FROM generate_series(1, %s) AS n",
                [self.rows],
            )
            connection.execute("VACUUM ANALYZE clients")

    def longest_stall(self, change: Callable[[str], None]) -> Callable[[], float]:
        """Return a measure of the slowest write, in milliseconds, while `change` runs on a new copy."""

        def measure() -> float:
            self._run("DROP DATABASE IF EXISTS {} WITH (FORCE)", self._names[1])
            self._run("CREATE DATABASE {} TEMPLATE {}", self._names[1], self._names[0])
            url = self._url(self._names[1])
            changing = threading.Thread(target=change, args=[url])
            longest, number = 0.0, 0
            with psycopg.connect(url, autocommit=True) as writer:
                changing.start()
                while changing.is_alive():
                    number += 1
                    began = time.perf_counter()
                    writer.execute(
                        "UPDATE clients SET visit_count = %s WHERE id = %s",
                        [number, 1 + number * 7919 % self.rows],
                    )
                    longest = max(longest, time.perf_counter() - began)
                    time.sleep(0.001)
            with psycopg.connect(url) as connection:
                made = connection.execute(
                    "SELECT count(*) FROM pg_constraint"
                    " WHERE conname IN ('plainly', 'clients_yclients_company_unique') AND contype = 'u'"
                ).fetchone()
            assert made == (1,), "the constraint was not created"
            return 1000 * longest

        return measure

    def _url(self, name: str) -> str:
        return urlsplit(self._environment.url)._replace(path=f"/{name}").geturl()

    def _run(self, statement: str, *names: str) -> None:
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))
