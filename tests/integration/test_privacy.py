"""Failing operations send one Sentry event each; no text of their arguments leaves the process."""

import inspect
import json
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sentry_sdk
from click.testing import CliRunner
from pydantic import SecretStr

from app import Frontdesk, Settings, create_app
from app.cli import main
from app.data_layer import DataLayer
from app.models import Base
from app.observability import sentry
from app.whatsapp.session_store import SessionStore
from tests.watching import LogRecorder, SentryRecorder

NAME, PHONE, EMAIL, KEY = "Zaphodius", "+79685551234", "zaphod@betelgeuse.example", "c2VjcmV0LWtleQ"
MARKS = (NAME, PHONE[2:], EMAIL, KEY)
NOON = datetime(2031, 5, 14, 12, tzinfo=UTC)
DAY = date(2031, 5, 14)

CLIENT = {"yclients_id": 1, "name": NAME, "phone": PHONE, "email": EMAIL, "comment": f"{NAME} {PHONE}"}
BOOKING = {
    "yclients_record_id": 1,
    "staff_id": 7,
    "starts_at": NOON,
    "ends_at": NOON.replace(hour=13),
    "client_phone": PHONE,
    "client_name": NAME,
    "comment": f"{NAME} {EMAIL}",
}
# Arguments by parameter name, or by `operation.parameter` if a name has several meanings.
ARGUMENTS: dict[str, Any] = {
    "phone": PHONE,
    "user_id": f"{PHONE[1:]}@s.whatsapp.net",
    "id": 1,
    "ids": [1],
    "text": NAME,
    "client": {"name": NAME, "phone": PHONE},
    "booking": {"staff_id": 7, "starts_at": NOON, "duration": 3600, "comment": NAME},
    "yclients_record_id": 1,
    "starts_at": NOON,
    "start": NOON,
    "end": NOON.replace(hour=14),
    "date": DAY,
    "date_from": DAY,
    "date_to": DAY,
    "duration": 3600,
    "staff_id": 7,
    "category_id": 1,
    "creds": {"me": {"id": PHONE, "name": NAME}, "noiseKey": KEY},
    "version": 1,
    "key_type": "session",
    "owner": f"worker of {NAME}",
    "upsert_dialog_context.data": {"stage": NAME, "context": {"phone": PHONE}},
    "upsert_client.data": CLIENT,
    "upsert_clients.rows": [CLIENT],
    "upsert_staff.rows": [{"yclients_id": 7, "name": NAME}],
    "upsert_staff_schedules.rows": [{"staff_id": 7, "date": DAY, "is_working": False}],
    "upsert_service.data": {"yclients_id": 1, "title": NAME},
    "upsert_services.rows": [{"yclients_id": 1, "title": NAME}],
    "upsert_company.data": {"title": NAME, "address": f"{NAME} {PHONE} {EMAIL}"},
    "upsert_booking.data": BOOKING,
    "upsert_bookings.rows": [BOOKING],
    "set_keys.data": {"session": {PHONE[1:]: {"key": KEY}}},
    "import_session.data": {"session": {PHONE[1:]: {"key": KEY}}},
    "get_keys.ids": [PHONE[1:]],
}


