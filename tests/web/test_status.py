"""Content of the status page in each state, with and without the token, and data that it never contains."""

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
    """Return the visible text of the page."""
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
    """Return a client of a service on a separate database, with one salon whose WhatsApp is healthy."""
    client = serving(database_url=database_url, service_name="desk", release="1.2")
    pair(client)
    return client


def test_the_page_of_a_healthy_service_shows_its_release_and_its_salons(client: FlaskClient) -> None:
    page = client.get("/status").text
    assert "answers" in text_of(page)
    assert "PostgreSQL" in text_of(page)
    assert "1 of 1 salons healthy" in text_of(page)
    assert "desk 1.2" in text_of(page)
    assert 'http-equiv="refresh"' in page


def test_an_unused_pool_is_shown_as_closed_and_not_as_empty(
    serving: Opener, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "open_pools", set())
    client = serving(database_url=database_url, legacy_database_url=NOWHERE)
    page = show(client)
    assert "closed until the first request" in page
    assert "0 of 0" not in page


def test_the_page_loads_no_other_resources_and_runs_no_script(client: FlaskClient) -> None:
    answer = client.get("/status")
    assert "<script" not in answer.text
    without_namespaces = answer.text.replace("http://www.w3.org/2000/svg", "")
    assert "http://" not in without_namespaces
    assert "https://" not in without_namespaces
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert answer.headers["Cache-Control"] == "no-store"


def test_the_page_shows_that_the_database_is_down_but_not_the_reason(serving: Opener) -> None:
    client = serving(database_url=NOWHERE)
    with Stopwatch() as watch:
        answer = client.get("/status")
    assert watch.seconds < 1.5
    assert answer.status_code == 200
    page = text_of(answer.text)
    assert "Not working" in page
    assert "The database does not answer." in page
    assert "WhatsApp sessions unknown" in page
    for secret in ("127.0.0.1", "app_user", "secret", "somewhere"):
        assert secret not in answer.text


def test_a_frozen_server_does_not_delay_the_page(serving: Opener) -> None:
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


def test_a_slow_section_does_not_delay_the_others(client: FlaskClient, database_url: str) -> None:
    with psycopg.connect(database_url) as other:
        other.execute("LOCK TABLE whatsapp_keys IN ACCESS EXCLUSIVE MODE")
        with Stopwatch() as watch:
            page = show(client)
        assert watch.seconds < 1.5
    assert "The WhatsApp sessions could not be read in time." in page
    assert "PostgreSQL" in page


def test_an_old_schema_is_reported(serving: Opener, database_url: str) -> None:
    execute(database_url, "DELETE FROM alembic_version")
    assert "alembic upgrade head" in show(serving(database_url=database_url))


