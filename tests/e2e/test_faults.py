"""Faults of real processes, gunicorn and a separate PostgreSQL server, under load.

After each fault, no acknowledged write is lost, and writes succeed again within seconds without a restart.
Health probes are answered throughout. tests/integration/test_faults.py tests the errors of the library.
"""

import json
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest

from app import Frontdesk, Settings
from app.config import PROJECT_ROOT
from app.migrations import runner
from tests.e2e.load import COMPANY_ID, Load, under_load
from tests.processes import BIN, TLS, Process, free_port, get, is_serving, running_process, wait_until
from tests.servers import Server
from tests.threads import at_once

pytestmark = pytest.mark.xdist_group("faults")  # run one after another, because they share a server

RECOVERY_SECONDS = 5.0
DRAIN_SECONDS = 1.9  # after SIGTERM, the service reports "not ready" for this time and still serves requests

TERMINATE = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Run a server that tests may break; it must run again after each test."""
    server = Server()
    try:
        runner.upgrade(server.url)
        with Frontdesk(Settings(database_url=server.url)) as desk:
            desk.company(COMPANY_ID).upsert_company({"title": "Salon"}).unwrap()
        yield server
    finally:
        server.delete()


class Service:
    """A gunicorn process on its own port."""

    def __init__(self, process: Process, port: int) -> None:
        self.process = process
        self.port = port
        self.address = f"http://127.0.0.1:{port}"

        self.first_workers = self.workers

    @property
    def workers(self) -> list[int]:
        """Process ids of the workers."""
        return [worker.pid for worker in self.process.children()]

    def assert_never_restarted(self) -> None:
        """Assert that no worker has been replaced since the start."""
        assert self.workers == self.first_workers


Starter = Callable[..., Service]


@contextmanager
def started(
    server: Server, folder: Path, *options: str, output: Path | None = None, **environment: str
) -> Iterator[Service]:
    """Run the service until it is ready, and stop it at the end of the `with` block."""
    port = free_port()
    command = [str(BIN / "gunicorn"), "--bind", f"127.0.0.1:{port}", *options, "wsgi:app"]
    with running_process(
        command, output or folder / "output", PROJECT_ROOT, DATABASE_URL=server.url, **environment
    ) as process:
        wait_until(lambda: is_serving(port))
        wait_until(lambda: get(port, "/health/ready").status_code == 200)
        yield Service(process, port)


@pytest.fixture
def serve(server: Server, tmp_path: Path) -> Iterator[Starter]:
    """Return a function that starts the service: `serve("--workers", "2", POSTGRES_MAX_CONNECTIONS="1")`.

    Positional arguments are options of gunicorn, keyword arguments are environment variables.
    """
    with ExitStack() as stack:
        yield lambda *options, **others: stack.enter_context(started(server, tmp_path, *options, **others))


@pytest.fixture(scope="module")
def service(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Run a service with the default options. Tests may disturb it, but must neither stop nor restart it."""
    with started(server, tmp_path_factory.mktemp("service")) as service:
        yield service


def wait_for_work(load: Load, since: float) -> float:
    """Wait until a write that began after `since` is acknowledged; return its delay in seconds."""
    wait_until(lambda: load.success_since(since))
    return load.last_success - since


class TestPostgreSQL:
    def test_the_service_recovers_from_a_killed_and_restarted_server(
        self, server: Server, service: Service
    ) -> None:
        with under_load(service.address) as load:
            wait_for_work(load, time.monotonic())
            server.kill()
            wait_until(lambda: get(service.port, "/health/ready").status_code == 503)
            time.sleep(1)
            server.start()
            assert wait_for_work(load, time.monotonic()) < RECOVERY_SECONDS
            wait_until(lambda: get(service.port, "/health/ready").status_code == 200)
        load.assert_probes_were_answered()
        load.assert_nothing_was_lost(server.url)
        service.assert_never_restarted()

    def test_the_service_recovers_when_all_backends_are_terminated(
        self, server: Server, service: Service
    ) -> None:
        with under_load(service.address) as load:
            for _ in range(5):
                wait_for_work(load, time.monotonic())
                with psycopg.connect(server.url, autocommit=True) as connection:
                    assert connection.execute(TERMINATE).fetchall()
                assert wait_for_work(load, time.monotonic()) < RECOVERY_SECONDS
        load.assert_probes_were_answered()
        load.assert_nothing_was_lost(server.url)
        service.assert_never_restarted()

    @pytest.mark.parametrize("seconds", [2, pytest.param(10, marks=pytest.mark.full)])
    def test_the_service_recovers_from_a_server_frozen_for_seconds(
        self, server: Server, service: Service, seconds: int
    ) -> None:
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
            assert wait_for_work(load, time.monotonic()) < RECOVERY_SECONDS
        load.assert_probes_were_answered()
        load.assert_nothing_was_lost(server.url)
        service.assert_never_restarted()


