"""The fixture `nothing_leaks` detects personal data in log lines, Sentry events and process output."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from app.config import PROJECT_ROOT
from tests.watching import find_personal_data

LEAKS = """
import logging
import sys

from app.observability import sentry
from tests.processes import running_process

def test_nothing():
    logging.getLogger("app.x").info("Company 962302, 2030-05-14T12:00:00.123456+00:00")

def test_a_line_of_the_log():
    logging.getLogger("app.x").info("Called %s", "+79161234567")

def test_an_event():
    sentry.capture_message("Anna has called")

def test_the_output_of_a_process(tmp_path):
    command = [sys.executable, "-c", "print('anna@salon.example')"]
    with running_process(command, tmp_path / "output", tmp_path) as process:
        process.wait()
"""


def test_a_test_that_leaks_personal_data_fails(tmp_path: Path, server_url: str) -> None:
    file = tmp_path / "test_leaks.py"
    file.write_text(LEAKS)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-c",
        str(PROJECT_ROOT / "pyproject.toml"),
        "-p",
        "tests.conftest",
    ]
    environment = {"TEST_DATABASE_URL": server_url, "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    run = subprocess.run(
        [*command, str(file)], cwd=PROJECT_ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert "4 passed, 3 errors" in run.stdout, run.stdout + run.stderr
    failed = re.findall(r"^ERROR .*::(\w+)", run.stdout, re.MULTILINE)
    assert sorted(failed) == ["test_a_line_of_the_log", "test_an_event", "test_the_output_of_a_process"]


@pytest.mark.parametrize(
    "text",
    [
        "+79161234567",
        "tel 89161234567,",
        "(79161234567)",
        "+4917212345678",
        "Anna 5",
        "Анна",
        "a.b@mail.example",
    ],
)
def test_personal_data_is_found(text: str) -> None:
    assert len(find_personal_data(text)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "2030-05-14T12:00:00+00:00",
        "company 8881558457894139291",
        "1763640000.123456",
        "span 79161234567a1b2c",
    ],
)
def test_other_data_is_not_found(text: str) -> None:
    assert find_personal_data(text) == []
