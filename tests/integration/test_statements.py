"""All statements are measured; slow and repeated statements are reported without values."""

import json
import logging
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime

import psycopg
import pytest
from prometheus_client import REGISTRY
from psycopg import sql

from app import Frontdesk, Settings, create_app
from app.data_layer import DataLayer
from app.data_layer.unit_of_work import UnitOfWork
from app.database.measured_cursor import redact_statement, statement_kind
from app.observability import metric_readings, metrics, slow_queries
from tests.factories import ClientRow
from tests.watching import SentryRecorder


@pytest.fixture
def salon(salon: DataLayer) -> DataLayer:
    """Return a salon whose tenant is cached already, so that no other statement is counted."""
    salon.get_client_by_id(1).unwrap()
    return salon


def counted(work: Callable[[], object]) -> dict[str, int]:
    """Return the number of statements by kind that `work` executes."""
    before = metric_readings.read_query_metrics().kinds
    work()
    after = metric_readings.read_query_metrics().kinds
    found = {kind: each.count - (before[kind].count if kind in before else 0) for kind, each in after.items()}
    return {kind: count for kind, count in found.items() if count}


def test_a_single_read_is_counted(salon: DataLayer) -> None:
    assert counted(lambda: salon.get_client_by_id(1).unwrap()) == {"SELECT": 1}


def test_statements_of_a_unit_of_work_are_counted(desk: Frontdesk, salon: DataLayer) -> None:
    assert counted(lambda: desk.transact(salon.company_id, lambda uow: uow.clients.count())) == {"SELECT": 1}
    assert counted(lambda: desk.transact(salon.company_id, lambda uow: uow.clients.delete(id=1))) == {
        "DELETE": 1
    }


def test_a_small_merge_is_counted(salon: DataLayer) -> None:
    assert counted(lambda: salon.upsert_clients(ClientRow.create_batch(3)).unwrap())["INSERT"] == 1


def test_a_large_merge_is_counted_with_its_copy(salon: DataLayer) -> None:
    salon.upsert_client(ClientRow()).unwrap()
    assert counted(lambda: salon.upsert_clients(ClientRow.create_batch(200)).unwrap()).items() >= {
        ("COPY", 1),
        ("INSERT", 1),
    }


def test_the_check_of_a_connection_is_not_counted(desk: Frontdesk, salon: DataLayer) -> None:
    assert counted(lambda: desk.transact(salon.company_id, lambda uow: None)) == {}


def test_a_failing_statement_is_counted_as_query_and_as_error(desk: Frontdesk) -> None:
    def errors() -> float:
        return REGISTRY.get_sample_value("frontdesk_db_query_errors_total", {"kind": "SELECT"}) or 0.0

    def fail() -> None:
        with pytest.raises(psycopg.errors.DivisionByZero):
            desk.database.read(lambda connection: connection.execute("SELECT 1/0"))

    before = errors()
    assert counted(fail) == {"SELECT": 1}
    assert errors() == before + 1


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("SELECT 1", "SELECT"),
        (b" \n select 1", "SELECT"),
        ("(SELECT 1) UNION (SELECT 2)", "SELECT"),
        ("-- why\nUPDATE t SET a = 1", "UPDATE"),
        ("/* so */ DELETE FROM t", "DELETE"),
        ("WITH a AS (SELECT 1) SELECT * FROM a FOR NO KEY UPDATE", "SELECT"),
        ("WITH a AS (SELECT 1) SELECT * FROM a FOR UPDATE", "SELECT"),
        ("WITH a AS (UPDATE t SET b = 1 RETURNING 1), c AS (INSERT INTO t SELECT 1) TABLE a", "INSERT"),
        ("WITH a AS (DELETE FROM t RETURNING 1) SELECT 1", "DELETE"),
        ("COPY t FROM STDIN", "COPY"),
        ("CREATE TEMPORARY TABLE t (a int)", "OTHER"),
        ("", "OTHER"),
    ],
)
def test_statement_kind_recognises_the_kind(text: str | bytes, kind: str) -> None:
    assert statement_kind(text) == kind


def test_a_redacted_statement_contains_no_values() -> None:
    text = "SELECT $1, %(a)s, 'it''s', $$x 'y'$$, $t$z$t$, 79681234567, -1.5, t1.c2\n  FROM t1"
    assert redact_statement(text) == "SELECT $1, %(a)s, ?, ?, ?, ?, -?, t1.c2 FROM t1"


