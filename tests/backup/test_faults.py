"""Faults: damage to a backup is detected, and an incomplete backup never counts as a backup."""

import os
import resource
import shutil
import signal
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.backup import catalogue, pg_programs
from app.backup.dump_stream import verify_checksum
from app.backup.errors import BackupError, DamagedBackup
from app.backup.manifest import Manifest
from app.backup.storage import Storage
from app.backup.verify import verify
from tests.backup.conftest import Backup, Replace, create_backup, parse_json_output
from tests.e2e.conftest import CALL
from tests.processes import Process, wait_until
from tests.servers import execute, url_of


def ignore_progress(*_: object) -> None:
    """Discard progress reports."""


def problems_of_newest(backup: Backup) -> str:
    """Assert that verify and drill both find the newest backup not good; return the problems."""
    verified = parse_json_output(backup("verify", "--json"), 1)
    drilled = parse_json_output(backup("drill", "--json"), 1)
    assert (verified["good"], drilled["good"]) == (False, False)
    return str(verified["problems"])


@pytest.mark.parametrize("share", [0, 0.999])
def test_verify_and_drill_detect_a_truncated_dump(
    backup: Backup, made: str, address: Path, share: float
) -> None:
    dump = address / f"{made}.dump"
    os.truncate(dump, int(dump.stat().st_size * share))
    assert "bytes instead of" in problems_of_newest(backup)
    assert parse_json_output(backup("list", "--json"), 1)["backups"][0]["state"] == "damaged"
    assert backup("restore").exit_code == 3


def test_verify_and_drill_detect_a_truncated_dump_padded_to_its_size(
    backup: Backup, made: str, address: Path
) -> None:
    dump = address / f"{made}.dump"
    size = dump.stat().st_size
    os.truncate(dump, size // 2)
    os.truncate(dump, size)
    assert "SHA-256" in problems_of_newest(backup)


def test_one_flipped_bit_anywhere_in_the_dump_is_detected(made: str, address: Path) -> None:
    storage, dump = Storage(str(address)), address / f"{made}.dump"
    whole = dump.read_bytes()

    @settings(max_examples=60)
    @given(position=st.integers(0, len(whole) - 1), bit=st.integers(0, 7))
    def flip(position: int, bit: int) -> None:
        with dump.open("r+b") as file:
            file.seek(position)
            file.write(bytes([whole[position] ^ (1 << bit)]))
        entry = catalogue.find_backup(storage, made)
        with pytest.raises(DamagedBackup):
            verify_checksum(storage, entry, ignore_progress)
        if position % 20 == 0:  # rarely, because it starts pg_restore
            assert "SHA-256" in verify(storage, entry, ignore_progress)[0]
        dump.write_bytes(whole)

    flip()
    assert verify(storage, catalogue.find_backup(storage, made), ignore_progress) == ()


def test_one_changed_byte_anywhere_in_the_manifest_is_detected(made: str, address: Path) -> None:
    whole = bytearray((address / f"{made}.json").read_bytes())
    for position, byte in enumerate(bytes(whole)):
        # A flipped bit, the other case, or a tab, which JSON treats like the original space.
        whole[position] = (byte ^ 1, byte ^ 32, ord("\t"))[position % 3]
        with pytest.raises(DamagedBackup):
            Manifest.from_bytes(bytes(whole))
        whole[position] = byte
    assert Manifest.from_bytes(bytes(whole)).name == made


def test_verify_and_drill_detect_a_changed_manifest(backup: Backup, made: str, address: Path) -> None:
    manifest = address / f"{made}.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"rows": 2000', b'"rows": 2001'))
    assert "the manifest differs from what was written" in problems_of_newest(backup)


def test_verify_drill_and_restore_reject_a_backup_without_a_manifest(
    backup: Backup, made: str, address: Path
) -> None:
    (address / f"{made}.json").unlink()
    assert "it has no manifest" in problems_of_newest(backup)
    assert "is no complete backup" in backup("restore").stderr


def test_verify_and_drill_detect_a_missing_dump(backup: Backup, made: str, address: Path) -> None:
    (address / f"{made}.dump").unlink()
    assert "the dump is missing" in problems_of_newest(backup)


def test_verify_and_drill_detect_files_of_another_backup(backup: Backup, made: str, address: Path) -> None:
    newer = create_backup(backup)
    for kind in ("dump", "json"):
        shutil.copy(address / f"{made}.{kind}", address / f"{newer}.{kind}")
    assert f"the manifest belongs to the backup {made}" in problems_of_newest(backup)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ('"$REAL" "$@" | head -c 3000; kill -9 $$', "killed by signal 9"),
        ('"$REAL" "$@"; echo "pg_dump: error: it went wrong" >&2; exit 1', "it went wrong"),
        ("exit 7", "exit code 7"),
    ],
)
def test_a_failed_pg_dump_leaves_no_files(
    backup: Backup, shared: str, address: Path, replace: Replace, script: str, words: str
) -> None:
    replace("pg_dump", script)
    failed = backup("create")
    assert (failed.exit_code, failed.stdout) == (3, "")
    assert words in failed.stderr
    assert list(address.iterdir()) == []


