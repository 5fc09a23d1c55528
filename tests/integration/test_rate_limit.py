"""The limits of an API hold for all processes of an installation together."""

import time
from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise
from typing import NamedTuple

import psycopg
import pytest

from app import Frontdesk, Settings
from app.demo.fake_yclients.salon import FakeSalon, RowCounts
from app.demo.fake_yclients.server import LIMITS, FakeYClients, run_server
from app.errors import UnavailableError
from app.yclients.api.client import YClientsClient
from app.yclients.api.rate_limit import (
    MAX_RESERVATION_AHEAD,
    YCLIENTS_LIMITS,
    RateLimit,
    RateLimiter,
    estimate_seconds,
)
from tests.processes import FORK_SERVER
from tests.threads import at_once
from tests.upstream import with_yclients_settings

API = "api.example"
TINY = RowCounts(clients=1, staff=1, services=1, categories=1, records=1)


@pytest.fixture
def desk(database_url: str) -> Iterator[Frontdesk]:
    with Frontdesk(Settings(database_url=database_url, postgres_max_connections=10)) as desk:
        yield desk


class Turn(NamedTuple):
    """Bounds of the time at which a request may be sent, because the server computes it during the call."""

    earliest: float
    latest: float


def turn(limiter: RateLimiter) -> Turn:
    asked = time.monotonic()
    wait = limiter.reserve()
    return Turn(asked + wait, time.monotonic() + wait)


def turns(desk: Frontdesk, count: int, *limits: RateLimit) -> list[Turn]:
    """Reserve several times, one after the other, and return them."""
    limiter = RateLimiter(desk.database, API, limits)
    return [turn(limiter) for _ in range(count)]


def between(first: Turn, after: Turn) -> tuple[float, float]:
    """The shortest and the longest time that may lie between them, and what clocks differ by."""
    return after.earliest - first.latest - 0.01, after.latest - first.earliest + 0.01


def in_order(given: list[Turn]) -> list[Turn]:
    """Sort the reserved times of all threads."""
    return list(map(Turn, sorted(each.earliest for each in given), sorted(each.latest for each in given)))


def assert_kept(given: list[Turn], *limits: RateLimit) -> None:
    for limit in limits:
        for first, after in zip(given, given[limit.count :], strict=False):
            assert between(first, after)[1] >= limit.seconds


def test_requests_are_as_fast_as_the_limits_allow_and_no_faster(desk: Frontdesk) -> None:
    limits = RateLimit(5, 1.2), RateLimit(20, 61.0)
    given = turns(desk, 45, *limits)
    assert_kept(given, *limits)
    shortest, longest = between(given[4], given[-1])  # the first five come when they are asked for
    assert shortest < estimate_seconds(45, limits) < longest
    assert estimate_seconds(45, limits) == 122


def test_requests_within_a_limit_do_not_wait(desk: Frontdesk) -> None:
    limiter = RateLimiter(desk.database, API, (RateLimit(5, 60.0),))
    assert [limiter.reserve() for _ in range(5)] == [0.0] * 5
    assert limiter.reserve() > 0


def test_reservations_are_granted_in_order(desk: Frontdesk) -> None:
    given = turns(desk, 30, RateLimit(3, 1.0))
    assert all(first.earliest <= second.latest for first, second in pairwise(given))


def test_threads_and_connections_share_the_limits(desk: Frontdesk) -> None:
    limit = RateLimit(5, 2.0)
    limiters = [RateLimiter(desk.database, API, (limit,)) for _ in range(20)]
    given = in_order(at_once([lambda each=each: turn(each) for each in limiters]))
    assert_kept(given, limit)
    shortest, longest = between(given[4], given[-1])  # the first five come when they are asked for
    assert shortest < 6.0 < longest


def test_each_api_has_its_own_limits(desk: Frontdesk) -> None:
    turns(desk, 5, RateLimit(1, 60.0))
    assert RateLimiter(desk.database, "another.example", (RateLimit(1, 60.0),)).reserve() == 0


def test_a_pause_applies_to_all_processes(desk: Frontdesk) -> None:
    turns(desk, 1, *YCLIENTS_LIMITS)
    began = time.monotonic()
    RateLimiter(desk.database, API).pause(30)
    RateLimiter(desk.database, API).pause(3)  # the longer one counts
    wait = RateLimiter(desk.database, API).reserve()
    assert 30 - (time.monotonic() - began) - 0.01 < wait <= 30


def test_a_clock_that_was_set_back_does_not_block_requests(desk: Frontdesk, database_url: str) -> None:
    turns(desk, 10, RateLimit(5, 1.0))
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "UPDATE request_budgets SET granted = (SELECT array_agg(t + %s::interval + '1 minute' ORDER BY n)"
            " FROM unnest(granted) WITH ORDINALITY AS g (t, n))",
            (MAX_RESERVATION_AHEAD,),
        )
    assert RateLimiter(desk.database, API, (RateLimit(5, 1.0),)).reserve() == 0


def test_without_a_database_no_request_is_sent(desk: Frontdesk) -> None:
    nowhere = Settings(
        database_url="postgresql://someone@127.0.0.1:1/nowhere", postgres_connection_timeout=500
    )
    with Frontdesk(nowhere) as lost, pytest.raises(UnavailableError):
        RateLimiter(lost.database, API).reserve()


def test_the_needed_time_is_estimated() -> None:
    assert estimate_seconds(0) == 0
    assert estimate_seconds(5) == 0
    assert (
        timedelta(seconds=estimate_seconds(200))
        < timedelta(minutes=1)
        < timedelta(seconds=estimate_seconds(201))
    )


def ask(settings: Settings, company_id: int, requests: int) -> None:
    """Send requests as fast as the limiter allows; runs in a separate process."""
    with (
        Frontdesk(settings) as desk,
        YClientsClient(settings, RateLimiter(desk.database, settings.yclients_base_url)) as client,
    ):
        for _ in range(requests):
            client.company(company_id)


def hammer(database_url: str, company_id: int, processes: int, requests: int) -> tuple[FakeYClients, float]:
    """Let processes ask a stand-in with YClients' own limits; answer with it and the seconds that it took."""
    stand_in = FakeYClients(FakeSalon(company_id, TINY), LIMITS)
    began = time.monotonic()
    with run_server(stand_in) as address:
        settings = with_yclients_settings(Settings(database_url=database_url), address)
        workers = [
            FORK_SERVER.Process(target=ask, args=(settings, company_id, requests)) for _ in range(processes)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert [worker.exitcode for worker in workers] == [0] * processes
    return stand_in, time.monotonic() - began


def test_four_processes_are_never_refused(database_url: str, company_id: int) -> None:
    stand_in, _ = hammer(database_url, company_id, processes=4, requests=8)
    assert len(stand_in.request_log) == 32
    assert stand_in.rate_limited == 0


@pytest.mark.full
def test_four_processes_are_never_refused_in_more_than_a_minute(database_url: str, company_id: int) -> None:
    stand_in, seconds = hammer(database_url, company_id, processes=4, requests=70)
    assert len(stand_in.request_log) == 280
    assert stand_in.rate_limited == 0
    assert seconds < estimate_seconds(280) + 15
