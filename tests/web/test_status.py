"""The status page: what it says in which state, to whom, and what it never says."""

import html
import re
import time
from contextlib import ExitStack

import psycopg
import pytest
from flask.testing import FlaskClient
from psycopg.conninfo import conninfo_to_dict

from app.observability import metrics
from app.web.status_page import history
from tests.servers import Server, execute
from tests.stopwatch import Stopwatch
from tests.threads import at_once
from tests.web.conftest import Opener
from tests.web.test_health import NOWHERE, basic, desk_of

COMPANY = 962302


def text_of(page: str) -> str:
    """What a reader sees."""
    body = page[page.index("<body>") :]
    return html.unescape(" ".join(re.sub(r"<[^>]*>", " ", body).split()))


def show(client: FlaskClient, **headers: str) -> str:
    answer = client.get("/status", headers=headers)
    assert answer.status_code == 200
    assert answer.mimetype == "text/html"
    return text_of(answer.text)


def pair(client: FlaskClient, company_id: int = COMPANY) -> None:
    salon = desk_of(client).company(company_id)
    salon.upsert_company({"title": "Salon"}).unwrap()
    salon.whatsapp.set_creds({"me": 1}, None).unwrap()
    salon.whatsapp.set_keys({"session": {f"{n}.0": {} for n in range(20)}}).unwrap()


@pytest.fixture
def client(serving: Opener, database_url: str) -> FlaskClient:
    """A service on a database of its own, with one salon whose WhatsApp is well."""
    client = serving(database_url=database_url, service_name="desk", release="1.2")
    pair(client)
    return client


def test_all_is_well(client: FlaskClient) -> None:
    page = client.get("/status").text
    assert "answers" in text_of(page)
    assert "PostgreSQL" in text_of(page)
    assert "1 of 1 salons well" in text_of(page)
    assert "desk 1.2" in text_of(page)
    assert 'http-equiv="refresh"' in page


def test_a_pool_that_nobody_has_used_yet_is_closed_and_not_empty(
    serving: Opener, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "open_pools", set())
    client = serving(database_url=database_url, legacy_database_url=NOWHERE)
    page = show(client)
    assert "closed until somebody works" in page
    assert "0 of 0" not in page


def test_it_asks_nobody_else_for_anything_and_runs_no_script(client: FlaskClient) -> None:
    answer = client.get("/status")
    assert "<script" not in answer.text
    without_namespaces = answer.text.replace("http://www.w3.org/2000/svg", "")
    assert "http://" not in without_namespaces
    assert "https://" not in without_namespaces
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert answer.headers["Cache-Control"] == "no-store"


def test_it_shows_that_the_database_is_down_and_nothing_of_why(serving: Opener) -> None:
    client = serving(database_url=NOWHERE)
    with Stopwatch() as watch:
        answer = client.get("/status")
    assert watch.seconds < 1.5
    assert answer.status_code == 200
    page = text_of(answer.text)
    assert "Not working" in page
    assert "The database does not answer." in page
    assert "Not known now." in page
    for secret in ("127.0.0.1", "someone", "secret", "somewhere"):
        assert secret not in answer.text


def test_a_frozen_server_does_not_hold_it_up(serving: Opener) -> None:
    server = Server()
    try:
        client = serving(database_url=server.url)
        server.freeze()
        with Stopwatch() as watch:
            assert "Not working" in show(client)
        assert watch.seconds < 1.5
        server.thaw()
    finally:
        server.delete()


def test_one_part_that_is_slow_holds_up_no_other(client: FlaskClient, database_url: str) -> None:
    with psycopg.connect(database_url) as other:
        other.execute("LOCK TABLE whatsapp_keys IN ACCESS EXCLUSIVE MODE")
        with Stopwatch() as watch:
            page = show(client)
        assert watch.seconds < 1.5
    assert "The WhatsApp sessions' figures did not come in time." in page
    assert "PostgreSQL" in page


def test_an_old_schema_is_said(serving: Opener, database_url: str) -> None:
    execute(database_url, "DELETE FROM alembic_version")
    assert "alembic upgrade head" in show(serving(database_url=database_url))


