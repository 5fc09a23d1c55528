"""Webhook events of YClients are stored once, in any order, and their contents are not logged."""

import json
import logging
import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from prometheus_client import REGISTRY
from werkzeug.test import TestResponse

from app import Frontdesk, Settings, create_app
from app.config import PROJECT_ROOT
from app.data_layer import DataLayer
from app.observability import metric_readings, sentry
from app.web.routes import webhooks as webhooks_module
from tests.factories import NewBookingRow, NewClientRow
from tests.processes import BIN, free_port, is_serving, running_process, wait_until

SECRET = "".join(["the", "-sec", "ret"])
PHONE = "+7968" + "6484488"
NOON = datetime(2031, 5, 14, 12, tzinfo=UTC)
SendEvent = Callable[..., TestResponse]

CLIENT = {"id": 7, "name": "Анна", "phone": PHONE, "last_change_date": "2026-11-01T10:00:00+0300"}
RECORD = {
    "id": 7,
    "staff_id": "3",
    "client": {},
    "services": [],
    "datetime": NOON.isoformat(),
    "seance_length": 3600,
    "attendance": 0,
    "deleted": False,
    "last_change_date": "2026-11-01T10:00:00+0300",
}
DATA: dict[str, dict[str, Any]] = {
    "company": {"title": "Салон", "country": "Казахстан"},
    "service_category": {"id": 7, "title": "Стрижки", "weight": 1},
    "service": {"id": 7, "title": "Стрижка", "category_id": 1, "staff": []},
    "staff": {"id": 7, "name": "Ольга", "fired": 0, "hidden": "0"},
    "client": CLIENT,
    "record": RECORD,
}


@pytest.fixture
def web(settings: Settings) -> Iterator[FlaskClient]:
    values = settings.model_dump(exclude_unset=True) | {"yclients_webhook_secret": SECRET}
    with Frontdesk(Settings(**values)) as desk:
        yield create_app(desk).test_client()


@pytest.fixture
def send_event(web: FlaskClient, company_id: int) -> SendEvent:
    """Return a function that posts an event: `send_event("client", "update", {…}, resource_id=8)`."""

    def send(resource: str, status: str, data: Any = None, /, **fields: Any) -> TestResponse:
        resource_id = company_id if resource == "company" else 7
        document = {"company_id": company_id, "resource": resource, "resource_id": resource_id}
        document |= {"status": status, "data": data} | fields
        return web.post(f"/webhooks/yclients/{SECRET}", data=json.dumps(document))

    return send


def outcome(answer: TestResponse) -> str:
    assert answer.status_code == 200, answer.json
    assert answer.json is not None
    return str(answer.json["outcome"])


def changed(data: dict[str, Any], hours: int, **values: Any) -> dict[str, Any]:
    """Return the row with new values and a change time `hours` after that of the original."""
    changed_at = datetime(2026, 11, 1, 7, tzinfo=UTC) + timedelta(hours=hours)
    return {**data, "last_change_date": changed_at.isoformat(), **values}


