"""Tests of the database that a process uses before a transfer, after it, and with TRANSFER_PIN."""

import json
import time

import pytest
from click.testing import CliRunner

from app import Frontdesk
from app.cli import main
from app.database import live_database
from app.errors import ConfigurationError
from tests.moves import COMPANY_ID, FakeTransfer, client, clients
from tests.servers import execute


def test_legacy_is_live_before_a_transfer(move: FakeTransfer) -> None:
    with Frontdesk(move.settings()) as desk:
        desk.company(COMPANY_ID).upsert_company({"title": "Salon"}).unwrap()
        desk.company(COMPANY_ID).upsert_client(client(1)).unwrap()
    assert (clients(move.legacy), clients(move.primary)) == ([1], [])


def test_a_legacy_database_without_a_frontdesk_schema_is_not_used(move: FakeTransfer) -> None:
    execute(move.legacy, "ALTER TABLE alembic_version RENAME TO versions")
    with Frontdesk(move.settings()) as desk:
        desk.company(COMPANY_ID).upsert_company({"title": "Salon"}).unwrap()
        desk.company(COMPANY_ID).upsert_client(client(1)).unwrap()
    execute(move.legacy, "ALTER TABLE versions RENAME TO alembic_version")
    assert (clients(move.legacy), clients(move.primary)) == ([], [1])


def test_a_process_keeps_its_side_when_the_transfer_is_finished(
    desk: Frontdesk, started: FakeTransfer
) -> None:
    desk.company(COMPANY_ID).upsert_client(client(1)).unwrap()
    started.hand_over(started.legacy, started.primary)
    desk.company(COMPANY_ID).upsert_client(client(2)).unwrap()
    started.finish()
    time.sleep(live_database.REFRESH_INTERVAL_SECONDS)
    desk.company(COMPANY_ID).upsert_client(client(3)).unwrap()
    assert (clients(started.legacy), clients(started.primary)) == ([1], [2, 3])


def test_two_databases_with_companies_and_no_transfer_are_refused_until_one_is_pinned(
    started: FakeTransfer,
) -> None:
    """After `finish`, either side may be the live one; a wrong guess would lose later writes."""
    started.finish()
    with (
        Frontdesk(started.settings()) as desk,
        pytest.raises(ConfigurationError, match=r"unset LEGACY_DATABASE_URL.*TRANSFER_PIN"),
        desk.unit_of_work(COMPANY_ID),
    ):
        pass
    for pin, url in (("legacy", started.legacy), ("primary", started.primary)):
        with Frontdesk(started.settings(transfer_pin=pin)) as desk:
            desk.company(COMPANY_ID).upsert_client(client(1)).unwrap()
        assert clients(url) == [1]


def test_a_process_that_was_idle_during_a_whole_transfer_does_not_use_the_old_side(
    move: FakeTransfer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_database, "RECHECK_BOTH_AFTER_SECONDS", 0.6)
    with Frontdesk(move.settings()) as desk:
        desk.company(COMPANY_ID).upsert_company({"title": "Salon"}).unwrap()
        execute(move.primary, f"INSERT INTO companies (company_id, title) VALUES ({COMPANY_ID}, 'Salon')")
        time.sleep(0.7)
        for _ in range(2):  # repeated calls are refused as well
            error = desk.company(COMPANY_ID).upsert_client(client(1)).error
            assert error is not None
            assert "TRANSFER_PIN" in error.message
    assert clients(move.legacy) == []


def test_a_pinned_process_stays_on_its_side_and_its_writes_are_refused(started: FakeTransfer) -> None:
    with Frontdesk(started.settings(transfer_pin="legacy")) as desk:
        desk.company(COMPANY_ID).upsert_client(client(1)).unwrap()
        started.hand_over(started.legacy, started.primary)
        assert desk.company(COMPANY_ID).upsert_client(client(2)).error.code == "fenced"
    assert clients(started.primary) == []


def test_start_is_refused_if_transfer_capture_is_off(
    move: FakeTransfer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", move.primary)
    monkeypatch.setenv("LEGACY_DATABASE_URL", move.legacy)
    monkeypatch.setenv("TRANSFER_CAPTURE", "off")
    refused = CliRunner().invoke(main, ["transfer", "start"])
    assert refused.exit_code == 2
    assert "TRANSFER_CAPTURE is off" in refused.stderr


def test_comparing_reads_requires_a_standby(move: FakeTransfer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", move.primary)
    refused = CliRunner().invoke(main, ["demo", "traffic", "--compare-reads", "0.5"])
    assert refused.exit_code == 2
    assert "TRANSFER_COMPARE_READS: requires LEGACY_DATABASE_URL" in refused.stderr


def test_the_doctor_reports_the_live_side_and_a_process_pinned_to_the_other_side(
    started: FakeTransfer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(code: int) -> str:
        examined = CliRunner().invoke(main, ["doctor", "--json"])
        assert examined.exit_code == code
        checks = {check["name"]: check for check in json.loads(examined.stdout)["checks"]}
        return f"{checks['live database']['verdict']}: {checks['live database']['found']}"

    monkeypatch.setenv("DATABASE_URL", started.primary)
    monkeypatch.setenv("LEGACY_DATABASE_URL", started.legacy)
    assert found(0) == "ok: legacy"
    started.hand_over(started.legacy, started.primary)
    assert found(0) == "ok: primary"
    monkeypatch.setenv("TRANSFER_PIN", "primary")
    assert found(0) == "ok: primary, pinned"
    monkeypatch.setenv("TRANSFER_PIN", "legacy")
    assert found(1) == "wrong: primary, but this process is pinned to legacy"
    monkeypatch.delenv("TRANSFER_PIN")
    started.finish()
    assert "both hold companies" in found(2)
