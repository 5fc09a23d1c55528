"""A database with rows in it, a folder for its backups, and `frontdesk backup`.

Tests that only read a backup take `made`: a copy of one that was prepared for all of them. Who changes the
database, or looks at its log, takes `source`.
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
    """A backup that nobody changes, and the libpq URL of the database that it was made of."""

    folder: Path
    name: str
    url: str


@pytest.fixture(scope="session")
def prepared(new_database: Callable[[], str], tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """One backup for all tests that only read one."""
    url, folder = new_database(), tmp_path_factory.mktemp("prepared")
    execute(url, *ROWS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", url)
        patch.setenv("BACKUP_ADDRESS", str(folder))
        return Prepared(folder, create_backup(run_backup_command), url)


@pytest.fixture
def source(database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The libpq URL of the configured database: two companies, two thousand clients. For this test alone."""
    execute(database_url, *ROWS)
    monkeypatch.setenv("DATABASE_URL", database_url)
    return database_url


@pytest.fixture
def shared(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same, for all tests that leave it as it is but for its log."""
    monkeypatch.setenv("DATABASE_URL", prepared.url)
    return prepared.url


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of BACKUP_ADDRESS."""
    monkeypatch.setenv("BACKUP_ADDRESS", str(tmp_path / "backups"))
    return tmp_path / "backups"


def run_backup_command(*arguments: str) -> Result:
    """Run `frontdesk backup …`."""
    return CliRunner().invoke(main, ["backup", *arguments])


@pytest.fixture
def backup(address: Path) -> Backup:
    """Runs `frontdesk backup …`, with `address`, and with the database of `source` or `shared`."""
    return run_backup_command


@pytest.fixture
def made(prepared: Prepared, shared: str, address: Path) -> str:
    """The name of a backup that was made: a copy of the prepared one, with a name that no log knows."""
    address.mkdir()
    return copy_backup(prepared, address, f"{prepared.name[:-4]}{next(_numbers):04x}")


def copy_backup(prepared: Prepared, address: Path, name: str) -> str:
    """The prepared backup under another name."""
    manifest = Manifest.from_bytes((prepared.folder / f"{prepared.name}.json").read_bytes())
    (address / f"{name}.json").write_bytes(manifest.model_copy(update={"name": name}).to_bytes())
    shutil.copy(prepared.folder / f"{prepared.name}.dump", address / f"{name}.dump")
    return name


@pytest.fixture
def replace(server_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Replace:
    """Puts a script in the place of a program; `$REAL` in it is the right one, whose version it has, too."""
    with psycopg.connect(server_url) as connection:
        major = connection.info.server_version // 10_000

    def replace(name: str, script: str, version: str | None = None) -> None:
        real = pg_programs.find_program(name, major)
        fake = tmp_path / "bin" / name
        fake.parent.mkdir()
        says = f'[ "$1" = --version ] && echo "{name} (PostgreSQL) {version or real.version}" && exit\n'
        fake.write_text(f"#!/bin/sh\n{says}REAL={real.path}\n{script}")
        fake.chmod(0o755)
        monkeypatch.setenv("PATH", str(fake.parent), prepend=os.pathsep)

    return replace


def create_backup(backup: Backup) -> str:
    return str(parse_json_output(backup("create", "--json"))["name"])


def parse_json_output(result: Result, exit_code: int = 0) -> dict[str, Any]:
    """The JSON document of a command that left with this code."""
    assert result.exit_code == exit_code, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found