class TestEvents:
    @pytest.mark.parametrize("resource", DATA)
    @pytest.mark.parametrize("status", ["create", "update"])
    def test_an_event_stores_its_row_and_a_repeated_event_changes_nothing(
        self, send_event: SendEvent, salon: DataLayer, resource: str, status: str
    ) -> None:
        stored = outcome(send_event(resource, status, DATA[resource]))
        assert stored == ("updated" if resource == "company" else "inserted")
        assert outcome(send_event(resource, status, DATA[resource])) == "unchanged"

    def test_an_event_of_a_cached_company_does_not_read_the_company(
        self, send_event: SendEvent, salon: DataLayer
    ) -> None:
        send_event("staff", "create", DATA["staff"])
        before = metric_readings.read_query_metrics().kinds["SELECT"].count
        assert outcome(send_event("staff", "update", changed(DATA["staff"], 1, name="Вера"))) == "updated"
        assert metric_readings.read_query_metrics().kinds["SELECT"].count == before

    def test_a_changed_country_is_used_by_the_next_event(
        self, send_event: SendEvent, salon: DataLayer
    ) -> None:
        send_event("client", "create", CLIENT)
        send_event("company", "update", DATA["company"] | {"country": "Германия"})
        local = changed(CLIENT, 1, phone="030 123456")
        assert outcome(send_event("client", "update", local)) == "updated"
        client = salon.get_client_by_id(7).unwrap()
        assert client is not None
        assert client.phone == "+4930123456"

    @pytest.mark.parametrize("resource", DATA)
    def test_a_company_that_is_removed_after_it_was_cached_is_unknown(
        self, send_event: SendEvent, desk: Frontdesk, salon: DataLayer, resource: str
    ) -> None:
        send_event("company", "update", DATA["company"])
        send_event("staff", "update", {**DATA["staff"], "name": " "})  # rejected; the company is cached
        with desk.unit_of_work(salon.company_id) as uow:
            uow.companies.delete(company_id=salon.company_id)
        for status in ("update", "delete", "update"):
            assert outcome(send_event(resource, status, DATA[resource])) == "unknown_company"

    @pytest.mark.parametrize("resource", DATA)
    def test_a_deletion_marks_the_row_as_deleted_once(
        self, send_event: SendEvent, salon: DataLayer, resource: str
    ) -> None:
        send_event(resource, "create", DATA[resource])
        assert outcome(send_event(resource, "delete")) == "updated"
        assert outcome(send_event(resource, "delete")) == "unchanged"

    def test_the_deletion_of_a_record_frees_its_slot(self, send_event: SendEvent, salon: DataLayer) -> None:
        send_event("record", "create", RECORD)
        wanted = NewBookingRow(staff_id=3, starts_at=NOON)
        taken = salon.create_booking(NewClientRow(), wanted)
        assert taken.error is not None
        assert taken.error.code == "slot_taken"
        assert outcome(send_event("record", "delete", RECORD)) == "updated"
        booking = salon.get_booking_by_id(7).unwrap()
        assert booking is not None
        assert booking.status == "cancelled"
        assert salon.create_booking(NewClientRow(), wanted).success

    def test_a_record_with_the_id_of_a_pending_booking_confirms_it(
        self, send_event: SendEvent, salon: DataLayer
    ) -> None:
        pending = salon.create_booking(NewClientRow(), NewBookingRow(staff_id=3, starts_at=NOON)).unwrap()
        send_event("record", "create", {**RECORD, "api_id": str(pending.id)})
        confirmed = salon.get_booking(pending.id).unwrap()
        assert confirmed is not None
        assert (confirmed.yclients_record_id, confirmed.pending_since) == (7, None)

    def test_an_event_older_than_the_stored_row_changes_nothing(
        self, send_event: SendEvent, salon: DataLayer
    ) -> None:
        send_event("client", "update", changed(CLIENT, 2, name="Ира"))
        assert outcome(send_event("client", "update", changed(CLIENT, 1))) == "stale"
        assert outcome(send_event("client", "update", changed(CLIENT, 3))) == "updated"

    @pytest.mark.parametrize("resource", ["client", "record"])
    @pytest.mark.parametrize("with_data", [True, False])
    def test_an_older_event_after_a_deletion_does_not_restore_the_row(
        self, send_event: SendEvent, salon: DataLayer, resource: str, with_data: bool
    ) -> None:
        send_event(resource, "create", DATA[resource])
        send_event(resource, "delete", DATA[resource] if with_data else None)
        assert outcome(send_event(resource, "update", DATA[resource])) == "stale"

    def test_a_deletion_that_arrives_before_its_row_is_kept(
        self, send_event: SendEvent, salon: DataLayer
    ) -> None:
        assert outcome(send_event("client", "delete", changed(CLIENT, 2))) == "inserted"
        assert outcome(send_event("client", "create", CLIENT)) == "stale"
        assert salon.get_client_by_phone(PHONE).unwrap() is None
        assert outcome(send_event("client", "update", changed(CLIENT, 3))) == "updated"
        assert salon.get_client_by_phone(PHONE).unwrap() is not None

    def test_an_old_deletion_does_not_undo_a_later_change(
        self, send_event: SendEvent, salon: DataLayer
    ) -> None:
        send_event("client", "update", changed(CLIENT, 5))
        assert outcome(send_event("client", "delete", changed(CLIENT, 2))) == "stale"

    def test_phones_are_parsed_with_the_salons_country(
        self, send_event: SendEvent, new_company: Any, web: Any
    ) -> None:
        kazakh = new_company(country="KZ", timezone="Asia/Almaty")
        send_event("client", "create", {**CLIENT, "phone": "8 701 234 56 78"}, company_id=kazakh.company_id)
        assert kazakh.get_client_by_phone("+77012345678").unwrap() is not None


class TestUnusableEvents:
    """Unusable events are acknowledged, because YClients repeats failed events, and counted."""

    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({"resource": "goods_operation"}, "unknown_resource"),
            ({"status": "archive"}, "unknown_status"),
            ({"status": ["update"]}, "unknown_status"),
            ({"company_id": 1}, "unknown_company"),
            ({"data": {**CLIENT, "id": 8}}, "rejected"),
            ({"data": {**CLIENT, "name": " "}}, "rejected"),
            ({"data": {**CLIENT, "company_id": 1}}, "rejected"),
            ({"data": None}, "rejected"),
            ({"data": [CLIENT]}, "rejected"),
            ({"data": "client"}, "rejected"),
            ({"status": "delete", "resource_id": 99}, "rejected"),
        ],
    )
    def test_an_unusable_event_is_acknowledged_and_counted(
        self, send_event: SendEvent, salon: DataLayer, fields: dict[str, Any], expected: str
    ) -> None:
        labels = {"resource": "other" if "resource" in fields else "client", "outcome": expected}

        def count() -> float:
            return REGISTRY.get_sample_value("frontdesk_webhook_events_total", labels) or 0

        before = count()
        assert outcome(send_event("client", "update", CLIENT, **fields)) == expected
        assert count() == before + 1
        assert salon.get_clients().unwrap() == []

    def test_a_company_event_with_another_resource_id_is_rejected(
        self, send_event: SendEvent, salon: DataLayer
    ) -> None:
        assert outcome(send_event("company", "update", {"title": "X"}, resource_id=1)) == "rejected"


