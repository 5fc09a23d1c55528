"""Responses of the health API in each state of the database, with and without the token."""

import base64
import logging
from contextlib import ExitStack
from datetime import datetime

import psycopg
import pytest
from flask.testing import FlaskClient

from app import Frontdesk
from app.migrations import runner
from tests.processes import wait_until
from tests.servers import Server, execute
from tests.stopwatch import Stopwatch
from tests.web.conftest import Opener

PATHS = ("/health", "/health/live", "/health/ready", "/health/database")


def desk_of(client: FlaskClient) -> Frontdesk:
    desk = client.application.extensions["desk"]
    assert isinstance(desk, Frontdesk)
    return desk


NOWHERE = "postgresql://app_user:secret@127.0.0.1:1/somewhere"


def test_health_reports_the_process_without_querying_the_database(serving: Opener) -> None:
    answer = serving(database_url=NOWHERE).get("/health")
    assert answer.status_code == 200
    assert answer.json is not None
    assert answer.json["status"] == "ok"
    assert type(answer.json["uptime"]) is int
    assert datetime.fromisoformat(answer.json["timestamp"]).utcoffset() is not None
    assert answer.json["timestamp"].endswith("Z")


def test_liveness_does_not_depend_on_the_database(serving: Opener) -> None:
    assert serving(database_url=NOWHERE).get("/health/live").status_code == 200


def test_a_process_is_ready_if_the_schema_is_at_head(serving: Opener, worker_database_url: str) -> None:
    answer = serving(database_url=worker_database_url).get("/health/ready")
    assert (answer.status_code, answer.json and answer.json["status"]) == (200, "ok")


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        (f"UPDATE alembic_version SET version_num = '{runner.revisions()[1]}'", "schema_behind"),
        ("DELETE FROM alembic_version", "schema_behind"),
        ("DROP TABLE alembic_version", "schema_behind"),
        ("UPDATE alembic_version SET version_num = 'from_the_future'", "schema_unknown"),
        ("ALTER TABLE alembic_version RENAME version_num TO number", "schema_unknown"),
    ],
)
def test_a_process_is_not_ready_with_another_schema(
    serving: Opener, database_url: str, statement: str, code: str
) -> None:
    execute(database_url, statement)
    answer = serving(database_url=database_url).get("/health/ready")
    assert answer.status_code == 503
    assert answer.json is not None
    assert (answer.json["status"], answer.json["code"]) == ("unavailable", code)


def test_a_process_is_not_ready_without_a_database_and_only_the_log_contains_the_reason(
    serving: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="app.web"):
        client = serving(database_url=NOWHERE)
        answers = [client.get(path) for path in ("/health/ready", "/health/database", "/health/ready")]
    assert [answer.status_code for answer in answers] == [503, 503, 503]
    assert answers[0].json is not None
    assert answers[0].json["code"] == "database_unreachable"
    for answer in answers:
        assert "127.0.0.1" not in answer.text
        assert "app_user" not in answer.text
    (record,) = (record for record in caplog.records if record.name.startswith("app."))  # psycopg logs too
    assert "refused" in record.getMessage()
    assert "secret" not in record.getMessage()


def test_a_process_is_not_ready_while_it_shuts_down(serving: Opener, worker_database_url: str) -> None:
    client = serving(database_url=worker_database_url)
    client.application.extensions["health"].shutting_down = True
    answer = client.get("/health/ready")
    assert (answer.status_code, answer.json and answer.json["code"]) == (503, "shutting_down")
    assert client.get("/health/live").status_code == 200


def test_health_database_reports_the_pool_of_this_process(serving: Opener, worker_database_url: str) -> None:
    client = serving(database_url=worker_database_url)
    desk_of(client).database.pool.wait()
    answer = client.get("/health/database")
    assert answer.status_code == 200
    assert answer.json is not None
    assert set(answer.json) == {"timestamp", "database"}
    assert answer.json["database"] == {
        "enabled": True,
        "backend": "postgresql",
        "connections": {"total": 1, "idle": 1, "waiting": 0, "max": 3},
        "utilization": {"percent": 0, "status": "normal"},
        "health": {"status": "healthy", "waiting_requests": 0},
    }


def test_an_exhausted_pool_is_reported_and_does_not_block_the_checks(
    serving: Opener, worker_database_url: str
) -> None:
    client = serving(database_url=worker_database_url)
    pool = desk_of(client).database.pool
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(pool.connection())
        assert client.get("/health/ready").status_code == 200
        answer = client.get("/health/database")
    assert answer.status_code == 200
    assert answer.json is not None
    assert answer.json["database"]["connections"] == {"total": 3, "idle": 0, "waiting": 0, "max": 3}
    assert answer.json["database"]["utilization"] == {"percent": 100, "status": "high"}
    assert answer.json["database"]["health"] == {"status": "at_capacity", "waiting_requests": 0}


def test_the_document_for_an_unreachable_database_has_the_same_fields(serving: Opener) -> None:
    answer = serving(database_url=NOWHERE).get("/health/database")
    assert answer.status_code == 503
    assert answer.json is not None
    assert answer.json["database"]["health"]["status"] == "unreachable"