def test_an_exhausted_pool_is_reported_and_recovers(server: Server, serve: Starter) -> None:
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
        assert wait_for_work(load, time.monotonic()) < RECOVERY_SECONDS
    load.assert_probes_were_answered()
    load.assert_nothing_was_lost(server.url)
    service.assert_never_restarted()


def set_key(service: Service, number: int) -> httpx.Response:
    """Write one session key through the service."""
    address = f"{service.address}/whatsapp/{COMPANY_ID}/keys/set"
    body = {"session": {f"burst-{number}.0": {}}}
    return httpx.post(address, json=body, timeout=30, trust_env=False, verify=TLS)


def test_a_burst_of_more_requests_than_threads_is_served_while_requests_complete(service: Service) -> None:
    answers = at_once([lambda number=number: set_key(service, number) for number in range(100)])
    assert {answer.status_code for answer in answers} == {204}


def test_requests_beyond_the_capacity_are_rejected_within_seconds(server: Server, serve: Starter) -> None:
    """Requests complete, but too slowly to serve all that are queued."""
    service = serve(POSTGRES_MAX_CONNECTIONS="1")
    done = threading.Event()

    def block_writes_most_of_the_time() -> None:
        with psycopg.connect(server.url) as other:
            while not done.is_set():
                other.execute("LOCK TABLE whatsapp_keys IN ACCESS EXCLUSIVE MODE")
                done.wait(0.4)
                other.rollback()

    def send_burst() -> list[httpx.Response]:
        try:
            return at_once([lambda number=number: set_key(service, number) for number in range(60)])
        finally:
            done.set()

    answers, _ = at_once([send_burst, block_writes_most_of_the_time])
    assert Counter(answer.status_code for answer in answers).keys() == {204, 503}
    rejected = [answer for answer in answers if "Too many requests" in answer.text]
    assert rejected
    assert {answer.headers["Retry-After"] for answer in rejected} == {"1"}
    assert all(answer.elapsed.total_seconds() < 8 for answer in rejected)


def test_clients_with_incomplete_requests_do_not_delay_probes(server: Server, service: Service) -> None:
    with ExitStack() as stack:

        def connect_and_send(data: bytes) -> socket.socket:
            client = stack.enter_context(socket.create_connection(("127.0.0.1", service.port), 10))
            client.sendall(data)
            return client

        slow = connect_and_send(b"GET /health/live HTTP/1.1\r\nHost: ")
        for data in [b"", b"GET /heal", b"POST /whatsapp/1/keys/set HTTP/1.1\r\nHost: "]:
            for _ in range(50):
                connect_and_send(data)
        assert set_key(service, 1).status_code == 204  # incomplete headers do not occupy a thread
        gone = connect_and_send(b"GET /heal")
        gone.shutdown(socket.SHUT_WR)
        assert gone.recv(12) in (b"", b"HTTP/1.1 400")
        for _ in range(12):
            connect_and_send(b"POST /whatsapp/1/keys/set HTTP/1.1\r\nContent-Length: 9\r\n\r\n")
        with under_load(service.address, writers=2) as load:
            wait_until(lambda: len(load.probes) > 8)
            assert load.last_success == 0.0  # every thread for writes waits for a missing body
            slow.sendall(b"here\r\n\r\n")
            assert slow.recv(12) == b"HTTP/1.1 200"
            wait_for_work(load, time.monotonic())
        load.assert_probes_were_answered()
    service.assert_never_restarted()


def test_the_service_works_while_the_disk_of_its_log_is_full(server: Server, serve: Starter) -> None:
    service = serve(output=Path("/dev/full"))
    with under_load(service.address) as load:
        wait_for_work(load, time.monotonic())
        with psycopg.connect(server.url, autocommit=True) as connection:
            assert connection.execute(TERMINATE).fetchall()  # causes log lines
        assert wait_for_work(load, time.monotonic()) < RECOVERY_SECONDS
    load.assert_probes_were_answered()
    load.assert_nothing_was_lost(server.url)
    service.assert_never_restarted()
    service.process.send(signal.SIGTERM)
    assert service.process.wait() == 0


