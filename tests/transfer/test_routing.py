"""Two databases behind one data layer: processes follow the live one by themselves."""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from app import Frontdesk
from app.cli import main
from app.database import moving, sides
from app.database.database import Database
from app.errors import ConfigurationError, FencedError, NoConnectionError, UnavailableError
from app.observability import sentry
from app.unit_of_work import UnitOfWork
from app.whatsapp.watch import observe
from app.yclients.rate_limit import RateLimiter
from tests.moves import Move
from tests.processes import wait_until
from tests.servers import Server, execute
from tests.threads import at_once

SALON = 962302
NAME = "moving"  # of the sessions in pg_stat_activity


@pytest.fixture(scope="module")
def pair(new_database: Callable[[], str]) -> Move:
    return Move(new_database(), new_database())


@pytest.fixture
def move(pair: Move) -> Iterator[Move]:
    """Two empty databases at head."""
    yield pair
    pair.forget()
    sentry.backend = sentry.ONE_DATABASE


@pytest.fixture
def started(move: Move) -> Move:
    """The same with a move that has begun, and the company on both sides."""
    for url, title in ((move.legacy, "legacy"), (move.primary, "primary")):
        execute(url, f"INSERT INTO companies (company_id, title) VALUES ({SALON}, '{title}')")
    move.start()
    return move


@pytest.fixture
def desk(started: Move) -> Iterator[Frontdesk]:
    with Frontdesk(started.settings(service_name=NAME)) as desk:
        yield desk


def clients(url: str) -> list[int]:
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT yclients_id FROM clients ORDER BY yclients_id").fetchall()
    return [yclients_id for (yclients_id,) in rows]


def sessions(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE application_name = %s AND datname = current_database()",
            (NAME,),
        ).fetchone()
    assert row
    return int(row[0])


def client(number: int) -> dict[str, object]:
    return {"yclients_id": number, "name": f"Client {number}", "phone": f"+7968{number:07}"}


def hand_over(move: Move, old: str, new: str) -> None:
    move.set(old, "closing")
    move.set(old, "standby")
    move.set(new, "open")


# Before a move, and after it


def test_before_a_move_the_legacy_database_is_live(move: Move) -> None:
    with Frontdesk(move.settings()) as desk:
        desk.company(SALON).upsert_company({"title": "Salon"}).unwrap()
        desk.company(SALON).upsert_client(client(1)).unwrap()
    assert (clients(move.legacy), clients(move.primary)) == ([1], [])


def test_a_legacy_database_that_is_none_of_ours_is_left_alone(move: Move) -> None:
    execute(move.legacy, "ALTER TABLE alembic_version RENAME TO versions")
    with Frontdesk(move.settings()) as desk:
        desk.company(SALON).upsert_company({"title": "Salon"}).unwrap()
        desk.company(SALON).upsert_client(client(1)).unwrap()
    execute(move.legacy, "ALTER TABLE versions RENAME TO alembic_version")
    assert (clients(move.legacy), clients(move.primary)) == ([], [1])


def test_a_process_goes_on_where_it_was_when_the_move_is_finished(desk: Frontdesk, started: Move) -> None:
    desk.company(SALON).upsert_client(client(1)).unwrap()
    hand_over(started, started.legacy, started.primary)
    desk.company(SALON).upsert_client(client(2)).unwrap()
    started.finish()
    time.sleep(moving.LOOK_EVERY)
    desk.company(SALON).upsert_client(client(3)).unwrap()
    assert (clients(started.legacy), clients(started.primary)) == ([1], [2, 3])


def test_two_databases_with_companies_and_no_move_are_refused_until_one_is_named(started: Move) -> None:
    """After `finish` either may be the live one; a guess would lose what is written from then on."""
    started.finish()
    with (
        Frontdesk(started.settings()) as desk,
        pytest.raises(ConfigurationError, match=r"unset LEGACY_DATABASE_URL.*TRANSFER_PIN"),
        desk.unit_of_work(SALON),
    ):
        pass
    for pin, url in (("legacy", started.legacy), ("primary", started.primary)):
        with Frontdesk(started.settings(transfer_pin=pin)) as desk:
            desk.company(SALON).upsert_client(client(1)).unwrap()
        assert clients(url) == [1]


