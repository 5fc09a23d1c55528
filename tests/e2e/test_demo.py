"""`frontdesk demo race`: one booking wins, the losers leave no rows, and the demo removes its company."""

import json
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner

from app import Frontdesk
from app.cli import main
from app.data_layer import DataLayer
from app.demo.commands import RaceResult, run_race
from app.models import Base


@pytest.fixture
def configured(worker_database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Set DATABASE_URL to the worker's database, and change to an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", worker_database_url)


def test_one_of_fifty_concurrent_bookings_of_a_slot_succeeds(configured: None) -> None:
    result = CliRunner().invoke(main, ["demo", "race", "--json"])
    assert result.exit_code == 0
    race = json.loads(result.output)
    assert race["answers"] == {"booked": 1, "slot_taken": 49}
    assert race["left_behind"] == 0
    assert race["won_by_one"]


def test_the_result_is_also_printed_as_text(configured: None) -> None:
    result = CliRunner().invoke(main, ["demo", "race"])
    assert "49  slot_taken" in result.output
    assert "One winner" in result.output


def test_the_demo_removes_its_scratch_company(configured: None, worker_database_url: str) -> None:
    assert CliRunner().invoke(main, ["demo", "race"]).exit_code == 0
    with psycopg.connect(worker_database_url) as connection:
        for table in Base.metadata.sorted_tables:
            if "company_id" in table.c:
                count = f"SELECT count(*) FROM {table.name} WHERE company_id >= 8000000000000000000"
                assert connection.execute(count.encode()).fetchone() == (0,)


def test_the_demo_detects_rows_left_by_a_losing_booking(desk: Frontdesk, salon: DataLayer) -> None:
    race = run_race(desk, salon, 2, lambda number, answer: _leave_a_row(salon, answer))
    assert race.answers == {"booked": 1, "slot_taken": 1}
    assert race.left_behind == 1
    assert not race.is_won_by_one


def _leave_a_row(salon: DataLayer, answer: str) -> None:
    if answer == "slot_taken":
        salon.upsert_client({"yclients_id": 5, "name": "Loser", "phone": "+79689999999"}).unwrap()


def test_a_race_with_two_winners_fails() -> None:
    assert not RaceResult(50, {"booked": 2, "slot_taken": 48}, 0, 1.0).is_won_by_one


def test_the_demo_refuses_to_run_in_production(configured: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENVIRONMENT", "production")
    monkeypatch.setenv("SENTRY_ENABLED", "false")
    result = CliRunner().invoke(main, ["demo", "race"])
    assert result.exit_code == 2
    assert "production" in result.output
