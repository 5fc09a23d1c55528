"""Whatever happens to a backup is noticed, and nothing that is not whole passes for one."""

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


def nothing(*_: object) -> None:
    """No progress to show."""


def is_noticed(backup: Backup) -> str:
    """Verify and drill both say that the newest backup is not good; return why."""
    verified = parse_json_output(backup("verify", "--json"), 1)
    drilled = parse_json_output(backup("drill", "--json"), 1)
    assert (verified["good"], drilled["good"]) == (False, False)
    return str(verified["problems"])


@pytest.mark.parametrize("share", [0, 0.999])
def test_a_truncated_dump(backup: Backup, made: str, address: Path, share: float) -> None:
    dump = address / f"{made}.dump"
    os.truncate(dump, int(dump.stat().st_size * share))
    assert "bytes instead of" in is_noticed(backup)
    assert parse_json_output(backup("list", "--json"), 1)["backups"][0]["state"] == "damaged"
    assert backup("restore").exit_code == 3


def test_a_truncated_dump_that_was_filled_up_again(backup: Backup, made: str, address: Path) -> None:
    dump = address / f"{made}.dump"
    size = dump.stat().st_size
    os.truncate(dump, size // 2)
    os.truncate(dump, size)
    assert "SHA-256" in is_noticed(backup)


def test_one_flipped_bit_anywhere_in_the_dump(made: str, address: Path) -> None:
    place, dump = Storage(str(address)), address / f"{made}.dump"
    whole = dump.read_bytes()

    @settings(max_examples=60)
    @given(position=st.integers(0, len(whole) - 1), bit=st.integers(0, 7))
    def flip(position: int, bit: int) -> None:
        with dump.open("r+b") as file:
            file.seek(position)
            file.write(bytes([whole[position] ^ (1 << bit)]))
        entry = catalogue.find_backup(place, made)
        with pytest.raises(DamagedBackup):
            verify_checksum(place, entry, nothing)
        if position % 20 == 0:  # it starts a program
            assert "SHA-256" in verify(place, entry, nothing)[0]
        dump.write_bytes(whole)

    flip()
    assert verify(place, catalogue.find_backup(place, made), nothing) == ()


def test_another_byte_anywhere_in_the_manifest(made: str, address: Path) -> None:
    whole = bytearray((address / f"{made}.json").read_bytes())
    for position, byte in enumerate(bytes(whole)):
        # One flipped bit, another case, and a blank of another kind, which means the same to JSON.
        whole[position] = (byte ^ 1, byte ^ 32, ord("\t"))[position % 3]
        with pytest.raises(DamagedBackup):
            Manifest.from_bytes(bytes(whole))
        whole[position] = byte
    assert Manifest.from_bytes(bytes(whole)).name == made


def test_a_flipped_byte_in_the_manifest_is_told(backup: Backup, made: str, address: Path) -> None:
    manifest = address / f"{made}.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"rows": 2000', b'"rows": 2001'))
    assert "the manifest is not as it was written" in is_noticed(backup)


def test_a_missing_manifest(backup: Backup, made: str, address: Path) -> None:
    (address / f"{made}.json").unlink()
    assert "it has no manifest" in is_noticed(backup)
    assert "is no backup that is complete" in backup("restore").stderr


def test_a_missing_dump(backup: Backup, made: str, address: Path) -> None:
    (address / f"{made}.dump").unlink()
    assert "the dump is missing" in is_noticed(backup)


def test_another_backup_s_files_under_this_name(backup: Backup, made: str, address: Path) -> None:
    newer = create_backup(backup)
    for kind in ("dump", "json"):
        shutil.copy(address / f"{made}.{kind}", address / f"{newer}.{kind}")
    assert f"the manifest is that of {made}" in is_noticed(backup)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ('"$REAL" "$@" | head -c 3000; kill -9 $$', "killed by signal 9"),
        ('"$REAL" "$@"; echo "pg_dump: error: it went wrong" >&2; exit 1', "it went wrong"),
        ("exit 7", "exit code 7"),
    ],
)
def test_a_pg_dump_that_does_not_end_well_leaves_nothing(
    backup: Backup, shared: str, address: Path, replace: Replace, script: str, words: str
) -> None:
    replace("pg_dump", script)
    failed = backup("create")
    assert (failed.exit_code, failed.stdout) == (3, "")
    assert words in failed.stderr
    assert list(address.iterdir()) == []


@pytest.mark.full
def test_a_killed_backup_is_none(
    backup: Backup, shared: str, address: Path, replace: Replace, tmp_path: Path
) -> None:
    """Not even for the one that is made next: prune tells them apart, and clears up."""
    replace("pg_dump", '"$REAL" "$@" | head -c 3000; exec sleep 10')
    process = Process([sys.executable, "-c", CALL, "backup", "create"], tmp_path / "output", Path.cwd())
    try:
        wait_until(lambda: any(address.glob("*.dump.part")))
        process.send(signal.SIGKILL)
        process.wait()
    finally:
        process.end()
    assert "it has no manifest" in is_noticed(backup)
    assert parse_json_output(backup("list", "--json"), 1)["backups"][0]["state"] == "unfinished"
    assert "None of the backups" in backup("prune", "--keep", "1").stderr


@pytest.mark.full
def test_a_drill_that_is_told_to_stop_drops_its_scratch(
    backup: Backup, made: str, server_url: str, replace: Replace, tmp_path: Path
) -> None:
    def scratches() -> int:
        with psycopg.connect(server_url) as connection:
            query = "SELECT FROM pg_database WHERE starts_with(datname, 'frontdesk_drill_')"
            return len(connection.execute(query).fetchall())

    replace("pg_restore", "exec sleep 10")
    process = Process([sys.executable, "-c", CALL, "backup", "drill"], tmp_path / "output", Path.cwd())
    try:
        wait_until(lambda: scratches() > 0)
        process.send(signal.SIGTERM)
        assert process.wait() == 128 + signal.SIGTERM
    finally:
        process.end()
    wait_until(lambda: scratches() == 0)


def test_a_full_disk(backup: Backup, made: str, address: Path) -> None:
    """No file may be larger than ten kilobytes for a moment, and the dump is."""
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


def test_a_disk_that_is_full_when_the_manifest_comes(
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
        ("UPDATE clients SET comment = NULL WHERE yclients_id = 3", False),  # it was an empty text
    ],
)
def test_rows_that_changed_between_the_manifest_and_the_dump(
    backup: Backup, source: str, monkeypatch: pytest.MonkeyPatch, change: str, by_verify: bool
) -> None:
    run = pg_programs.run_program

    def without_snapshot(program: Any, *arguments: str, **options: Any) -> Any:
        if program.path.name == "pg_dump":
            execute(source, change)
        return run(program, *(each for each in arguments if "snapshot" not in each), **options)

    monkeypatch.setattr(pg_programs, "run_program", without_snapshot)
    create_backup(backup)
    assert parse_json_output(backup("verify", "--json"), int(by_verify))["good"] is not by_verify
    (problem,) = parse_json_output(backup("drill", "--json"), 1)["problems"]
    assert problem.startswith("public.clients: ")


def test_a_restore_that_fails_leaves_the_database_empty(
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


def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(BackupError, match=r"pg_dump of PostgreSQL 99 or newer is needed; found: .*18\.\d.*"):
        pg_programs.find_program("pg_dump", 99)


def test_the_oldest_program_that_will_do_is_taken() -> None:
    assert [pg_programs.find_program("pg_restore", each).major for each in (16, 17, 18)] == [16, 18, 18]