def test_checks_close_their_connections(serving: Opener, database_url: str) -> None:
    client = serving(database_url=database_url, service_name="probing")
    assert client.get("/health/ready").status_code == 200
    with psycopg.connect(database_url, autocommit=True) as connection:
        probes = "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'probing'"
        wait_until(lambda: connection.execute(probes).fetchone() == (True,))


def test_a_frozen_server_is_unreachable_and_no_probe_hangs(serving: Opener) -> None:
    server = Server()
    try:
        client = serving(database_url=server.url)
        server.freeze()
        with Stopwatch() as watch:
            answers = [client.get(path) for path in PATHS * 3]
        assert watch.seconds < 5
        server.thaw()
        assert [answer.status_code for answer in answers] == [200, 200, 503, 503] * 3
    finally:
        server.delete()


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"operator:{password}".encode()).decode()


@pytest.mark.parametrize("header", ["Bearer s3cret", basic("s3cret"), "bearer s3cret"])
def test_responses_with_the_token_contain_details(
    serving: Opener, worker_database_url: str, header: str
) -> None:
    client = serving(database_url=worker_database_url, health_token="s3cret")
    for path, detail in (("/health/ready", "timestamp"), ("/health/database", "database")):
        answer = client.get(path, headers={"Authorization": header})
        assert answer.status_code == 200
        assert answer.json is not None
        assert detail in answer.json


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer wrong", "Bearer s3crét", basic("wrong"), "Basic %%%", "Digest a=b", "s3cret"],
)
def test_responses_without_the_token_contain_the_status_only(
    serving: Opener, worker_database_url: str, header: str
) -> None:
    client = serving(database_url=worker_database_url, health_token="s3cret")
    headers = {"Authorization": header} if header else {}
    assert client.get("/health/ready", headers=headers).json == {"status": "ok"}
    assert client.get("/health/database", headers=headers).json == {"status": "healthy"}


def test_responses_must_not_be_cached_and_errors_are_json(serving: Opener, worker_database_url: str) -> None:
    client = serving(database_url=worker_database_url)
    answers = [client.get(path) for path in PATHS] + [client.get("/nothing"), client.post("/health")]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 200, 404, 405]
    for answer in answers:
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.mimetype == "application/json"
    assert answers[-2].json is not None
    assert answers[-2].json["error"]["code"] == "not_found"
    assert answers[-1].json is not None
    assert answers[-1].json["error"]["code"] == "method_not_allowed"
    assert "GET" in answers[-1].headers["Allow"]


DRAFT = {"Accept": "application/health+json"}


@pytest.mark.parametrize("path", [*PATHS, "/health/whatsapp"])
def test_health_json_is_returned_if_the_request_accepts_it(
    serving: Opener, worker_database_url: str, path: str
) -> None:
    client = serving(database_url=worker_database_url, service_name="desk", release="1.2")
    answer = client.get(path, headers=DRAFT)
    assert answer.mimetype == "application/health+json"
    assert answer.json is not None
    assert answer.json["status"] == ("pass" if answer.status_code == 200 else "fail")
    assert answer.json["serviceId"] == "desk"
    assert "Accept" in answer.headers["Vary"]
    for accept in ("*/*", "application/json", "text/html,*/*;q=0.8"):
        assert client.get(path, headers={"Accept": accept}).mimetype == "application/json"


def test_health_json_contains_the_failed_check_if_details_are_allowed(serving: Opener) -> None:
    answer = serving(database_url=NOWHERE).get("/health/ready", headers=DRAFT)
    assert answer.status_code == 503
    assert answer.json is not None
    assert (answer.json["status"], answer.json["output"]) == ("fail", "database_unreachable")
    (check,) = answer.json["checks"]["database"]
    assert (check["status"], check["time"][-1]) == ("fail", "Z")
    hidden = serving(database_url=NOWHERE, health_token="s3cret").get("/health/ready", headers=DRAFT)
    assert hidden.json == {"status": "fail", "serviceId": "frontdesk"}


def test_health_json_reports_a_full_pool_as_a_warning(serving: Opener, worker_database_url: str) -> None:
    client = serving(database_url=worker_database_url, postgres_max_connections=1)
    with desk_of(client).database.pool.connection():
        answer = client.get("/health/database", headers=DRAFT)
    assert (answer.status_code, answer.json and answer.json["status"]) == (200, "warn")


@pytest.mark.parametrize("token", ["ключ", "a:b", "a=b,c=d", "a b", "x" * 5000])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "Basic"])
def test_a_token_may_contain_any_characters(
    serving: Opener, worker_database_url: str, token: str, scheme: str
) -> None:
    client = serving(database_url=worker_database_url, health_token=token)
    for given, is_accepted in ((token, True), (f"{token}x", False), ("", False)):
        value = base64.b64encode(f":{given}".encode()).decode() if scheme == "Basic" else given
        header = f"{scheme} {value}".encode().decode("latin-1")  # WSGI servers decode headers as Latin-1
        answer = client.get("/health/transfer", environ_overrides={"HTTP_AUTHORIZATION": header})
        assert ("stage" in answer.json) is is_accepted
