"""The SQL that the migrations execute passes the linter squawk; exceptions are comments in the statements."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from psycopg.pq import TransactionStatus

from app.migrations import runner
from tests.migrations.databases import Database, MakeDatabase
from tests.migrations.test_runs import before_each_statement, small_installation

pytestmark = pytest.mark.xdist_group("lint")  # both tests use the same recording

SQUAWK = Path(sys.executable).with_name("squawk")

# Reads and writes of rows are not recorded: squawk checks schema changes.
NOT_FOR_SQUAWK = ("SELECT", "INSERT", "UPDATE", "DELETE", "LOCK", "CREATE OR REPLACE FUNCTION")


class Recorder:
    """Recorder of statements as an SQL script, with session options and transactions."""

    def __init__(self) -> None:
        self.lines = [f"SET {name} = '{value}'" for name, value in runner.SESSION_SETTINGS.items()]
        self.open = False

    def __call__(self, _: int, statement: str, connection: Any) -> None:
        if statement.lstrip().startswith(NOT_FOR_SQUAWK) or "alembic_version" in statement:
            return
        starts = connection.info.transaction_status == TransactionStatus.IDLE
        if self.open and (starts or connection.autocommit):
            self.lines.append("COMMIT")
            self.open = False
        if not self.open and not connection.autocommit:
            self.lines.append("BEGIN")
            self.open = True
        self.lines.append(statement.strip().removesuffix(";"))

    def script(self) -> str:
        return "".join(f"{line};\n" for line in (*self.lines, *(["COMMIT"] if self.open else [])))


def record(database: Database, folder: Path) -> list[Path]:
    """Upgrade a small installation in the old schema; write the SQL of each revision to a file."""
    files = []
    for number, script in enumerate(reversed(list(runner.script_directory().walk_revisions()))):
        recorder = Recorder()
        with before_each_statement(recorder):
            database.upgrade(script.revision, dedupe="keep-earliest")
        if number == 0:
            small_installation(database)
        files.append(folder / f"{number:02d}_{script.revision}.sql")
        files[-1].write_text(recorder.script())
    return files


def squawk(files: list[Path]) -> tuple[int, str]:
    """Return squawk's exit code (0: no findings) and its report."""
    command = [SQUAWK, "--pg-version", "15.0", "--reporter", "gcc", *files]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.returncode, result.stdout + result.stderr


@pytest.fixture(scope="module")
def recorded(make_database: MakeDatabase, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The SQL of the migrations, one file per revision."""
    return record(make_database(), tmp_path_factory.mktemp("recorded"))


def test_the_recorded_sql_passes_squawk(recorded: list[Path]) -> None:
    assert len(recorded) > 20
    code, report = squawk(recorded)
    assert code == 0, report


def test_squawk_reports_findings_without_the_exceptions(recorded: list[Path], tmp_path: Path) -> None:
    bare = [tmp_path / file.name for file in recorded]
    for file, copy in zip(recorded, bare, strict=True):
        copy.write_text(re.sub("-- squawk-ignore.*", "", file.read_text()))
    code, report = squawk(bare)
    assert code != 0
    assert {"changing-column-type", "renaming-column", "ban-drop-column"} <= set(
        re.findall(r"[a-z-]+", report)
    )
