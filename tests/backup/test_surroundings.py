"""Backups with large objects, extension tables, database timeouts and odd directory names."""

import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from app.backup import pg_programs, restore
from app.backup.errors import BackupError
from app.backup.storage import Storage
from tests.backup.conftest import Backup, Replace, create_backup, parse_json_output
from tests.servers import execute


@pytest.mark.parametrize(
    ("change", "by_verify", "problem"),
    [
        ("lo_unlink(oid)", True, "large objects: is missing"),
        ("lo_put(oid, 1500000, 'x')", False, "large objects: 1 rows as expected, but with different content"),
    ],
)
def test_verify_and_drill_detect_changed_large_objects(
    backup: Backup,
    source: str,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
    by_verify: bool,
    problem: str,
) -> None:
    execute(source, "SELECT lo_from_bytea(0, convert_to(repeat('ab', 1000000), 'UTF8'))")
    create_backup(backup)
    assert parse_json_output(backup("verify", "--json"))["problems"] == []
    assert parse_json_output(backup("drill", "--json"))["problems"] == []
    run = pg_programs.run_program

    def after_a_change(program: Any, *arguments: str, **options: Any) -> Any:
        if program.path.name == "pg_dump":
            execute(source, f"SELECT {change} FROM pg_largeobject_metadata")
        return run(program, *(option for option in arguments if "snapshot" not in option), **options)

    monkeypatch.setattr(pg_programs, "run_program", after_a_change)
    create_backup(backup)
    assert parse_json_output(backup("verify", "--json"), int(by_verify))["good"] is not by_verify
    assert parse_json_output(backup("drill", "--json"), 1)["problems"] == [problem]


def test_verify_accepts_dumped_rows_of_an_extension_table(backup: Backup, source: str) -> None:
    execute(
        source,
        "CREATE TABLE extension_settings (name text)",
        "INSERT INTO extension_settings VALUES ('a')",
        "ALTER EXTENSION plpgsql ADD TABLE extension_settings",
        "UPDATE pg_extension SET extconfig = ARRAY['extension_settings'::regclass::oid],"
        " extcondition = '{\"\"}' WHERE extname = 'plpgsql'",
    )
    create_backup(backup)
    assert parse_json_output(backup("verify", "--json"))["problems"] == []


def test_timeouts_set_on_the_database_do_not_interrupt_backup_and_drill(
    backup: Backup, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(source, autocommit=True) as connection:
        limits = ["statement_timeout", "idle_session_timeout", "idle_in_transaction_session_timeout"]
        limits += ["transaction_timeout"] if connection.info.server_version >= 170_000 else []
        for limit in limits:
            connection.execute(f"ALTER DATABASE {connection.info.dbname} SET {limit} = '300ms'")
    run = pg_programs.run_program

    def slowly(program: Any, *arguments: str, **options: Any) -> Any:
        time.sleep(0.5)
        return run(program, *arguments, **options)

    monkeypatch.setattr(pg_programs, "run_program", slowly)
    create_backup(backup)
    assert parse_json_output(backup("drill", "--json"))["good"] is True


def test_verify_fails_without_hanging_when_reading_the_dump_fails(
    backup: Backup, made: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verify used to hang: pg_restore waited for input, and verify for pg_restore's output."""
    read = Storage.open_for_reading

    def broken(self: Storage, name: str) -> Any:
        if name.endswith(".dump"):
            raise BackupError("The connection was reset.")
        return read(self, name)

    monkeypatch.setattr(Storage, "open_for_reading", broken)
    failed = backup("verify")
    assert (failed.exit_code, failed.stdout) == (3, "")
    assert "The connection was reset." in failed.stderr


def test_create_warns_when_only_newer_servers_can_restore_the_backup(
    backup: Backup, shared: str, address: Path, replace: Replace, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Warning" not in backup("create").stderr
    monkeypatch.setattr(restore, "TRANSACTION_TIMEOUT_MIN_MAJOR", 99)
    replace("pg_dump", 'exec "$REAL" "$@"', version="99.1")
    monkeypatch.setattr(pg_programs, "PROGRAM_FOLDER_PATTERNS", ())
    monkeypatch.setattr(pg_programs, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", str(address.parent / "bin"))
    made = backup("create")
    assert made.exit_code == 0
    assert "made by pg_dump 99.1, and can be restored into PostgreSQL 99 or newer only." in made.stderr


@pytest.mark.parametrize("name", ["a::b", "with [red]blanks[/]", "100%20?#*"])
def test_backups_work_in_a_directory_with_special_characters_in_its_name(
    backup: Backup, shared: str, tmp_path: Path, name: str
) -> None:
    made = backup("create", "--at", str(tmp_path / name))
    assert f" at {tmp_path / name}: " in made.stdout
    assert parse_json_output(backup("verify", "--at", str(tmp_path / name), "--json"))["good"] is True
    assert len(list((tmp_path / name).iterdir())) == 2


def test_a_manifest_too_deeply_nested_for_the_parser_is_reported_as_damaged(
    backup: Backup, made: str, address: Path
) -> None:
    (address / f"{made}.json").write_bytes(b"[" * 100_000)
    assert (
        parse_json_output(backup("list", "--json"), 1)["backups"][0]["problem"]
        == "the manifest cannot be read"
    )


def test_a_number_of_days_beyond_the_range_of_dates_is_wrong_usage(backup: Backup, made: str) -> None:
    assert backup("prune", "--days", "999999999999").exit_code == 2
