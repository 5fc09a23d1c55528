"""Reactions of the client to faults of YClients, and data that it must not reveal."""

import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from app import Frontdesk, Settings
from app.demo.fake_yclients.salon import FakeSalon
from app.demo.fake_yclients.server import Fault
from app.errors import ConfigurationError, FrontdeskError
from app.yclients.api.client import MAX_REQUEST_ATTEMPTS, YClientsClient
from app.yclients.api.rate_limit import RateLimiter
from app.yclients.errors import (
    ForbiddenError,
    PaymentRequiredError,
    RefusedError,
    TokensMissingError,
    TransientError,
    UnauthorizedError,
    YClientsError,
    YClientsNotFoundError,
)
from tests.processes import wait_until
from tests.stopwatch import Stopwatch
from tests.upstream import (
    FAST_BACKOFF_SECONDS,
    SMALL,
    UNLIMITED,
    Upstream,
    upstream_of,
    with_yclients_settings,
)

ClientOf = Callable[..., YClientsClient]
SECRET = "".join(["tok", "en", "-of", "-the", "-user"])


@pytest.fixture
def upstream(settings: Settings, company_id: int) -> Iterator[Upstream]:
    with upstream_of(settings, FakeSalon(company_id, SMALL)) as upstream:
        yield upstream


@pytest.fixture
def client(upstream: Upstream) -> Iterator[YClientsClient]:
    with upstream.client() as client:
        yield client


@pytest.fixture
def client_of(desk: Frontdesk) -> Iterator[Callable[..., YClientsClient]]:
    """Makes clients: `client_of(settings, initial_backoff=30)`; all of them are closed in the end."""
    with ExitStack() as stack:

        def make(settings: Settings, **options: Any) -> YClientsClient:
            limiter = RateLimiter(desk.database, "tests", UNLIMITED)
            return stack.enter_context(
                YClientsClient(settings, limiter, **{"initial_backoff": FAST_BACKOFF_SECONDS, **options})
            )

        yield make


class TestRefusedRequests:
    @pytest.mark.parametrize(
        ("status", "kind", "words"),
        [
            (401, UnauthorizedError, "YCLIENTS_USER_TOKEN"),
            (402, PaymentRequiredError, "licence"),
            (403, ForbiddenError, "permission"),
            (404, YClientsNotFoundError, "company id"),
            (422, RefusedError, "Произошла ошибка"),
            (400, RefusedError, "400"),
            (301, YClientsError, "YCLIENTS_BASE_URL"),
        ],
    )
    def test_each_refusal_has_its_own_error_and_is_not_retried(
        self, upstream: Upstream, client: YClientsClient, status: int, kind: type[Exception], words: str
    ) -> None:
        upstream.fake.faults.append(Fault("status", status=status))
        with pytest.raises(kind, match=words) as raised:
            client.staff(upstream.company_id)
        assert str(status) in str(raised.value)
        assert client.request_count == 1

    def test_the_error_contains_the_message_of_yclients(
        self, upstream: Upstream, client: YClientsClient
    ) -> None:
        upstream.fake.faults.append(Fault("unsuccessful"))
        with pytest.raises(RefusedError, match="Произошла ошибка"):
            client.staff(upstream.company_id)

    def test_redirects_are_not_followed(
        self, client_of: ClientOf, upstream: Upstream, client: YClientsClient
    ) -> None:
        elsewhere: list[str] = []

        def redirect(connection: socket.socket) -> None:
            elsewhere.append(connection.recv(4096).decode())
            connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n")

        with answering(redirect) as address:
            client = client_of(with_yclients_settings(upstream.desk.settings, address))
            with pytest.raises(YClientsError, match="another URL"):
                client.company(1)
        assert len(elsewhere) == 1