def operations(kind: type) -> list[str]:
    names = [name for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")]
    assert names, kind
    return names


def call(owner: Any, name: str) -> Any:
    """Call an operation with the required arguments from ARGUMENTS."""
    method = getattr(owner, name)
    parameters = inspect.signature(method).parameters.values()
    required = [each.name for each in parameters if each.default is inspect.Parameter.empty]
    return method(*(ARGUMENTS.get(f"{name}.{each}", ARGUMENTS.get(each)) for each in required))


def error_text(query: Any, params: Any) -> str:
    """Return an error text that quotes personal data and all parameters."""
    return f"DETAIL: Key (phone, name)=({PHONE}, {NAME}) with {params!r} in {query!r} already exists"


class Lost(psycopg.OperationalError):
    """A connection error, like those of the driver."""


@pytest.fixture
def own_company(desk: Frontdesk, company_id: int) -> DataLayer:
    """Create a company and cache its tenant, so that the operation itself is the first to fail."""
    salon = desk.company(company_id)
    salon.upsert_company({"title": "Salon"}).unwrap()
    salon.get_client_by_id(1).unwrap()
    return salon


@pytest.fixture(params=[RuntimeError, Lost])
def broken(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, own_company: DataLayer
) -> Iterator[None]:
    """Make every statement fail, with its parameters in the error's text and in local variables."""

    def execute(self: Any, query: Any, params: Any = None, **options: Any) -> Any:
        if not query:
            return self
        text = error_text(query, params)
        raise request.param(text) from ValueError(text)

    def copy(self: Any, statement: Any, params: Any = None, **options: Any) -> Any:
        raise request.param(error_text(statement, params))

    with monkeypatch.context() as patch:
        patch.setattr(psycopg.Cursor, "execute", execute)
        patch.setattr(psycopg.Cursor, "copy", copy)
        yield


@pytest.fixture
def no_mark(sent: SentryRecorder, _lines: LogRecorder) -> Callable[[], None]:
    """Return a function that checks that Sentry payloads and log lines contain none of MARKS."""

    def check() -> None:
        sentry_sdk.flush()
        for place in (json.dumps(sent.payloads, ensure_ascii=False), "\n".join(_lines.lines)):
            assert [mark for mark in MARKS if mark in place] == []

    return check


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *[(DataLayer, name) for name in operations(DataLayer)],
        *[(SessionStore, name) for name in operations(SessionStore)],
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
@pytest.mark.usefixtures("broken")
def test_a_failing_operation_sends_one_event_without_personal_data(
    own_company: Any, sent: SentryRecorder, no_mark: Callable[[], None], kind: type, name: str
) -> None:
    with sentry_sdk.start_transaction(name="work", sampled=True):
        result = call(own_company if kind is DataLayer else own_company.whatsapp, name)
    assert result.error is not None
    assert result.error.code in ("internal", "unavailable")
    (event,) = sent.events
    tags = event["tags"]
    assert tags["operation"] == name
    assert tags["component"] == ("data_layer" if kind is DataLayer else "whatsapp")
    assert tags["company_id"] == own_company.company_id
    assert tags["backend"] == "postgresql"
    assert tags["table"] in Base.metadata.tables
    assert tags["duration_ms"] >= 0
    assert "breadcrumbs" not in event
    assert frames(event)
    assert not any("vars" in frame for frame in frames(event))
    assert len(sent.transactions) == 1
    no_mark()
    for place in (repr(result), str(result.error), result.error.message):
        assert [mark for mark in MARKS if mark in place] == []


def frames(event: Any) -> list[Any]:
    return [f for e in event["exception"]["values"] for f in e["stacktrace"]["frames"]]


@pytest.mark.usefixtures("broken")
def test_an_error_that_a_caller_reports_again_is_sent_once(
    own_company: DataLayer, sent: SentryRecorder
) -> None:
    error = own_company.get_client_by_phone(PHONE).error
    assert error is not None
    from app.observability.failure_reports import report

    report(error, "elsewhere", component="cli")
    assert len(sent.events) == 1


@pytest.mark.usefixtures("broken")
def test_a_failing_request_sends_one_event_without_personal_data(
    desk: Frontdesk, own_company: DataLayer, sent: SentryRecorder, no_mark: Callable[[], None]
) -> None:
    app = create_app(desk)

    @app.post("/fail/<name>")
    def fail(who: str) -> str:
        desk.transact(own_company.company_id, lambda uow: uow.clients.count())
        return who

    answer = app.test_client().post(
        f"/fail/{PHONE}?name={NAME}",
        json=CLIENT,
        headers={"User-Agent": NAME, "Cookie": f"id={KEY}", "X-Forwarded-For": PHONE, "X-Request-ID": PHONE},
    )
    assert answer.status_code in (500, 503)
    assert answer.headers["X-Request-ID"] not in (PHONE, "")
    assert [mark for mark in MARKS if mark in answer.text] == []
    (event,) = sent.events
    assert event["tags"]["component"] == "web"
    assert event["tags"]["operation"] == "fail"
    assert event["request"] == {"method": "POST"}
    (trace,) = sent.transactions
    assert trace["transaction"] == "fail"
    no_mark()


@pytest.mark.usefixtures("broken")
def test_a_failing_whatsapp_request_sends_one_event_without_personal_data(
    desk: Frontdesk, own_company: DataLayer, sent: SentryRecorder, no_mark: Callable[[], None]
) -> None:
    client = create_app(desk).test_client()
    body = ARGUMENTS["set_keys.data"]
    answer = client.post(f"/whatsapp/{own_company.company_id}/keys/set?phone={PHONE}", json=body)
    assert answer.status_code in (500, 503)
    assert len(sent.events) == 1
    no_mark()


def test_the_trace_of_an_unknown_path_contains_no_personal_data(
    desk: Frontdesk, sent: SentryRecorder, no_mark: Callable[[], None]
) -> None:
    assert create_app(desk).test_client().get(f"/clients/{PHONE}?name={NAME}").status_code == 404
    assert len(sent.transactions) == 1
    no_mark()


@pytest.mark.usefixtures("broken")
def test_a_failing_command_sends_one_event_without_personal_data(
    worker_database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sent: SentryRecorder,
    no_mark: Callable[[], None],
) -> None:
    monkeypatch.setenv("DATABASE_URL", worker_database_url)
    file = tmp_path / "clients.json"
    file.write_text(json.dumps([CLIENT]))
    result = CliRunner().invoke(main, ["import", "--company", "4711", str(file)])
    assert result.exit_code == 3
    assert [mark for mark in MARKS if mark in result.output] == []
    (event,) = sent.events
    assert event["tags"]["component"] == "cli"
    assert event["tags"]["operation"].endswith("import")
    no_mark()


def test_events_that_the_sdk_captures_contain_no_personal_data(
    sent: SentryRecorder, no_mark: Callable[[], None]
) -> None:
    """Frontdesk filters events that other code sends through the SDK, too."""

    def crash(phone: str) -> None:
        raise ValueError(f"{phone} of {NAME}")

    try:
        crash(PHONE)
    except ValueError as error:
        sentry_sdk.capture_exception(error)
    sentry_sdk.add_breadcrumb(message=PHONE)
    sentry_sdk.set_tag("phone", PHONE)
    sentry_sdk.set_user({"email": EMAIL})
    sentry_sdk.set_context("client", CLIENT)
    sentry_sdk.capture_message(f"Call {PHONE}")
    assert len(sent.events) == 2
    no_mark()
    sentry_sdk.get_isolation_scope().clear()


def test_a_message_is_sent_with_its_text(sent: SentryRecorder) -> None:
    sentry.capture_message("The session of company 1 is critical", company_id=1)
    (event,) = sent.events
    assert event["message"] == "The session of company 1 is critical"
    assert event["tags"]["company_id"] == 1


@pytest.mark.parametrize("dsn", ["nonsense", "https://sentry.example", "http://key@host:99999999/1", "://"])
def test_an_invalid_sentry_dsn_does_not_prevent_the_start(
    worker_database_url: str, monkeypatch: pytest.MonkeyPatch, sent: SentryRecorder, dsn: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", worker_database_url)
    monkeypatch.setenv("SENTRY_DSN", dsn)
    with Frontdesk.from_env() as desk:
        assert desk.company(1).get_client_by_id(1).success


def test_a_second_initialisation_keeps_the_client(sent: SentryRecorder) -> None:
    client = sentry_sdk.get_client()
    settings = Settings(sentry_dsn=SecretStr("http://key@127.0.0.1:9/1"), sentry_traces_sample_rate=1)
    sentry.initialise(settings)
    assert sentry_sdk.get_client() is client
