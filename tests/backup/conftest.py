"""A database with rows in it, a folder for its backups, and `frontdesk backup`."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result

from app.backup import programs
from app.cli import main
from tests.servers import execute

Backup = Callable[..., Result]
Replace = Callable[[str, str], None]

ROWS = (
    "INSERT INTO companies (company_id, title) VALUES (1, 'Salon'), (2, '')",
    "INSERT INTO clients (company_id, yclients_id, name, phone, comment)"
    " SELECT 1, n, 'Анна ' || n, '+7968' || n, CASE n % 3 WHEN 0 THEN '' WHEN 1 THEN E'two\\nlines\\\\.' END"
    " FROM generate_series(1, 2000) AS n",
    "INSERT INTO whatsapp_auth (company_id, creds) VALUES (1, '\\x00ff0a5c2e0a')",
    "INSERT INTO dialog_contexts (company_id, user_id, context) VALUES (1, 'u', '{\"a\": [1, null]}')",
)


@pytest.fixture
def source(database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The libpq URL of the configured database: two companies, two thousand clients."""
    execute(database_url, *ROWS)
    monkeypatch.setenv("DATABASE_URL", database_url)
    return database_url


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of BACKUP_ADDRESS."""
    monkeypatch.setenv("BACKUP_ADDRESS", str(tmp_path / "backups"))
    return tmp_path / "backups"


@pytest.fixture
def backup(source: str, address: Path) -> Backup:
    """Runs `frontdesk backup …`."""

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["backup", *arguments])

    return run


@pytest.fixture
def made(backup: Backup) -> str:
    """The name of a backup that was made."""
    return make(backup)


@pytest.fixture
def replace(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Replace:
    """Puts a script in the place of a program; `$REAL` in it is the right one."""
    with psycopg.connect(source) as connection:
        major = connection.info.server_version // 10_000

    def replace(name: str, script: str) -> None:
        real = programs.find(name, major)
        fake = tmp_path / "bin" / name
        fake.parent.mkdir()
        version = f'[ "$1" = --version ] && echo "{name} (PostgreSQL) {real.version}" && exit\n'
        fake.write_text(f"#!/bin/sh\n{version}REAL={real.path}\n{script}")
        fake.chmod(0o755)
        monkeypatch.setenv("PATH", str(fake.parent), prepend=os.pathsep)

    return replace


def make(backup: Backup) -> str:
    return str(answer(backup("create", "--json"))["name"])


def answer(result: Result, exit_code: int = 0) -> dict[str, Any]:
    """The JSON document of a command that left with this code."""
    assert result.exit_code == exit_code, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found