class TestInvalidRequests:
    @pytest.mark.parametrize("given", ["wrong", SECRET + "x", SECRET[:-1], "неверно", "%00", "a/b"])
    def test_a_wrong_secret_is_refused_before_the_body_is_read(self, web: FlaskClient, given: str) -> None:
        answer = web.post(f"/webhooks/yclients/{given}", data=b"x" * 2_000_000)
        assert answer.status_code == 401

    def test_the_route_does_not_exist_without_a_configured_secret(self, desk: Frontdesk) -> None:
        assert create_app(desk).test_client().post("/webhooks/yclients/x").status_code == 404

    @pytest.mark.parametrize("method", ["get", "put", "delete"])
    def test_other_methods_are_not_allowed(self, web: FlaskClient, method: str) -> None:
        assert getattr(web, method)(f"/webhooks/yclients/{SECRET}").status_code == 405

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{",
            b"\xff\xfe",
            b"[]",
            b"7",
            b"null",
            b"[" * 200_000,
            b'{"company_id": 1' + b"0" * 5000 + b"}",
            b'{"resource": "client"}',
            b'{"company_id": 0, "resource": "client"}',
            b'{"company_id": -1, "resource": "client"}',
            b'{"company_id": true, "resource": "client"}',
            b'{"company_id": 9223372036854775808, "resource": "client"}',
            b'{"company_id": 1}',
            b'{"company_id": 1, "resource": {}}',
            b'{"company_id": 1, "resource": "client", "status": "update"}',
            b'{"company_id": 1, "resource": "client", "status": "update", "resource_id": NaN}',
        ],
        ids=lambda body: body[:60].decode(errors="replace"),
    )
    def test_a_body_that_is_not_an_event_is_refused(self, web: FlaskClient, body: bytes) -> None:
        assert web.post(f"/webhooks/yclients/{SECRET}", data=body).status_code == 400

    def test_a_body_above_the_size_limit_is_refused(self, web: FlaskClient) -> None:
        body = b'{"company_id": 1, "resource": "' + b"x" * webhooks_module.MAX_BODY_BYTES + b'"}'
        assert web.post(f"/webhooks/yclients/{SECRET}", data=body).status_code == 413


class TestFailures:
    def test_an_event_that_cannot_be_stored_gets_503_so_that_it_is_repeated(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        captured: list[BaseException] = []
        monkeypatch.setattr(sentry, "capture_exception", lambda error, **tags: captured.append(error))
        nowhere = Settings(
            database_url="postgresql://app_user@127.0.0.1:1/nowhere",
            postgres_connection_timeout=300,
            yclients_webhook_secret=SECRET,
        )
        event = {"company_id": 1, "resource": "client", "resource_id": 7, "status": "create", "data": CLIENT}
        with Frontdesk(nowhere) as desk:
            web = create_app(desk).test_client()
            answer = web.post(f"/webhooks/yclients/{SECRET}", data=json.dumps(event))
        assert answer.status_code == 503
        assert answer.json is not None
        assert answer.json["error"]["code"] == "unavailable"
        assert len(captured) == 1

    def test_an_internal_error_shows_neither_the_row_nor_the_secret(
        self,
        send_event: SendEvent,
        salon: DataLayer,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        def fail(*_: object) -> None:
            raise RuntimeError(PHONE)

        monkeypatch.setattr(webhooks_module, "handle_event", fail)
        caplog.set_level(logging.DEBUG)
        answer = send_event("client", "create", CLIENT)
        assert answer.status_code == 503
        assert caplog.messages
        assert not [text for text in (*caplog.messages, answer.text) if PHONE in text or SECRET in text]

    def test_no_event_causes_personal_data_in_the_log(
        self, send_event: SendEvent, salon: DataLayer, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        for data in (CLIENT, {**CLIENT, "email": PHONE}, {**CLIENT, "name": ""}, None):
            send_event("client", "update", data)
        assert caplog.messages
        assert not [text for text in caplog.messages if PHONE in text or "Анна" in text or SECRET in text]


def test_gunicorn_logs_the_url_without_its_secret(database_url: str, tmp_path: Path) -> None:
    import httpx

    port = free_port()
    options = ["--access-logfile", "-", "--log-level", "debug", "--bind", f"127.0.0.1:{port}"]
    environment = {"DATABASE_URL": database_url, "YCLIENTS_WEBHOOK_SECRET": SECRET}
    command = [str(BIN / "gunicorn"), *options, "wsgi:app"]
    with running_process(command, tmp_path / "output", PROJECT_ROOT, **environment) as process:
        wait_until(lambda: is_serving(port))
        url = f"http://127.0.0.1:{port}/webhooks/yclients/{SECRET}"
        headers = {"Referer": url}
        assert httpx.post(url, content=b"{}", headers=headers, trust_env=False).status_code == 400
        assert httpx.get(url + "?a=b", trust_env=False).status_code == 405
        process.send(signal.SIGINT)
        process.wait()
        assert "POST /webhooks/yclients/…" in process.output
        assert SECRET not in process.output