class TestTransientErrors:
    @pytest.mark.parametrize(
        "fault",
        [
            Fault("status", status=500, times=3),
            Fault("status", status=503, times=3),
            Fault("status", status=408, times=3),
            Fault("garbage", times=3),
            Fault("cut", times=3),
        ],
        ids=lambda fault: f"{fault.kind}-{fault.status}",
    )
    def test_a_transient_error_is_retried(
        self, upstream: Upstream, client: YClientsClient, fault: Fault
    ) -> None:
        upstream.fake.faults.append(fault)
        assert len(client.staff(upstream.company_id).rows) == SMALL.staff
        assert client.request_count == 4

    @pytest.mark.parametrize(("kind", "words"), [("status", "500"), ("garbage", "not JSON")])
    def test_a_lasting_error_is_raised_after_the_last_attempt(
        self, upstream: Upstream, client: YClientsClient, kind: str, words: str
    ) -> None:
        upstream.fake.faults.append(Fault(kind, times=99))
        with pytest.raises(TransientError, match=words) as raised:
            client.staff(upstream.company_id)
        assert raised.value.retryable
        assert client.request_count == MAX_REQUEST_ATTEMPTS

    @pytest.mark.parametrize("status", [429, 503])
    def test_the_retry_waits_for_the_time_in_retry_after(
        self, upstream: Upstream, client: YClientsClient, status: int
    ) -> None:
        upstream.fake.faults.append(Fault("status", status=status, retry_after=1))
        began = time.monotonic()
        with Stopwatch() as watch:
            client.staff(upstream.company_id)
        assert time.monotonic() - began >= 1.0
        assert watch.seconds < 3.0

    def test_retry_after_pauses_the_requests_of_all_processes(
        self, upstream: Upstream, client: YClientsClient
    ) -> None:
        upstream.fake.faults.append(Fault("status", status=429, retry_after=1))
        limiter = RateLimiter(upstream.desk.database, upstream.desk.settings.yclients_base_url, UNLIMITED)
        asking = threading.Thread(target=client.staff, args=(upstream.company_id,))
        asking.start()
        wait_until(lambda: limiter.reserve() > 0)
        asking.join()

    def test_retry_after_can_be_a_date(self, client_of: ClientOf, upstream: Upstream) -> None:
        moment = datetime.now(UTC) + timedelta(seconds=2)
        date = moment.strftime("%a, %d %b %Y %H:%M:%S GMT").encode()
        with answering(
            sending(b"HTTP/1.1 429 Slow\r\nContent-Length: 0\r\nRetry-After: " + date + b"\r\n\r\n"),
            sending(b'HTTP/1.1 200 OK\r\nContent-Length: 28\r\n\r\n{"success": true, "data":[]}'),
        ) as address:
            client = client_of(with_yclients_settings(upstream.desk.settings, address))
            assert client.staff(1).rows == []
        assert datetime.now(UTC) >= moment.replace(microsecond=0)

    def test_a_wait_of_hours_is_an_error_for_the_caller(
        self, upstream: Upstream, client: YClientsClient
    ) -> None:
        upstream.fake.faults.append(Fault("status", status=429, retry_after=7200))
        with pytest.raises(TransientError, match="7200 s"):
            client.staff(upstream.company_id)
        assert client.request_count == 1

    def test_a_server_that_does_not_answer_causes_a_timeout(
        self, client_of: ClientOf, upstream: Upstream
    ) -> None:
        upstream.fake.faults.append(Fault("slow", seconds=1.5))
        with client_of(upstream.desk.settings, response_timeout=1.0) as client:
            assert len(client.staff(upstream.company_id).rows) == SMALL.staff
            assert client.request_count == 2

    def test_a_response_that_arrives_too_slowly_is_aborted(
        self, client_of: ClientOf, upstream: Upstream
    ) -> None:
        def drip(connection: socket.socket) -> None:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            for _ in range(20):
                connection.sendall(b" ")
                time.sleep(0.1)

        with answering(*[drip] * MAX_REQUEST_ATTEMPTS) as address:
            settings = with_yclients_settings(upstream.desk.settings, address)
            with pytest.raises(TransientError, match="more than"):
                client_of(settings, response_timeout=0.3).staff(1)

    def test_an_unreachable_address_is_reported(self, client_of: ClientOf, upstream: Upstream) -> None:
        settings = with_yclients_settings(upstream.desk.settings, "http://127.0.0.1:1/api")
        with pytest.raises(TransientError, match="cannot be reached"):
            client_of(settings).staff(1)

    def test_closing_the_client_ends_its_waits(self, client_of: ClientOf, upstream: Upstream) -> None:
        upstream.fake.faults.append(Fault("status", status=503, times=99))
        client = client_of(upstream.desk.settings, initial_backoff=30)
        ends: list[BaseException] = []

        def ask() -> None:
            try:
                client.staff(upstream.company_id)
            except YClientsError as error:
                ends.append(error)

        with client:
            asking = threading.Thread(target=ask)
            asking.start()
            wait_until(lambda: client.request_count == 1)
            time.sleep(0.3)  # until it waits
        asking.join(20)  # less than it would wait
        assert [str(end) for end in ends] == ["The sync was stopped."]