def test_a_read_only_database_is_reported_and_all_data_is_shown(
    client: FlaskClient, database_url: str
) -> None:
    execute(
        database_url,
        # A problem that would be stored in the database if it accepted writes.
        "UPDATE whatsapp_keys SET updated_at = now() - interval '60 hours'",
        "UPDATE whatsapp_auth SET updated_at = now() - interval '60 hours'",
        f"ALTER DATABASE {conninfo_to_dict(database_url)['dbname']} SET default_transaction_read_only = on",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    page = show(client)
    assert "The database is read-only: writes fail." in page
    assert f"WhatsApp of company {COMPANY}: critical." in page
    assert client.get("/health/ready").status_code == 200
    error = desk_of(client).company(COMPANY).whatsapp.set_keys({"session": {"1.0": {}}}).error
    assert error is not None
    assert (error.code, error.retryable) == ("unavailable", True)
    assert "read-only" in error.message


def test_a_session_with_a_problem_is_listed_with_its_remedy(client: FlaskClient, database_url: str) -> None:
    execute(
        database_url,
        "UPDATE whatsapp_keys SET updated_at = now() - interval '60 hours'",
        "UPDATE whatsapp_auth SET updated_at = now() - interval '60 hours'",
    )
    page = show(client)
    assert "Needs attention" in page
    assert f"WhatsApp of company {COMPANY}: critical. Check that the worker runs" in page
    assert "0 of 1 salons healthy" in page
    assert "no key written for 60 hours" in page


def test_unsuccessful_syncs_are_listed_first(client: FlaskClient, database_url: str) -> None:
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
    assert "The last sync of companies 1, 2 did not succeed." in page
    assert "3 h ago last successful sync" in page
    assert "1 5 min ago, incremental failed last success 3 h ago" in page
    assert "2 0 s ago, full interrupted never succeeded" in page
    assert page.index("interrupted") < page.index(f"{COMPANY} 4 h ago, full done")


def test_a_running_sync_is_not_a_problem(client: FlaskClient, database_url: str) -> None:
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
    assert "did not succeed" not in page
    assert "full running" in page


def test_programs_with_connections_are_listed_and_their_names_are_escaped(
    client: FlaskClient, database_url: str
) -> None:
    with psycopg.connect(database_url, application_name="<b>&'\"sync"):
        page = client.get("/status").text
    assert "<b>" not in page
    assert "&lt;b&gt;&amp;&#39;&#34;sync" in page


def test_the_page_without_the_token_shows_the_state_only(serving: Opener, database_url: str) -> None:
    client = serving(database_url=database_url, health_token="s3cret", release="1.2.3")
    answer = client.get("/status")
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Basic ")
    for detail in ("PostgreSQL", "1.2.3", "Connection pool", "Slow queries"):
        assert detail not in answer.text
    assert client.get("/status", headers={"Authorization": basic("wrong")}).status_code == 401
    for header in (basic("s3cret"), "Bearer s3cret"):
        assert "Connection pool" in show(client, Authorization=header)


def test_a_shutdown_is_shown_as_a_problem(client: FlaskClient) -> None:
    client.application.extensions["health"].shutting_down = True
    assert "This process is shutting down." in show(client)


def test_a_slow_query_is_listed_once_with_its_worst_time_and_without_its_values(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    salon = desk_of(client).company(COMPANY)
    salon.get_client_by_phone("+79681112233").unwrap()  # the first call also queries the company's country
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


def test_many_concurrent_views_run_each_check_once_a_second(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected_at: list[float] = []
    connect = desk_of(client).database.connect_outside_pool

    def counted(*arguments: int) -> object:
        connected_at.append(time.monotonic())
        return connect(*arguments)

    monkeypatch.setattr(desk_of(client).database, "connect_outside_pool", counted)
    began = time.monotonic()
    answers = at_once([lambda: client.application.test_client().get("/status").status_code] * 50)
    assert answers == [200] * 50
    assert connected_at
    assert len(connected_at) <= 3 * (1 + int(time.monotonic() - began))  # three checks, each once a second


def test_a_full_pool_is_a_problem_if_it_stays_full_or_requests_wait(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    page_history, pool = client.application.extensions["status"].history, desk_of(client).database.pool
    now = time.time()
    with ExitStack() as stack:
        only_this_pool = stack.enter_context(pytest.MonkeyPatch.context())
        # Services of other tests may have open pools in this process.
        only_this_pool.setattr(metrics, "open_pools", {pool})
        for _ in range(3):
            stack.enter_context(pool.connection())
        assert "All is well" in show(client)
        monkeypatch.setattr(pool, "waiting", 2)
        assert "The pool is exhausted: 3 of 3 connections in use, 2 waiting." in show(client)
        monkeypatch.undo()
        for ago in (29, 19, 9):
            monkeypatch.setattr(time, "time", lambda ago=ago: now - ago)
            page_history._samples.append(page_history.read_sample())
            monkeypatch.undo()
        assert "The pool stays nearly full: 3 of 3 connections in use." in show(client)
    assert "All is well" in show(client)


def test_the_history_contains_the_samples_of_the_last_half_hour(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    page_history = client.application.extensions["status"].history
    now = time.time()
    for ago in (4000, 1200, 600, 300):
        monkeypatch.setattr(time, "time", lambda ago=ago: now - ago)
        page_history._samples.append(page_history.read_sample())
    monkeypatch.undo()
    samples = page_history.read_samples()
    assert [round(now - sample.at, -1) for sample in samples] == [1200, 600, 300, 0]
    assert len(history.intervals(samples)) == 3
    lately = history.interval_since(samples, 300.5 + time.time() - now)
    assert lately is not None
    assert round(lately.seconds, -1) == 300
    assert lately.delta.queries >= 0