@pytest.mark.full
def test_a_killed_backup_stays_unfinished(
    backup: Backup, shared: str, address: Path, replace: Replace, tmp_path: Path
) -> None:
    """It is listed as unfinished, verify and drill reject it, and prune does not count it as good."""
    replace("pg_dump", '"$REAL" "$@" | head -c 3000; exec sleep 10')
    process = Process([sys.executable, "-c", CALL, "backup", "create"], tmp_path / "output", Path.cwd())
    try:
        wait_until(lambda: any(address.glob("*.dump.part")))
        process.send(signal.SIGKILL)
        process.wait()
    finally:
        process.end()
    assert "it has no manifest" in problems_of_newest(backup)
    assert parse_json_output(backup("list", "--json"), 1)["backups"][0]["state"] == "unfinished"
    assert "None of the backups" in backup("prune", "--keep", "1").stderr


@pytest.mark.full
def test_a_drill_drops_its_scratch_database_on_sigterm(
    backup: Backup, made: str, server_url: str, replace: Replace, tmp_path: Path
) -> None:
    def count_scratch_databases() -> int:
        with psycopg.connect(server_url) as connection:
            query = "SELECT FROM pg_database WHERE starts_with(datname, 'frontdesk_drill_')"
            return len(connection.execute(query).fetchall())

    replace("pg_restore", "exec sleep 10")
    process = Process([sys.executable, "-c", CALL, "backup", "drill"], tmp_path / "output", Path.cwd())
    try:
        wait_until(lambda: count_scratch_databases() > 0)
        process.send(signal.SIGTERM)
        assert process.wait() == 128 + signal.SIGTERM
    finally:
        process.end()
    wait_until(lambda: count_scratch_databases() == 0)


def test_a_backup_that_fills_the_disk_leaves_no_files(backup: Backup, made: str, address: Path) -> None:
    """A limit on the file size, lower than the size of the dump, stands in for a full disk."""
    before = sorted(address.iterdir())
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limit[1]))
        failed = backup("create")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert failed.exit_code == 3
    assert "File too large" in failed.stderr
    assert sorted(address.iterdir()) == before
    assert parse_json_output(backup("verify", "--json"))["name"] == made


def test_a_backup_whose_manifest_cannot_be_written_leaves_no_files(
    backup: Backup, shared: str, address: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Storage.open_for_writing

    def full(self: Storage, name: str) -> AbstractContextManager[Any]:
        if name.endswith(".json"):
            raise BackupError("No space left on device.")
        return write(self, name)

    monkeypatch.setattr(Storage, "open_for_writing", full)
    assert "No space left" in backup("create").stderr
    assert list(address.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "by_verify"),
    [
        ("INSERT INTO clients (company_id, name, source) VALUES (1, 'A', 'assistant')", True),
        ("UPDATE clients SET comment = NULL WHERE yclients_id = 3", False),  # was an empty string
    ],
)
def test_a_dump_whose_rows_differ_from_the_manifest_is_detected(
    backup: Backup, source: str, monkeypatch: pytest.MonkeyPatch, change: str, by_verify: bool
) -> None:
    run = pg_programs.run_program

    def without_snapshot(program: Any, *arguments: str, **options: Any) -> Any:
        if program.path.name == "pg_dump":
            execute(source, change)
        return run(program, *(option for option in arguments if "snapshot" not in option), **options)

    monkeypatch.setattr(pg_programs, "run_program", without_snapshot)
    create_backup(backup)
    assert parse_json_output(backup("verify", "--json"), int(by_verify))["good"] is not by_verify
    (problem,) = parse_json_output(backup("drill", "--json"), 1)["problems"]
    assert problem.startswith("public.clients: ")


def test_a_failed_restore_leaves_the_database_empty(
    made: str,
    backup: Backup,
    server_url: str,
    replace: Replace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    execute(server_url, "CREATE DATABASE half")
    try:
        url = url_of(server_url, "half")
        path = os.environ["PATH"]
        replace("pg_restore", 'head -c 20000 | "$REAL" "$@"')
        failed = backup("restore", "--into", url)
        monkeypatch.setenv("PATH", path)
        assert failed.exit_code == 3
        assert "end of file" in failed.stderr
        assert parse_json_output(backup("restore", "--into", url, "--json"))["good"] is True
    finally:
        execute(server_url, "DROP DATABASE half WITH (FORCE)")


def test_the_error_names_a_missing_program_and_the_versions_found() -> None:
    with pytest.raises(BackupError, match=r"pg_dump of PostgreSQL 99 or newer is needed; found: .*18\.\d.*"):
        pg_programs.find_program("pg_dump", 99)


def test_find_program_returns_the_lowest_sufficient_version() -> None:
    majors = [pg_programs.find_program("pg_restore", major).major for major in (16, 17, 18)]
    assert majors == [16, 18, 18]