class TestSecrets:
    @pytest.mark.parametrize("token", ["", "  ", "a\nb", "a b", "токен", "a\x7f"])
    def test_a_token_that_is_no_valid_header_is_refused_without_being_shown(
        self, client_of: ClientOf, desk: Frontdesk, token: str
    ) -> None:
        settings = Settings(
            **desk.settings.model_dump(exclude_unset=True)
            | {"yclients_partner_token": "partner", "yclients_user_token": token}
        )
        with pytest.raises(TokensMissingError) as raised:
            client_of(settings)
        assert token.strip() == "" or token not in str(raised.value)

    def test_production_sends_tokens_over_https_only(self, client_of: ClientOf, desk: Frontdesk) -> None:
        settings = Settings(
            database_url="postgresql://u@h/d",
            environment="production",
            sentry_enabled=False,
            yclients_base_url="http://api.example/api/v1",
            yclients_partner_token="partner",
            yclients_user_token=SECRET,
        )
        with pytest.raises(ConfigurationError, match="https"):
            client_of(settings)

    def test_an_invalid_address_is_reported(self, client_of: ClientOf, desk: Frontdesk) -> None:
        settings = with_yclients_settings(desk.settings, "http://[:::1/api")
        with pytest.raises(ConfigurationError, match="YCLIENTS_BASE_URL"):
            client_of(settings)

    def test_an_invalid_certificate_is_an_error_without_a_retry(
        self, client_of: ClientOf, upstream: Upstream, tmp_path: Path
    ) -> None:
        received: list[bytes] = []
        with answering(lambda each: received.append(each.recv(4096)), tls=self_signed(tmp_path)) as address:
            settings = with_yclients_settings(upstream.desk.settings, address.replace("http:", "https:"))
            client = client_of(settings)
            with pytest.raises(YClientsError, match="certificate"):
                client.staff(1)
        assert client.request_count == 1
        assert received == []

    @pytest.mark.parametrize(
        "fault", [None, Fault("status", status=500, times=9), Fault("status", status=401)]
    )
    def test_no_token_is_in_a_log_an_error_or_a_repr(
        self, client_of: ClientOf, upstream: Upstream, caplog: pytest.LogCaptureFixture, fault: Fault | None
    ) -> None:
        if fault is not None:
            upstream.fake.faults.append(fault)
        caplog.set_level(logging.DEBUG)
        settings = Settings(
            **upstream.desk.settings.model_dump(exclude_unset=True) | {"yclients_user_token": SECRET}
        )
        client = client_of(settings)
        with pytest.raises(FrontdeskError) as raised:  # the stand-in knows another one
            client.staff(upstream.company_id)
        shown = [*caplog.messages, str(raised.value), repr(raised.value), repr(client), repr(vars(client))]
        assert caplog.messages
        assert not [each for each in shown if SECRET in each]


Handler = Callable[[socket.socket], Any]


def sending(answer: bytes) -> Handler:
    def send(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(answer)

    return send


@contextmanager
def answering(*handlers: Handler, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """A server that gives each connection to the next handler, and then closes it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for handler in handlers:
                try:
                    connection, _ = listener.accept()
                    with tls.wrap_socket(connection, server_side=True) if tls else connection as each:
                        handler(each)
                except OSError:  # the client has disconnected, or the listener is closed
                    continue

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/api"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def self_signed(folder: Path) -> ssl.SSLContext:
    """A certificate for this machine that no trusted authority has signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    file = folder / "pair.pem"
    file.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context
