"""Tests of a transfer's health in the health API, on the status page, in metrics and in Sentry."""

import logging
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest
from flask.testing import FlaskClient
from prometheus_client import REGISTRY
from pydantic import SecretStr

from app import Frontdesk, Settings, create_app
from app.observability import sentry
from app.transfer.cutover.cutover import change_live_side
from app.transfer.protocol.endpoints import Side, Sides
from app.transfer.start import start
from app.transfer.verification import divergence_monitor
from app.transfer.verification.divergence_monitor import DivergenceMonitor
from tests.servers import execute
from tests.stopwatch import Stopwatch
from tests.transfer.moving import copy_by_change_log
from tests.watching import SentryRecorder
from tests.web.test_status import show

UNREACHABLE = "postgresql://user@127.0.0.1:1/missing"


@pytest.fixture(scope="module")
def copied_sides(new_database: Callable[[], str]) -> Sides:
    """Return the sides of a transfer whose copy is complete."""
    sides = Sides(Side("legacy", new_database()), Side("primary", new_database()))
    execute(sides.legacy.url, "INSERT INTO companies (company_id, title) VALUES (1, 'Salon')")
    start(sides)
    copy_by_change_log(sides)
    return sides


@pytest.fixture
def serve() -> Iterator[Callable[..., FlaskClient]]:
    """Return a function that serves two sides and returns a client: `serve(sides, health_token="x")`."""
    desks: list[Frontdesk] = []

    def serve(sides: Sides, **settings: object) -> FlaskClient:
        urls = {"database_url": sides.primary.url, "legacy_database_url": sides.legacy.url}
        desks.append(Frontdesk(Settings(**urls, **settings)))
        return create_app(desks[-1]).test_client()

    yield serve
    for desk in desks:
        desk.close()


def gauge(name: str) -> float | None:
    """Return the value of the metric `frontdesk_transfer_{name}`."""
    return REGISTRY.get_sample_value(f"frontdesk_transfer_{name}")


def test_without_a_legacy_database_the_transfer_is_not_configured(desk: Frontdesk) -> None:
    answer = create_app(desk).test_client().get("/health/transfer")
    assert answer.status_code == 200
    assert answer.json is not None
    assert answer.json["status"] == "not_configured"
    assert {"stage", "lag", "divergences", "last_verification"} < set(answer.json)
    assert "Move" not in create_app(desk).test_client().get("/status").text


def test_a_transfer_is_shown_with_its_stage_lag_and_last_verification(
    copied_sides: Sides, serve: Callable[..., FlaskClient]
) -> None:
    execute(
        copied_sides.legacy.url,
        "INSERT INTO staff (company_id, yclients_id, name) VALUES (1, 1, 'a'), (1, 2, 'b')",
        "INSERT INTO frontdesk_transfer.verifications (equal) VALUES (true)",
    )
    client = serve(copied_sides)
    seen = client.get("/health/transfer").json
    assert seen is not None
    assert (seen["status"], seen["stage"], seen["live"]) == ("healthy", "relaying", "legacy")
    assert seen["lag"]["keys"] == 2
    assert 0 < seen["lag"]["seconds"] < 60
    assert seen["last_verification"]["equal"] is True
    assert seen["divergences"] == {"compared": 0, "differed": 0, "percent": 0.0, "window_seconds": 300}
    assert (gauge("waiting_keys"), gauge("verified_equal")) == (2, 1)
    page = show(client)
    assert "relaying legacy is live" in page
    assert "2 keys to apply to the standby" in page


def test_a_difference_found_by_a_verification_is_critical(
    copied_sides: Sides, serve: Callable[..., FlaskClient]
) -> None:
    execute(copied_sides.legacy.url, "INSERT INTO frontdesk_transfer.verifications (equal) VALUES (false)")
    client = serve(copied_sides)
    answer = client.get("/health/transfer")
    assert (answer.status_code, answer.json["status"]) == (503, "critical")
    assert "The last verification found differences." in show(client)
    execute(copied_sides.legacy.url, "DELETE FROM frontdesk_transfer.verifications")