def test_a_database_that_takes_no_writes_is_said_and_all_that_can_be_read_is_there(
    client: FlaskClient, database_url: str
) -> None:
    execute(
        database_url,
        "UPDATE whatsapp_keys SET updated_at = now() - interval '60 hours'",  # there would be things to note
        "UPDATE whatsapp_auth SET updated_at = now() - interval '60 hours'",
        f"ALTER DATABASE {conninfo_to_dict(database_url)['dbname']} SET default_transaction_read_only = on",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    page = show(client)
    assert "The database is read-only: nothing can be written." in page
    assert f"WhatsApp of company {COMPANY}: critical." in page
    assert client.get("/health/ready").status_code == 200
    error = desk_of(client).company(COMPANY).whatsapp.set_keys({"session": {"1.0": {}}}).error
    assert error is not None
    assert (error.code, error.retryable) == ("unavailable", True)
    assert "read-only" in error.message


def test_a_sick_session_is_named_with_what_to_do(client: FlaskClient, database_url: str) -> None:
    execute(
        database_url,
        "UPDATE whatsapp_keys SET updated_at = now() - interval '60 hours'",
        "UPDATE whatsapp_auth SET updated_at = now() - interval '60 hours'",
    )
    page = show(client)
    assert "Needs attention" in page
    assert f"WhatsApp of company {COMPANY}: critical. See that the worker runs" in page
    assert "0 of 1 salons well" in page
    assert "no key written for 60 hours" in page


def test_syncs_that_did_not_end_well_come_first(client: FlaskClient, database_url: str) -> None:
    for company_id in (1, 2):
        pair(client, company_id)
    execute(
        database_url,
        "INSERT INTO sync_runs (company_id, mode, kinds, started_at, finished_at) VALUES"
        " (1, 'full', '[]', now() - interval '3 hours', now() - interval '3 hours'),"
        f" ({COMPANY}, 'full', '[]', now() - interval '4 hours', now() - interval '4 hours')",
        "INSERT INTO sync_runs (company_id, mode, kinds, started_at, finished_at, error_code) VALUES"
        " (1, 'incremental', '[]', now() - interval '5 min', now(), 'unavailable')",
        "INSERT INTO sync_runs (company_id, mode, kinds, started_at) VALUES (2, 'full', '[]', now())",
    )
    page = show(client)
    assert "The last sync of companies 1, 2 did not end well." in page
    assert "3 h ago ended well last" in page
    assert "1 5 min ago, incremental failed well 3 h ago" in page
    assert "2 0 s ago, full interrupted never well" in page
    assert page.index("interrupted") < page.index(f"{COMPANY} 4 h ago, full done")


def test_a_sync_under_way_is_no_problem(client: FlaskClient, database_url: str) -> None:
    execute(
        database_url,
        "INSERT INTO sync_runs (company_id, mode, kinds, started_at)"
        f" VALUES ({COMPANY}, 'full', '[]', now())",
    )
    with psycopg.connect(database_url) as other:
        other.execute(
            "SELECT pg_advisory_lock(hashtextextended('yclients sync of company ' || %s::text, 0))",
            (COMPANY,),
        )
        page = show(client)
    assert "did not end well" not in page
    assert "full running" in page


def test_it_names_who_holds_connections_and_escapes_what_they_call_themselves(
    client: FlaskClient, database_url: str
) -> None:
    with psycopg.connect(database_url, application_name="<b>&'\"sync"):
        page = client.get("/status").text
    assert "<b>" not in page
    assert "&lt;b&gt;&amp;&#39;&#34;sync" in page


def test_without_the_token_there_is_the_state_alone(serving: Opener, database_url: str) -> None:
    client = serving(database_url=database_url, health_token="s3cret", release="1.2.3")
    answer = client.get("/status")
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Basic ")
    for detail in ("PostgreSQL", "1.2.3", "Connection pool", "Slow queries"):
        assert detail not in answer.text
    assert client.get("/status", headers={"Authorization": basic("wrong")}).status_code == 401
    for header in (basic("s3cret"), "Bearer s3cret"):
        assert "Connection pool" in show(client, Authorization=header)


def test_it_turns_to_attention_while_shutting_down(client: FlaskClient) -> None:
    client.application.extensions["health"].shutting_down = True
    assert "This process is shutting down." in show(client)


def test_a_slow_query_is_there_once_with_its_worst_time_and_without_its_values(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    salon = desk_of(client).company(COMPANY)
    salon.get_client_by_phone("+79681112233").unwrap()  # the company's country is looked up, too
    monkeypatch.setattr("app.observability.metrics.SLOW_QUERY_SECONDS", 0.0)
    for _ in range(3):
        salon.get_client_by_phone("+79681112233").unwrap()
    monkeypatch.undo()
    answer = client.get("/status")
    assert "9681112233" not in answer.text
    page = text_of(answer.text)
    assert page.count("in get_client_by_phone") == 1
    assert re.search(rf"at worst, \d+ times, last \d+ s ago in get_client_by_phone, company {COMPANY}", page)
    assert "FROM clients WHERE clients.company_id = %(" in page


def test_a_thousand_viewers_cost_one_look(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[float] = []
    connect_alone = desk_of(client).database.connect_outside_pool

    def counted(*arguments: int) -> object:
        made.append(time.monotonic())
        return connect_alone(*arguments)

    monkeypatch.setattr(desk_of(client).database, "connect_outside_pool", counted)
    began = time.monotonic()
    answers = at_once([lambda: client.application.test_client().get("/status").status_code] * 50)
    assert answers == [200] * 50
    assert made
    assert len(made) <= 3 * (1 + int(time.monotonic() - began))  # three checks, each once a second


def test_a_full_pool_is_said_when_it_stays_full_or_lets_others_wait(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, pool = client.application.extensions["status"].history, desk_of(client).database.pool
    now = time.time()
    with ExitStack() as stack:
        alone = stack.enter_context(pytest.MonkeyPatch.context())
        alone.setattr(metrics, "open_pools", {pool})  # other tests' services may live in this process
        for _ in range(3):
            stack.enter_context(pool.connection())
        assert "All is well" in show(client)
        monkeypatch.setattr(pool, "waiting", 2)
        assert "The pool is exhausted: 3 of 3 connections in use, 2 waiting." in show(client)
        monkeypatch.undo()
        for ago in (29, 19, 9):
            monkeypatch.setattr(time, "time", lambda ago=ago: now - ago)
            kept._samples.append(kept.read_sample())
            monkeypatch.undo()
        assert "The pool stays nearly full: 3 of 3 connections in use." in show(client)
    assert "All is well" in show(client)


def test_the_half_hour_is_kept_whether_anybody_watches_or_not(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = client.application.extensions["status"].history
    now = time.time()
    for ago in (4000, 1200, 600, 300):
        monkeypatch.setattr(time, "time", lambda ago=ago: now - ago)
        kept._samples.append(kept.read_sample())
    monkeypatch.undo()
    looks = kept.read_samples()
    assert [round(now - each.at, -1) for each in looks] == [1200, 600, 300, 0]
    assert len(history.intervals(looks)) == 3
    lately = history.interval_since(looks, 300.5 + time.time() - now)
    assert lately is not None
    assert round(lately.seconds, -1) == 300
    assert lately.delta.queries >= 0