def test_a_slow_query_is_kept_with_its_details(
    desk: Frontdesk, salon: DataLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "SLOW_QUERY_SECONDS", 0.05)
    phone = "+79681234567"
    before = datetime.now(UTC).replace(microsecond=0)

    def slowly(uow: UnitOfWork) -> None:
        statement = "SELECT pg_sleep(0.06), %(phone)s || 'Anna' FROM generate_series(1, 2) -- all"
        uow.session.connection().exec_driver_sql(statement, {"phone": phone}).all()

    desk.transact(salon.company_id, slowly)
    kept = slow_queries.recent()[0]
    assert kept.text == "SELECT pg_sleep(?), %(phone)s || ? FROM generate_series(?, ?) -- all"
    assert (kept.kind, kept.rows, kept.company_id) == ("SELECT", 2, salon.company_id)
    assert kept.duration_ms >= 120
    assert before <= datetime.fromisoformat(kept.at) <= datetime.now(UTC)


def test_a_slow_query_has_the_name_of_its_operation(
    salon: DataLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "SLOW_QUERY_SECONDS", 0.0)
    salon.search_clients_by_name("unknown").unwrap()
    assert slow_queries.recent()[0].operation == "search_clients_by_name"


def test_no_more_than_fifty_slow_queries_are_kept(desk: Frontdesk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "SLOW_QUERY_SECONDS", 0.0)
    for number in range(60):
        name = sql.Identifier(f"n{number}")
        desk.database.read(
            lambda connection, name=name: connection.execute(sql.SQL("SELECT 1 AS {}").format(name))
        )
    assert [query.text for query in slow_queries.recent()] == [
        f'SELECT ? AS "n{number}"' for number in range(59, 9, -1)
    ]


@pytest.mark.repeats_statements
def test_a_repeated_statement_is_logged_once_with_its_caller(
    desk: Frontdesk, salon: DataLayer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), desk.unit_of_work(salon.company_id) as uow:
        for number in range(25):
            uow.clients.find_by_ids([number + 1])
    (line,) = [each.getMessage() for each in caplog.records if "N+1" in each.getMessage()]
    assert "10th time" in line
    assert f"company {salon.company_id}" in line
    assert "test_statements.py" in line
    assert "test_a_repeated_statement_is_logged_once" in line
    assert "FROM clients" in line


def test_nine_executions_in_each_of_several_units_of_work_are_not_logged(
    desk: Frontdesk, salon: DataLayer
) -> None:
    for _ in range(3):
        with desk.unit_of_work(salon.company_id) as uow:
            for number in range(9):
                uow.clients.find_by_ids([number + 1])


def test_a_summary_is_logged_after_a_fixed_number_of_queries(
    desk: Frontdesk, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "QUERIES_PER_SUMMARY", 5)
    with caplog.at_level(logging.INFO, logger="app.observability.metrics"):
        for _ in range(20):
            desk.database.read(lambda connection: connection.execute("SELECT 1").fetchone())
    lines = [each.getMessage() for each in caplog.records if each.name == "app.observability.metrics"]
    assert len(lines) >= 3
    assert "SELECT 5; p50" in lines[-1]
    assert "p99" in lines[-1]


def test_a_trace_contains_each_statement_without_values(
    settings: Settings, desk: Frontdesk, salon: DataLayer, sent: SentryRecorder
) -> None:
    app = create_app(desk)

    @app.get("/client/<phone>")
    def client(phone: str) -> str:
        salon.get_client_by_phone(phone).unwrap()
        desk.transact(salon.company_id, lambda uow: uow.clients.upsert(ClientRow(phone=phone, name="Anna")))
        return ""

    app.test_client().get("/client/+79681234567?phone=+79681234567")
    (trace,) = sent.transactions
    kinds = Counter(statement_kind(span["description"]) for span in trace["spans"] if span["op"] == "db")
    assert kinds >= Counter(SELECT=2, INSERT=1)
    assert trace["transaction"] == "client"
    assert "9681234567" not in json.dumps(trace)


def test_health_checks_are_not_traced(desk: Frontdesk, sent: SentryRecorder) -> None:
    client = create_app(desk).test_client()
    for path in ("/health", "/health/ready", "/health/database", "/metrics", "/status"):
        client.get(path)
    assert sent.transactions == []
