"""Faults against real processes: gunicorn and a PostgreSQL of the tests' own, under load.

After each: nothing acknowledged is lost, work goes on within seconds without a restart, and probes are
answered throughout. What callers of the library see is in tests/integration/test_faults.py.
"""

import json
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest

from app import Frontdesk, Settings
from app.config import PROJECT_ROOT
from app.migrations import runner
from tests.e2e.load import COMPANY_ID, Load, under_load
from tests.processes import BIN, Process, free_port, get, is_serving, running_process, wait_until
from tests.servers import Server
from tests.threads import at_once

pytestmark = pytest.mark.xdist_group("faults")  # they freeze and kill: one after the other

RECOVERY = 5.0  # seconds
DRAIN = 1.9  # seconds in which it says that it is not ready, and answers all the same

TERMINATE = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server that tests may break, as long as it runs again afterwards."""
    server = Server()
    try:
        runner.upgrade(server.url)
        with Frontdesk(Settings(database_url=server.url)) as desk:
            desk.company(COMPANY_ID).upsert_company({"title": "Salon"}).unwrap()
        yield server
    finally:
        server.delete()


class Service:
    """gunicorn on a port of its own."""

    def __init__(self, process: Process, port: int) -> None:
        self.process = process
        self.port = port
        self.address = f"http://127.0.0.1:{port}"

        self.first_workers = self.workers

    @property
    def workers(self) -> list[int]:
        return [worker.pid for worker in self.process.children()]

    def assert_never_restarted(self) -> None:
        assert self.workers == self.first_workers


Starter = Callable[..., Service]


@pytest.fixture
def serve(server: Server, tmp_path: Path) -> Iterator[Starter]:
    """Starts the service; `options` for gunicorn, capitals for the environment."""
    with ExitStack() as stack:

        def start(*options: str, output: Path | None = None, **environment: str) -> Service:
            port = free_port()
            command = [str(BIN / "gunicorn"), "--bind", f"127.0.0.1:{port}", *options, "wsgi:app"]
            process = stack.enter_context(
                running_process(
                    command,
                    output or tmp_path / "output",
                    PROJECT_ROOT,
                    DATABASE_URL=server.url,
                    **environment,
                )
            )
            wait_until(lambda: is_serving(port))
            wait_until(lambda: get(port, "/health/ready").status_code == 200)
            return Service(process, port)

        yield start


def wait_for_work(load: Load, since: float) -> float:
    """Wait until a write that began after `since` is acknowledged; seconds that it took."""
    wait_until(lambda: load.success_since(since))
    return load.last_success - since


class TestPostgreSQL:
    def test_killed_and_started_again(self, server: Server, serve: Starter) -> None:
        service = serve()
        with under_load(service.address) as load:
            wait_for_work(load, time.monotonic())
            server.kill()
            wait_until(lambda: get(service.port, "/health/ready").status_code == 503)
            time.sleep(1)
            server.start()
            assert wait_for_work(load, time.monotonic()) < RECOVERY
            wait_until(lambda: get(service.port, "/health/ready").status_code == 200)
        load.assert_probes_were_answered()
        load.assert_nothing_was_lost(server.url)
        service.assert_never_restarted()

    def test_terminates_every_backend(self, server: Server, serve: Starter) -> None:
        service = serve()
        with under_load(service.address) as load:
            for _ in range(5):
                wait_for_work(load, time.monotonic())
                with psycopg.connect(server.url, autocommit=True) as connection:
                    assert connection.execute(TERMINATE).fetchall()
                assert wait_for_work(load, time.monotonic()) < RECOVERY
        load.assert_probes_were_answered()
        load.assert_nothing_was_lost(server.url)
        service.assert_never_restarted()

    @pytest.mark.parametrize("seconds", [2, pytest.param(10, marks=pytest.mark.full)])
    def test_is_frozen_for_some_seconds(self, server: Server, serve: Starter, seconds: int) -> None:
        service = serve()
        with under_load(service.address, writers=20) as load:
            wait_for_work(load, time.monotonic())
            server.freeze()
            try:
                wait_until(lambda: get(service.port, "/health/ready").status_code == 503)
                status = get(service.port, "/status")
                assert "The database does not answer." in status.text
                time.sleep(seconds)
            finally:
                server.thaw()
            assert wait_for_work(load, time.monotonic()) < RECOVERY
        load.assert_probes_were_answered()
        load.assert_nothing_was_lost(server.url)
        service.assert_never_restarted()


def test_the_pool_is_exhausted(server: Server, serve: Starter) -> None:
    service = serve(POSTGRES_CONNECTION_TIMEOUT="1000")
    with under_load(service.address, writers=20) as load:
        wait_for_work(load, time.monotonic())
        with psycopg.connect(server.url) as other:
            other.execute("LOCK TABLE whatsapp_keys IN ACCESS EXCLUSIVE MODE")
            wait_until(lambda: "503 unavailable" in load.refused)
            health = get(service.port, "/health/database")
            assert health.status_code == 200
            database = health.json()["database"]
            assert database["connections"]["total"] == database["connections"]["max"] == 3
            assert database["health"]["status"] == "at_capacity"
            assert "The pool is exhausted" in get(service.port, "/status").text
            time.sleep(2)
        assert wait_for_work(load, time.monotonic()) < RECOVERY
    load.assert_probes_were_answered()
    load.assert_nothing_was_lost(server.url)
    service.assert_never_restarted()


def set_key(service: Service, number: int) -> httpx.Response:
    address = f"{service.address}/whatsapp/{COMPANY_ID}/keys/set"
    return httpx.post(address, json={"session": {f"burst-{number}.0": {}}}, timeout=30, trust_env=False)


def test_a_burst_beyond_the_threads_is_answered_as_long_as_things_move(serve: Starter) -> None:
    service = serve()
    answers = at_once([lambda number=number: set_key(service, number) for number in range(100)])
    assert {answer.status_code for answer in answers} == {204}


def test_nobody_stands_in_line_for_long(server: Server, serve: Starter) -> None:
    """Things move, but far too slowly for all who came."""
    service = serve(POSTGRES_MAX_CONNECTIONS="1")
    done = threading.Event()

    def let_one_through_now_and_then() -> None:
        with psycopg.connect(server.url) as other:
            while not done.is_set():
                other.execute("LOCK TABLE whatsapp_keys IN ACCESS EXCLUSIVE MODE")
                done.wait(0.4)
                other.rollback()

    def send_crowd() -> list[httpx.Response]:
        try:
            return at_once([lambda number=number: set_key(service, number) for number in range(60)])
        finally:
            done.set()

    answers, _ = at_once([send_crowd, let_one_through_now_and_then])
    assert Counter(answer.status_code for answer in answers).keys() == {204, 503}
    sent_away = [answer for answer in answers if "Too many requests" in answer.text]
    assert sent_away
    assert {answer.headers["Retry-After"] for answer in sent_away} == {"1"}
    assert all(answer.elapsed.total_seconds() < 8 for answer in sent_away)


def test_clients_that_say_nothing_or_half_of_it_keep_no_probe_waiting(server: Server, serve: Starter) -> None:
    service = serve()
    with ExitStack() as stack:

        def come_and_say(words: bytes) -> socket.socket:
            client = stack.enter_context(socket.create_connection(("127.0.0.1", service.port), 10))
            client.sendall(words)
            return client

        slow = come_and_say(b"GET /health/live HTTP/1.1\r\nHost: ")
        for words in [b"", b"GET /heal", b"POST /whatsapp/1/keys/set HTTP/1.1\r\nHost: "]:
            for _ in range(50):
                come_and_say(words)
        assert set_key(service, 1).status_code == 204  # a thread is for whoever has asked for something
        gone = come_and_say(b"GET /heal")
        gone.shutdown(socket.SHUT_WR)
        assert gone.recv(12) in (b"", b"HTTP/1.1 400")
        for _ in range(12):
            come_and_say(b"POST /whatsapp/1/keys/set HTTP/1.1\r\nContent-Length: 9\r\n\r\n")
        with under_load(service.address, writers=2) as load:
            wait_until(lambda: len(load.probes) > 8)
            assert load.last_success == 0.0  # every thread that works has somebody to wait for
            slow.sendall(b"here\r\n\r\n")
            assert slow.recv(12) == b"HTTP/1.1 200"
            wait_for_work(load, time.monotonic())
        load.assert_probes_were_answered()
    service.assert_never_restarted()


def test_the_disk_of_the_log_is_full(server: Server, serve: Starter) -> None:
    service = serve(output=Path("/dev/full"))
    with under_load(service.address) as load:
        wait_for_work(load, time.monotonic())
        with psycopg.connect(server.url, autocommit=True) as connection:
            assert connection.execute(TERMINATE).fetchall()  # there is something to log
        assert wait_for_work(load, time.monotonic()) < RECOVERY
    load.assert_probes_were_answered()
    load.assert_nothing_was_lost(server.url)
    service.assert_never_restarted()
    service.process.send(signal.SIGTERM)
    assert service.process.wait() == 0


def test_clients_that_never_read_their_answers(server: Server, serve: Starter) -> None:
    service = serve()
    large = {"session": {f"large-{number}.0": {"text": "x" * 100_000} for number in range(100)}}
    path = f"/whatsapp/{COMPANY_ID}/keys"
    assert httpx.post(f"{service.address}{path}/set", json=large, trust_env=False).status_code == 204
    body = json.dumps({"type": "session", "ids": [*large["session"]]}).encode()
    request = f"POST {path}/get HTTP/1.1\r\nHost: here\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    with ExitStack() as stack:
        for _ in range(30):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", service.port))
            client.sendall(request)
        with under_load(service.address) as load:
            # Each gives its thread back after a while; until then some are left for probes.
            began = time.monotonic()
            wait_until(lambda: len(load.probes) > 20)
            assert time.monotonic() - began < 15
            wait_for_work(load, time.monotonic())
            wait_for_work(load, time.monotonic() + 1)
        load.assert_probes_were_answered()
    load.assert_nothing_was_lost(server.url)
    service.assert_never_restarted()


def test_a_thousand_probes_at_once_cost_a_few_looks(server: Server, serve: Starter) -> None:
    service = serve()

    def connections() -> int:
        with psycopg.connect(server.url) as connection:
            row = connection.execute(
                "SELECT sessions FROM pg_stat_database WHERE datname = current_database()"
            ).fetchone()
        assert row is not None
        return int(row[0])

    time.sleep(1.5)  # statistics are as old as a second
    before = connections()
    request = b"GET /health/database HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"
    with under_load(service.address, writers=2) as load, ExitStack() as stack:
        wait_for_work(load, time.monotonic())
        began = time.monotonic()
        probes = [
            stack.enter_context(socket.create_connection(("127.0.0.1", service.port), 10))
            for _ in range(1000)
        ]
        for probe in probes:
            probe.sendall(request)
        first = [probe.recv(12) for probe in probes]
        seconds = time.monotonic() - began
        assert wait_for_work(load, time.monotonic()) < RECOVERY
    assert first == [b"HTTP/1.1 200"] * 1000
    assert seconds < 10
    assert load.unanswered == []
    load.assert_nothing_was_lost(server.url)
    service.assert_never_restarted()
    time.sleep(1.5)
    # A look a second, of each check; the load's own probes ask for them, too.
    assert connections() - before < 20 + 3 * seconds


def test_a_worker_is_killed(server: Server, serve: Starter) -> None:
    service = serve("--workers", "2")
    wait_until(lambda: len(service.workers) == 2)
    with under_load(service.address) as load:
        for _ in range(2):
            wait_for_work(load, time.monotonic())
            before = service.workers
            psutil.Process(before[0]).kill()
            assert wait_for_work(load, time.monotonic()) < RECOVERY
            wait_until(lambda before=before: len({*service.workers} - {before[0]}) == 2)
    load.assert_nothing_was_lost(server.url)
    # Its own connections broke with it; all others were answered.
    assert len(load.unanswered) <= 8
    for _ in range(10):
        assert get(service.port, "/health/database/metrics").status_code == 200


def test_sigterm_lets_what_is_under_way_finish_and_says_so_first(server: Server, serve: Starter) -> None:
    service = serve()

    def waiting() -> int:
        database = get(service.port, "/health/database").json()["database"]
        return int(database["connections"]["waiting"])

    with under_load(service.address) as load:
        wait_for_work(load, time.monotonic())
        with psycopg.connect(server.url) as other:
            other.execute("LOCK TABLE whatsapp_keys IN ACCESS EXCLUSIVE MODE")
            wait_until(lambda: waiting() == 3)  # and three have a connection
            before, stopped = len(load.acknowledged), time.monotonic()
            service.process.send(signal.SIGTERM)
            wait_until(lambda: get(service.port, "/health/ready").status_code == 503)
            assert get(service.port, "/health/live").status_code == 200
            time.sleep(3)  # longer than the door stays open
            other.rollback()
        assert service.process.wait() == 0
        assert len(load.acknowledged) >= before + 6
    # Who comes when the door is closing, and nobody reads what was written on it, is sent away.
    assert [began for began in load.broken if began < stopped + DRAIN] == []
    load.assert_nothing_was_lost(server.url)


def test_sigterm_under_load_breaks_nothing_off(server: Server, serve: Starter) -> None:
    service = serve()
    with under_load(service.address) as load:
        wait_for_work(load, time.monotonic())
        stopped = time.monotonic()
        service.process.send(signal.SIGTERM)
        wait_until(lambda: get(service.port, "/health/ready").status_code == 503)
        assert service.process.wait() == 0
    assert load.last_success > stopped + 0.5  # the door was still open
    assert [began for began in load.broken if began < stopped + DRAIN] == []
    load.assert_nothing_was_lost(server.url)
