"""P7: cost of metrics and Sentry per query."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from unittest.mock import patch

import psycopg
import sentry_sdk
from psycopg_pool import ConnectionPool

from app import Frontdesk, Settings
from app.observability import sentry
from benchmarks.environment import COMPANY, Environment
from benchmarks.harness import Benchmark, Peer, Target

CALLS = 100  # per measurement
ROUNDS = 30
CLIENT = {"yclients_id": 1, "name": "Anna", "phone": "+79686484488"}


def cost_per_query(environment: Environment) -> list[Benchmark]:
    """Return the benchmarks of P7: processor time that metrics and Sentry add to a query."""
    watched = _salon(environment)
    with (
        patch("app.database.connection.MeasuredCursor", psycopg.Cursor),
        patch("app.database.database.MeasuredPool", ConnectionPool),
    ):
        unwatched = _salon(environment)
    settings = Settings(sentry_dsn="http://key@127.0.0.1:9/1")

    def off() -> float:
        return _microseconds(unwatched)

    def cost() -> float:
        differences = []
        with _sentry(settings):  # only MeasuredCursor uses Sentry, so it does not affect `off`
            for _ in range(ROUNDS):
                without = off()
                differences.append(_microseconds(watched) - without)
        return median(differences)

    peer = Peer("the whole query with both off", off, Target(at_most=15, of_ours=True))
    return [Benchmark("P7", "metrics and Sentry, per query", "µs", cost, [peer])]


def _salon(environment: Environment) -> Callable[[], object]:
    """Return a function that runs one query, on a Frontdesk whose connection is already open."""
    desk = environment.resources.enter_context(Frontdesk(Settings(database_url=environment.url)))
    salon = desk.company(COMPANY)
    salon.upsert_company({"title": "Salon"}).unwrap()
    salon.upsert_client(CLIENT).unwrap()
    return lambda: salon.get_client_by_phone(CLIENT["phone"]).unwrap()


def _microseconds(call: Callable[[], object]) -> float:
    began = time.thread_time()
    for _ in range(CALLS):
        call()
    return (time.thread_time() - began) / CALLS * 1e6


@contextmanager
def _sentry(settings: Settings) -> Iterator[None]:
    if sentry.is_initialised():  # by the program that runs this benchmark, which keeps using it
        yield
        return
    sentry.initialise(settings)
    try:
        yield
    finally:
        sentry_sdk.get_client().close(timeout=0)
        sentry_sdk.get_global_scope().set_client(None)
        sentry.is_tracing = False