def test_clients_that_never_read_their_responses_do_not_block_the_service(
    server: Server, service: Service
) -> None:
    large = {"session": {f"large-{number}.0": {"text": "x" * 100_000} for number in range(60)}}
    path = f"/whatsapp/{COMPANY_ID}/keys"
    assert httpx.post(f"{service.address}{path}/set", json=large, trust_env=False).status_code == 204
    body = json.dumps({"type": "session", "ids": [*large["session"]]}).encode()
    request = f"POST {path}/get HTTP/1.1\r\nHost: here\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    with ExitStack() as stack:
        for _ in range(12):  # more than threads
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", service.port))
            client.sendall(request)
        with under_load(service.address) as load:
            # A blocked response releases its thread after a timeout; until then, other threads serve probes.
            began = time.monotonic()
            wait_until(lambda: len(load.probes) > 20)
            assert time.monotonic() - began < 15
            wait_for_work(load, time.monotonic())
            wait_for_work(load, time.monotonic() + 1)
        load.assert_probes_were_answered()
    load.assert_nothing_was_lost(server.url)
    service.assert_never_restarted()


def test_a_thousand_concurrent_probes_cause_few_database_checks(server: Server, service: Service) -> None:

    def connections() -> int:
        with psycopg.connect(server.url) as connection:
            row = connection.execute(
                "SELECT sessions FROM pg_stat_database WHERE datname = current_database()"
            ).fetchone()
        assert row is not None
        return int(row[0])

    time.sleep(1.5)  # statistics may be one second old
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
        assert wait_for_work(load, time.monotonic()) < RECOVERY_SECONDS
    assert first == [b"HTTP/1.1 200"] * 1000
    assert seconds < 10
    assert load.unanswered == []
    load.assert_nothing_was_lost(server.url)
    service.assert_never_restarted()
    time.sleep(1.5)
    # Each check connects at most once per second; the probes of the load cause some of them.
    assert connections() - before < 20 + 3 * seconds


def test_the_service_recovers_from_a_killed_worker(server: Server, serve: Starter) -> None:
    service = serve("--workers", "2")
    wait_until(lambda: len(service.workers) == 2)
    with under_load(service.address) as load:
        for _ in range(2):
            wait_for_work(load, time.monotonic())
            before = service.workers
            psutil.Process(before[0]).kill()
            assert wait_for_work(load, time.monotonic()) < RECOVERY_SECONDS
            wait_until(lambda before=before: len({*service.workers} - {before[0]}) == 2)
    load.assert_nothing_was_lost(server.url)
    # Only requests on connections of the killed worker may be unanswered.
    assert len(load.unanswered) <= 8
    for _ in range(10):
        assert get(service.port, "/health/database/metrics").status_code == 200


def test_after_sigterm_the_service_reports_not_ready_and_completes_running_requests(
    server: Server, serve: Starter
) -> None:
    service = serve()

    def waiting() -> int:
        database = get(service.port, "/health/database").json()["database"]
        return int(database["connections"]["waiting"])

    with under_load(service.address) as load:
        wait_for_work(load, time.monotonic())
        with psycopg.connect(server.url) as other:
            other.execute("LOCK TABLE whatsapp_keys IN ACCESS EXCLUSIVE MODE")
            wait_until(lambda: waiting() == 3)  # the other three writers have a connection
            before, stopped = len(load.acknowledged), time.monotonic()
            service.process.send(signal.SIGTERM)
            wait_until(lambda: get(service.port, "/health/ready").status_code == 503)
            assert get(service.port, "/health/live").status_code == 200
            time.sleep(3)  # longer than the service accepts new connections
            other.rollback()
        assert service.process.wait() == 0
        assert len(load.acknowledged) >= before + 6
    # Requests on connections opened while the listener closes may break; earlier ones may not.
    assert [began for began in load.broken if began < stopped + DRAIN_SECONDS] == []
    load.assert_nothing_was_lost(server.url)


def test_sigterm_under_load_breaks_no_request(server: Server, serve: Starter) -> None:
    service = serve()
    with under_load(service.address) as load:
        wait_for_work(load, time.monotonic())
        stopped = time.monotonic()
        service.process.send(signal.SIGTERM)
        wait_until(lambda: get(service.port, "/health/ready").status_code == 503)
        assert service.process.wait() == 0
    assert load.last_success > stopped + 0.5  # new requests were still accepted
    assert [began for began in load.broken if began < stopped + DRAIN_SECONDS] == []
    load.assert_nothing_was_lost(server.url)
