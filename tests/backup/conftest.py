"""Fixtures for tests of backups: a database with rows, a folder for its backups, and `frontdesk backup`.

A test that only reads a backup uses `made`, a copy of a backup that is prepared once per session. A test that
changes the database or reads its log uses `source`.
"""

import itertools
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result

from app.backup import pg_programs
from app.backup.manifest import Manifest
from app.cli import main
from tests.servers import execute

Backup = Callable[..., Result]
Replace = Callable[..., None]

ROWS = (
    "INSERT INTO companies (company_id, title) VALUES (1, 'Salon'), (2, '')",
    "INSERT INTO clients (company_id, yclients_id, name, phone, comment)"
    " SELECT 1, n, 'Анна ' || n, '+7968' || n, CASE n % 3 WHEN 0 THEN '' WHEN 1 THEN E'two\\nlines\\\\.' END"
    " FROM generate_series(1, 2000) AS n",
    "INSERT INTO whatsapp_auth (company_id, creds) VALUES (1, '\\x00ff0a5c2e0a')",
    "INSERT INTO dialog_contexts (company_id, user_id, context) VALUES (1, 'u', '{\"a\": [1, null]}')",
)


_numbers = itertools.count()


@dataclass(frozen=True)
class Prepared:
    """A backup that tests only copy, and the libpq URL of its database."""

    folder: Path
    name: str
    url: str


@pytest.fixture(scope="session")
def prepared(new_database: Callable[[], str], tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Make one backup per session, for all tests that only read one."""
    url, folder = new_database(), tmp_path_factory.mktemp("prepared")
    execute(url, *ROWS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", url)
        patch.setenv("BACKUP_ADDRESS", str(folder))
        return Prepared(folder, create_backup(run_backup_command), url)


@pytest.fixture
def source(database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Configure a database for this test only, with 2 companies and 2,000 clients; return its libpq URL."""
    execute(database_url, *ROWS)
    monkeypatch.setenv("DATABASE_URL", database_url)
    return database_url


@pytest.fixture
def shared(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> str:
    """Configure the database of `prepared`; return its libpq URL. Tests may change only its log of runs."""
    monkeypatch.setenv("DATABASE_URL", prepared.url)
    return prepared.url


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set BACKUP_ADDRESS to a folder that does not exist yet, and return its path."""
    monkeypatch.setenv("BACKUP_ADDRESS", str(tmp_path / "backups"))
    return tmp_path / "backups"


def run_backup_command(*arguments: str) -> Result:
    """Run `frontdesk backup` with these arguments, and return its result."""
    return CliRunner().invoke(main, ["backup", *arguments])


@pytest.fixture
def backup(address: Path) -> Backup:
    """Return a function that runs `frontdesk backup` with the storage of `address`.

    The database is that of `source` or `shared`.
    """
    return run_backup_command


@pytest.fixture
def made(prepared: Prepared, shared: str, address: Path) -> str:
    """Copy the prepared backup to `address` under a name that no log contains, and return that name."""
    address.mkdir()
    return copy_backup(prepared, address, f"{prepared.name[:-4]}{next(_numbers):04x}")


def copy_backup(prepared: Prepared, address: Path, name: str) -> str:
    """Copy the prepared backup to `address` under another name, and return that name."""
    manifest = Manifest.from_bytes((prepared.folder / f"{prepared.name}.json").read_bytes())
    (address / f"{name}.json").write_bytes(manifest.model_copy(update={"name": name}).to_bytes())
    shutil.copy(prepared.folder / f"{prepared.name}.dump", address / f"{name}.dump")
    return name


@pytest.fixture
def replace(server_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Replace:
    """Return a function that puts a shell script on PATH instead of a PostgreSQL program.

    In the script, `$REAL` is the path of the real program. The script reports the real program's version
    unless another one is given: `replace("pg_dump", "exit 7", version="99.1")`.
    """
    with psycopg.connect(server_url) as connection:
        major = connection.info.server_version // 10_000

    def replace(name: str, script: str, version: str | None = None) -> None:
        real = pg_programs.find_program(name, major)
        fake = tmp_path / "bin" / name
        fake.parent.mkdir()
        report_version = (
            f'[ "$1" = --version ] && echo "{name} (PostgreSQL) {version or real.version}" && exit\n'
        )
        fake.write_text(f"#!/bin/sh\n{report_version}REAL={real.path}\n{script}")
        fake.chmod(0o755)
        monkeypatch.setenv("PATH", str(fake.parent), prepend=os.pathsep)

    return replace


def create_backup(backup: Backup) -> str:
    """Make a backup and return its name."""
    return str(parse_json_output(backup("create", "--json"))["name"])


def parse_json_output(result: Result, exit_code: int = 0) -> dict[str, Any]:
    """Assert the exit code of a command, and return the JSON document that it printed."""
    assert result.exit_code == exit_code, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document
