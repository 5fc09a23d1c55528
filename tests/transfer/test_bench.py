"""Tests of `frontdesk transfer bench`: it measures both sides and does not change existing data."""

import json
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from app.cli import main, transfer_bench
from app.transfer.protocol.endpoints import Sides
from app.transfer.protocol.tables import BENCH_SCHEMA
from app.transfer.start import start
from tests.servers import execute

Connection = psycopg.Connection[Any]


@pytest.fixture(autouse=True)
def small(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer_bench, "CLIENT_COUNT", 120)
    monkeypatch.setenv("LEGACY_DATABASE_URL", sides.legacy.url)
    monkeypatch.setenv("DATABASE_URL", sides.primary.url)


def test_every_operation_is_measured_on_both_sides_during_a_transfer(
    sides: Sides, legacy: Connection, primary: Connection
) -> None:
    start(sides)
    execute(sides.primary.url, f"CREATE SCHEMA {BENCH_SCHEMA}")  # left by a killed command
    result = CliRunner().invoke(main, ["transfer", "bench", "--repeats", "3", "--json"])
    assert result.exit_code == 0, result.output
    operations = json.loads(result.stdout)["operations"]
    assert [operation["operation"] for operation in operations] == list(transfer_bench.OPERATIONS)
    for operation in operations:
        for side in ("legacy", "primary"):
            assert 0 < operation[side]["p50"] <= operation[side]["p95"] <= operation[side]["p99"]
            assert operation[side]["errors"] == 0
    for connection in (legacy, primary):
        leftovers = connection.execute(
            "SELECT (SELECT count(*) FROM clients), (SELECT count(*) FROM frontdesk_transfer.marks),"
            " to_regnamespace(%s)",
            (BENCH_SCHEMA,),
        ).fetchone()
        assert leftovers == (0, 0, None)


def test_failed_calls_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        transfer_bench.OPERATIONS, "a client by phone", lambda salon, number: salon.get_client_by_phone("?")
    )
    result = CliRunner().invoke(main, ["transfer", "bench", "--repeats", "2"])
    assert result.exit_code == 1
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("a client by phone")]
    assert line.split()[4:] == ["-", "-", "-", "2", "-", "-", "-", "2", "-"]