def test_a_process_that_slept_through_a_whole_move_does_not_wake_on_the_old_side(
    move: Move, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "LONG_SLEEP", 0.6)
    with Frontdesk(move.settings()) as desk:
        desk.company(SALON).upsert_company({"title": "Salon"}).unwrap()
        execute(move.primary, f"INSERT INTO companies (company_id, title) VALUES ({SALON}, 'Salon')")
        time.sleep(0.7)
        for _ in range(2):  # and it does not forget
            assert desk.company(SALON).upsert_client(client(1)).error is not None
    assert clients(move.legacy) == []


def test_a_pinned_process_stays_and_is_refused(started: Move) -> None:
    with Frontdesk(started.settings(transfer_pin="legacy")) as desk:
        desk.company(SALON).upsert_client(client(1)).unwrap()
        hand_over(started, started.legacy, started.primary)
        assert desk.company(SALON).upsert_client(client(2)).error.code == "fenced"
    assert clients(started.primary) == []


def test_a_capture_that_is_switched_off_is_not_switched_on(
    move: Move, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", move.primary)
    monkeypatch.setenv("LEGACY_DATABASE_URL", move.legacy)
    monkeypatch.setenv("TRANSFER_CAPTURE", "off")
    refused = CliRunner().invoke(main, ["transfer", "start"])
    assert refused.exit_code == 2
    assert "TRANSFER_CAPTURE is off" in refused.stderr


def test_reads_are_compared_only_where_there_is_a_standby(
    move: Move, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", move.primary)
    refused = CliRunner().invoke(main, ["demo", "traffic", "--compare-reads", "0.5"])
    assert refused.exit_code == 2
    assert "TRANSFER_COMPARE_READS: needs LEGACY_DATABASE_URL" in refused.stderr


def test_the_doctor_says_which_side_is_live_and_whether_this_process_is_elsewhere(
    started: Move, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(code: int) -> str:
        examined = CliRunner().invoke(main, ["doctor", "--json"])
        assert examined.exit_code == code
        checks = {check["name"]: check for check in json.loads(examined.stdout)["checks"]}
        return f"{checks['live database']['verdict']}: {checks['live database']['found']}"

    monkeypatch.setenv("DATABASE_URL", started.primary)
    monkeypatch.setenv("LEGACY_DATABASE_URL", started.legacy)
    assert found(0) == "ok: legacy"
    hand_over(started, started.legacy, started.primary)
    assert found(0) == "ok: primary"
    monkeypatch.setenv("TRANSFER_PIN", "primary")
    assert found(0) == "ok: primary, pinned"
    monkeypatch.setenv("TRANSFER_PIN", "legacy")
    assert found(1) == "wrong: primary, and this process is pinned to legacy"
    monkeypatch.delenv("TRANSFER_PIN")
    started.finish()
    assert "both hold companies" in found(2)


# During one


def test_writers_follow_there_and_back_and_lose_nothing(desk: Frontdesk, started: Move) -> None:
    written: dict[int, list[int]] = {n: [] for n in range(3)}
    stop = threading.Event()

    def write(worker: int) -> None:
        number = worker * 100_000
        while not stop.is_set():
            number += 1
            desk.company(SALON).upsert_client(client(number)).unwrap()
            written[worker].append(number)

    def wait_for_more() -> None:
        before = [len(numbers) for numbers in written.values()]
        wait_until(
            lambda: all(len(now) > then + 2 for now, then in zip(written.values(), before, strict=True))
        )

    threads = [threading.Thread(target=write, args=(worker,)) for worker in written]
    for thread in threads:
        thread.start()
    urls = [started.legacy, started.primary]
    for round_ in range(4):
        wait_for_more()
        move_from, move_to = urls[round_ % 2], urls[1 - round_ % 2]
        started.set(move_from, "closing")
        time.sleep(0.05)  # drained meanwhile
        started.set(move_from, "standby")
        time.sleep(0.02)  # nobody is live
        started.set(move_to, "open")
    wait_for_more()
    stop.set()
    for thread in threads:
        thread.join()
    acknowledged = sorted(number for numbers in written.values() for number in numbers)
    there = [clients(url) for url in urls]
    assert sorted(there[0] + there[1]) == acknowledged  # each exactly once


def test_reads_follow_within_a_second(desk: Frontdesk, started: Move) -> None:
    assert desk.company(SALON).get_company().unwrap().title == "legacy"
    hand_over(started, started.legacy, started.primary)
    deadline = time.monotonic() + 1
    while desk.company(SALON).get_company().unwrap().title == "legacy":
        assert time.monotonic() < deadline


def test_reads_wait_while_neither_side_is_live(desk: Frontdesk, started: Move) -> None:
    started.set(started.legacy, "standby")

    def open_soon() -> None:
        time.sleep(0.3)
        started.set(started.primary, "open")

    def read() -> None:
        assert desk.company(SALON).get_company().unwrap() is not None

    at_once([open_soon, read, read])
    assert desk.database.name == "primary"


def test_a_block_ends_with_a_retryable_error_and_the_next_one_is_on_the_live_side(
    desk: Frontdesk, started: Move
) -> None:
    with pytest.raises(FencedError) as fenced, desk.unit_of_work(SALON) as uow:  # noqa: PT012 - in one block
        uow.companies.get()
        hand_over(started, started.legacy, started.primary)
        uow.clients.upsert(client(1))
    assert fenced.value.retryable
    with desk.unit_of_work(SALON) as uow:
        uow.clients.upsert(client(1))
    assert (clients(started.legacy), clients(started.primary)) == ([], [1])


def test_a_closing_that_takes_too_long_is_an_answer_and_no_failure(
    desk: Frontdesk, started: Move, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(moving, "PATIENCE", 0.3)
    desk.company(SALON).upsert_client(client(1)).unwrap()
    started.set(started.legacy, "closing")
    began = time.monotonic()
    error = desk.company(SALON).upsert_client(client(2)).error
    assert error is not None
    assert (error.code, error.retryable) == ("fenced", True)
    assert 0.3 <= time.monotonic() - began < 5
    assert desk.company(SALON).get_company().unwrap() is not None  # reads go on
    assert [line for line in caplog.records if line.levelno >= logging.WARNING] == []
    started.set(started.legacy, "open")  # the cutover was given up
    desk.company(SALON).upsert_client(client(2)).unwrap()
    assert clients(started.legacy) == [1, 2]


def test_only_the_live_side_has_connections(desk: Frontdesk, started: Move) -> None:
    salon = desk.company(SALON)
    for old, new in ((started.legacy, started.primary), (started.primary, started.legacy)):
        at_once([lambda: salon.get_company().unwrap()] * 8)
        assert 1 <= sessions(old) <= 3
        assert sessions(new) == 0
        hand_over(started, old, new)
        time.sleep(moving.LOOK_EVERY)
        salon.get_company().unwrap()
        wait_until(lambda left=old: sessions(left) == 0)


def test_a_busy_process_has_no_more_connections_than_it_may_and_its_checks_do_not_wait(
    desk: Frontdesk, started: Move
) -> None:
    salon = desk.company(SALON)
    stop, most = threading.Event(), [0]

    def work() -> None:
        while not stop.is_set():
            desk.database.read(lambda connection: connection.execute("SELECT pg_sleep(0.05)").fetchone())

    threads = [threading.Thread(target=work) for _ in range(9)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 1.5
    while time.monotonic() < deadline:
        most[0] = max(most[0], sessions(started.legacy))
    stop.set()
    for thread in threads:
        thread.join()
    assert most == [3]
    held = [desk.database.pool.getconn() for _ in range(3)]
    time.sleep(moving.LOOK_EVERY)
    began = time.monotonic()
    desk.database.connect_alone(1_000).close()
    assert time.monotonic() - began < 0.9
    for connection in held:
        connection.close()
    salon.get_company().unwrap()


def test_a_caller_that_waited_for_a_connection_of_the_old_side_gets_one_of_the_new(
    desk: Frontdesk, started: Move
) -> None:
    salon = desk.company(SALON)
    salon.get_company().unwrap()
    held = [desk.database.pool.getconn() for _ in range(3)]
    old = desk.database.pool
    done = threading.Thread(target=lambda: salon.upsert_client(client(1)).unwrap())
    done.start()
    wait_until(lambda: old.waiting == 1)
    hand_over(started, started.legacy, started.primary)
    time.sleep(moving.LOOK_EVERY)
    desk.database.live()
    done.join(5)
    assert clients(started.primary) == [1]
    for connection in held:
        connection.close()


def test_what_is_no_data_layer_follows_too(desk: Frontdesk, started: Move) -> None:
    limiter = RateLimiter(desk.database, "moved.example")
    limiter.take_turn()
    observe(desk.database, desk.settings)
    hand_over(started, started.legacy, started.primary)
    limiter.take_turn()
    limiter.pause(5)
    assert desk.database.name == "primary"
    observe(desk.database, desk.settings)
    assert desk.database.live().settings.migration_url() == started.primary


def test_failures_are_tagged_with_the_side(desk: Frontdesk, started: Move) -> None:
    for url, name in ((started.legacy, "legacy"), (started.primary, "primary")):
        desk.company(SALON).upsert_client(client(1)).unwrap()
        assert sentry.backend == name
        hand_over(started, url, started.primary if name == "legacy" else started.legacy)


# When a side is gone


@pytest.fixture
def other_server() -> Iterator[Server]:
    server = Server()
    yield server
    server.delete()


def test_the_other_side_is_not_even_asked(started: Move, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = Move(started.legacy, "postgresql://nobody@127.0.0.1:1/gone")
    asked: list[Database] = []
    ask = sides.ask
    monkeypatch.setattr(sides, "ask", lambda database: asked.append(database) or ask(database))
    with Frontdesk(gone.settings()) as desk:
        for number in range(1, 8):
            desk.company(SALON).upsert_client(client(number)).unwrap()
            time.sleep(0.2)
        legacy, primary = desk.database.both["legacy"], desk.database.both["primary"]
    assert asked.count(primary) == 1  # to begin with
    assert 2 <= asked.count(legacy) <= 5
    assert len(clients(started.legacy)) == 7


def test_a_live_side_that_is_down_stays_the_live_side_unless_the_other_says_open(started: Move) -> None:
    """The standby may lack writes: what cannot be reached is an error."""
    gone = Move("postgresql://nobody@127.0.0.1:1/gone", started.primary)
    with Frontdesk(gone.settings(postgres_connection_timeout=300)) as desk:
        assert desk.company(SALON).get_company().error.code == "unavailable"
        with pytest.raises(UnavailableError), desk.unit_of_work(SALON) as uow:
            uow.clients.upsert(client(1))
        started.set(started.primary, "open")
        time.sleep(moving.LOOK_EVERY)
        desk.company(SALON).upsert_client(client(1)).unwrap()
    assert clients(started.primary) == [1]


@pytest.mark.parametrize("fault", [pytest.param("kill", marks=pytest.mark.full), "freeze"])
def test_a_server_lost_after_the_hand_over_is_left_behind(
    started: Move, other_server: Server, fault: str
) -> None:
    execute(other_server.url, "CREATE TABLE alembic_version ()", "CREATE TABLE companies ()")
    execute(
        other_server.url,
        "CREATE SCHEMA frontdesk_transfer",
        "CREATE TABLE frontdesk_transfer.side AS SELECT 'open' AS state, 1::bigint AS epoch, now() AS until",
    )
    pair = Move(other_server.url, started.primary)
    with Frontdesk(pair.settings(postgres_connection_timeout=1_000, postgres_query_timeout=2_000)) as desk:
        desk.database.read(lambda connection: connection.execute("SELECT 1").fetchone())
        assert desk.database.name == "legacy"
        getattr(other_server, fault)()
        started.set(started.primary, "open")
        began = time.monotonic()
        while desk.company(SALON).upsert_client(client(1)).error is not None:
            assert time.monotonic() - began < 10
        assert desk.database.name == "primary"
    if fault == "freeze":
        other_server.thaw()
    assert clients(started.primary) == [1]


def test_a_read_that_the_old_side_broke_off_is_made_on_the_live_one(desk: Frontdesk, started: Move) -> None:
    read: list[str] = []

    def name(connection: psycopg.Connection[Any]) -> str:
        read.append(connection.info.dbname)
        if len(read) == 1:
            hand_over(started, started.legacy, started.primary)
            raise psycopg.OperationalError
        return connection.info.dbname

    assert desk.database.read(name) in started.primary
    assert len(read) == 2


def test_a_write_that_got_no_connection_is_made_on_the_live_side(desk: Frontdesk, started: Move) -> None:
    runs = []

    def work(uow: UnitOfWork) -> None:
        runs.append(1)
        if len(runs) == 1:
            hand_over(started, started.legacy, started.primary)
            raise NoConnectionError
        uow.clients.upsert(client(1))

    desk.transact(SALON, work)
    assert clients(started.primary) == [1]


def test_a_commit_whose_answer_was_lost_is_not_run_again(desk: Frontdesk, started: Move) -> None:
    runs = []

    def work(uow: object) -> None:
        runs.append(1)
        hand_over(started, started.legacy, started.primary)
        raise UnavailableError  # what a lost connection becomes

    with pytest.raises(UnavailableError):
        desk.transact(SALON, work)
    assert len(runs) == 1
