"""The `.sql` files of the project: their parts, and their agreement with the modules beside them."""

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from app.config import PROJECT_ROOT
from app.database.sql_files import read_queries, read_script
from app.transfer.protocol.tables import SCHEMA

FILES = sorted((PROJECT_ROOT / "app").rglob("*.sql"))


def package_of(file: Path) -> str:
    return ".".join(file.parent.relative_to(PROJECT_ROOT).parts)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_each_file_begins_with_a_header_and_is_read_by_a_module_beside_it(file: Path) -> None:
    assert file.read_text().startswith("-- ")
    readers = [module.name for module in file.parent.glob("*.py") if f'"{file.name}"' in module.read_text()]
    assert len(readers) == 1


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_each_file_has_statements_without_comment_lines(file: Path) -> None:
    queries = read_queries(package_of(file), file.name).values()
    for statement in queries or [read_script(package_of(file), file.name)]:
        assert statement
        assert not any(line.startswith("--") for line in statement.splitlines())


@pytest.mark.parametrize(
    "file", [file for file in FILES if file.parent.name == "protocol"], ids=lambda f: f.name
)
def test_the_files_of_the_transfer_name_the_schema_of_the_modules(file: Path) -> None:
    text = file.read_text()
    assert text.count("frontdesk_transfer") == text.count(SCHEMA)


def test_queries_are_found_by_name_in_the_order_of_the_file() -> None:
    assert [*read_queries("app.database", "integrity_checks.sql")] == ["constraints", "indexes", "sequences"]


def test_a_wheel_contains_the_files(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=PROJECT_ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.iterdir()
    assert {str(file.relative_to(PROJECT_ROOT)) for file in FILES} <= {*ZipFile(wheel).namelist()}
