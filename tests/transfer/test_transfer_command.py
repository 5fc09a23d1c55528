"""Tests of the `frontdesk transfer` commands: output and exit codes."""

import json
import signal
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner, Result

from app.cli import main
from app.transfer.protocol.endpoints import Sides
from tests.processes import BIN, running_process, wait_until

Run = Callable[..., Result]


@pytest.fixture
def run(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A function that runs a command with two databases at the latest revision."""
    monkeypatch.setenv("LEGACY_DATABASE_URL", sides.legacy.url)
    monkeypatch.setenv("DATABASE_URL", sides.primary.url)
    return lambda *arguments: CliRunner().invoke(main, ["transfer", *arguments])


def test_the_commands_complete_a_transfer(run: Run, sides: Sides) -> None:
    with psycopg.connect(sides.legacy.url) as connection:
        connection.execute("INSERT INTO companies (company_id, title) VALUES (1, 'Salon')")
    assert json.loads(run("status", "--json").stdout)["stage"] == "not started"
    assert "Dry run" in run("start", "--dry-run").stdout
    assert json.loads(run("status", "--json").stdout)["stage"] == "not started"
    cutover = ("cutover", "--max-pause", "10")  # long enough for a busy machine
    for command in (("start",), ("copy",), ("relay", "--once"), ("verify",), (*cutover, "--dry-run")):
        result = run(*command)
        assert result.exit_code == 0, (command, result.output)
    assert json.loads(run("status", "--json").stdout)["next"] == "frontdesk transfer cutover"

    result = run(*cutover)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].strip().endswith("preflight")
    assert " ms " in lines[0]
    assert lines[-1].startswith("primary is live. Writes paused for ")
    assert run("cutover").stdout == "primary is live already.\n"
    document = json.loads(run("rollback", "--max-pause", "10", "--json").stdout)
    assert (document["live"], document["dry_run"]) == ("legacy", False)
    assert 0 < document["pause"] < 10
    status = json.loads(run("status", "--json").stdout)
    assert (status["live"], status["marks"], status["in_the_way"]) == ("legacy", 0, [])
    assert [line["step"] for line in status["journal"]][-1] == "start"

    assert "Dry run" in run("finish", "--dry-run").stdout
    assert run("finish").exit_code == 0
    assert json.loads(run("status", "--json").stdout)["stage"] == "not started"


def test_the_relay_runs_until_sigterm(run: Run, sides: Sides, tmp_path: Path) -> None:
    assert (run("start").exit_code, run("copy").exit_code) == (0, 0)
    relay = running_process([str(BIN / "frontdesk"), "transfer", "relay"], tmp_path / "output", tmp_path)
    with relay as process, psycopg.connect(sides.primary.url, autocommit=True) as primary:
        with psycopg.connect(sides.legacy.url) as legacy:
            legacy.execute("INSERT INTO companies (company_id, title) VALUES (1, 'Salon')")
        wait_until(lambda: primary.execute("SELECT FROM companies").fetchone() is not None)
        process.send(signal.SIGTERM)
        assert (process.wait(), process.output) == (0, "")


def test_commands_require_a_started_transfer(run: Run) -> None:
    for command in ("relay", "cutover", "rollback"):
        result = run(command)
        assert result.exit_code == 2, result.output
        assert result.stderr == "Error: No transfer has been started: run `frontdesk transfer start`.\n"


def test_problems_are_reported_by_plan_and_stop_start(run: Run, sides: Sides) -> None:
    with psycopg.connect(sides.legacy.url) as legacy:
        legacy.execute("CREATE TABLE notes (id int PRIMARY KEY)")
    assert run("plan").exit_code == 1
    refused = run("start")
    assert (refused.exit_code, "cannot start: table public.notes" in refused.stderr) == (3, True)


def test_commands_require_legacy_database_url(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LEGACY_DATABASE_URL")
    for command in ("plan", "start", "copy", "relay", "verify", "cutover", "rollback", "status", "finish"):
        result = run(command)
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1), result.output
        assert "LEGACY_DATABASE_URL" in result.stderr


def test_a_cutover_is_refused_while_services_are_pinned(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFER_PIN", "legacy")
    result = run("cutover")
    assert result.exit_code == 2
    assert "TRANSFER_PIN" in result.stderr


def test_an_unreachable_side_is_an_error_without_the_password(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEGACY_DATABASE_URL", "postgresql://me:secret@127.0.0.1:9/nothing")
    for command in ("start", "cutover", "finish"):
        result = run(command)
        assert (result.exit_code, result.stderr.count("\n")) == (3, 1), result.output
        assert "secret" not in result.output
    result = run("status", "--json")
    assert result.exit_code == 3
    document = json.loads(result.stdout)
    assert document["stage"] == "unknown"
    assert "legacy" in document["in_the_way"][0]