def test_a_relay_that_does_not_run_causes_a_warning(
    copied_sides: Sides, serve: Callable[..., FlaskClient]
) -> None:
    execute(
        copied_sides.legacy.url,
        "INSERT INTO staff (company_id, yclients_id, name) VALUES (1, 3, 'c')",
        "UPDATE frontdesk_transfer.marks SET at = now() - interval '5 minutes'",
        "UPDATE frontdesk_transfer.relay SET seconds = 2.5",
    )
    seen = serve(copied_sides).get("/health/transfer").json
    assert seen["status"] == "warning"
    assert any("behind" in reason for reason in seen["reasons"])
    assert any("took 2.5 s" in reason for reason in seen["reasons"])
    assert gauge("lag_seconds") > 299


def test_an_unreachable_side_is_reported_quickly_and_without_its_address(
    copied_sides: Sides, serve: Callable[..., FlaskClient]
) -> None:
    client = serve(Sides(copied_sides.legacy, Side("primary", UNREACHABLE)))
    with Stopwatch() as watch:
        answer = client.get("/health/transfer")
    assert watch.seconds < 1
    assert (answer.status_code, answer.json["stage"]) == (200, "unknown")
    assert answer.json["reasons"][0] == "Cannot reach primary (DATABASE_URL)."
    assert "127.0.0.1" not in answer.text


def test_without_the_token_only_the_status_is_shown(
    copied_sides: Sides, serve: Callable[..., FlaskClient]
) -> None:
    client = serve(copied_sides, health_token=SecretStr("s3cret"))
    assert set(client.get("/health/transfer").json) == {"status"}
    assert "stage" in client.get("/health/transfer", headers={"Authorization": "Bearer s3cret"}).json


def test_the_health_of_the_database_is_that_of_the_live_side(
    copied_sides: Sides, serve: Callable[..., FlaskClient]
) -> None:
    client = serve(copied_sides)
    execute(copied_sides.primary.url, "UPDATE alembic_version SET version_num = 'newer'")
    assert client.get("/health/ready").status_code == 200
    with psycopg.connect(copied_sides.legacy.url) as connection:
        (head,) = connection.execute("SELECT version_num FROM alembic_version").fetchone() or ("",)
    execute(copied_sides.primary.url, f"UPDATE alembic_version SET version_num = '{head}'")
    change_live_side(copied_sides, "primary")
    execute(copied_sides.legacy.url, "UPDATE alembic_version SET version_num = 'newer'")
    time.sleep(1.1)  # longer than the result of a check is cached
    assert client.get("/health/ready").status_code == 200
    assert client.get("/health/database").json["database"]["connections"]["max"] == 3
    execute(copied_sides.legacy.url, f"UPDATE alembic_version SET version_num = '{head}'")
    change_live_side(copied_sides, "legacy")


# DivergenceMonitor


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The messages that are sent to Sentry during the test."""
    texts: list[str] = []
    monkeypatch.setattr(sentry, "capture_message", lambda text, **tags: texts.append(text))
    return texts


def test_more_than_ten_differences_in_five_minutes_are_reported_once(messages: list[str]) -> None:
    watch = DivergenceMonitor()
    for _ in range(1_000):
        watch.record()
    for number in range(10):
        watch.record([f"clients {number}"])
    assert messages == []
    for number in range(10, 14):
        watch.record([f"clients {number}"])
    assert len(messages) == 1
    assert "11 of 1011" in messages[0]
    assert "clients 10" in messages[0]


def test_more_than_five_percent_differences_are_reported_after_enough_comparisons(
    messages: list[str],
) -> None:
    watch = DivergenceMonitor()
    watch.record(["clients 1"])
    assert messages == []  # one comparison is too few
    for _ in range(18):
        watch.record()
    assert messages == []
    watch.record(["clients 2"])
    assert len(messages) == 1
    assert "2 of 20" in messages[0]


def test_differences_are_reported_again_after_an_interval_without_them(
    messages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(divergence_monitor, "WINDOW_SECONDS", 0.05)
    watch = DivergenceMonitor()
    for _ in range(2):
        for number in range(12):
            watch.record([f"clients {number}"])
        time.sleep(0.06)
        watch.record()
        assert not watch.recent().is_alarming
    assert len(messages) == 2


def test_a_divergence_is_sent_to_sentry(sent: SentryRecorder, caplog: pytest.LogCaptureFixture) -> None:
    watch = DivergenceMonitor()
    with caplog.at_level(logging.WARNING):
        for number in range(11):
            watch.record([f"clients {number}"])
    (event,) = sent.events
    assert "diverge" in event["message"]
    assert event["tags"]["component"] == "transfer"
