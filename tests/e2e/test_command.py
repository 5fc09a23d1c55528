"""Error handling of all commands: a one-line message and an exit code."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import psycopg
import pytest
from alembic.util import CommandError
from click.testing import CliRunner

from app.cli import console, main
from app.errors import ConfigurationError, FrontdeskError, InvalidInputError, UnavailableError


@pytest.fixture
def failing() -> Iterator[dict[str, BaseException]]:
    """Add a command `fail` that raises the exception stored under "with" in the yielded dictionary."""
    raised: dict[str, BaseException] = {}

    @main.command("fail")
    def fail() -> None:
        raise raised["with"]

    yield raised
    del main.commands["fail"]


@pytest.mark.parametrize(
    ("error", "exit_code", "line"),
    [
        (ConfigurationError("A: is wrong\nB: is wrong"), 2, "Error: A: is wrong\nB: is wrong\n"),
        (InvalidInputError(fields={"id": "must be positive"}), 2, "Error: id: must be positive\n"),
        (UnavailableError("gone\n\taway"), 3, "Error: gone away\n"),
        (FrontdeskError("broken"), 3, "Error: broken\n"),
        (CommandError("The database is newer"), 3, "Error: The database is newer\n"),
        (psycopg.OperationalError("Anna +79680000001"), 3, "Error: The database cannot be reached.\n"),
        (KeyboardInterrupt(), 130, "Stopped.\n"),
    ],
)
def test_an_error_becomes_one_line_and_an_exit_code(
    failing: dict[str, BaseException], error: BaseException, exit_code: int, line: str
) -> None:
    failing["with"] = error
    result = CliRunner().invoke(main, ["fail"])
    assert (result.exit_code, result.stderr, result.stdout) == (exit_code, line, "")


def test_an_unexpected_exception_becomes_one_line_without_its_values(
    failing: dict[str, BaseException],
) -> None:
    failing["with"] = ValueError("Anna +79680000001")
    result = CliRunner().invoke(main, ["fail"])
    assert result.exit_code == 3
    assert "Unexpected ValueError" in result.stderr
    assert "--debug" in result.stderr
    assert "Anna" not in result.stderr


def test_debug_raises_the_original_error(failing: dict[str, BaseException]) -> None:
    failing["with"] = FrontdeskError("broken")
    result = CliRunner().invoke(main, ["--debug", "fail"])
    assert result.exception is failing["with"]


def test_wrong_usage_exits_with_code_2() -> None:
    assert CliRunner().invoke(main, ["nothing-like-it"]).exit_code == 2
    assert CliRunner().invoke(main, ["up", "--port", "0"]).exit_code == 2


def test_help_needs_no_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENVIRONMENT", "production")
    for name in ([], ["up"], ["import"], ["demo"], ["demo", "race"]):
        result = CliRunner().invoke(main, [*name, "--help"])
        assert result.exit_code == 0
        assert "Usage:" in result.output


IMPORTED = """
import sys
import click
from app.cli import main
try:
    main(sys.argv[2:], standalone_mode=False)
except click.ClickException:
    pass
print(*(name for name in sys.argv[1].split() if name in sys.modules), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("arguments", "unneeded"),
    [
        ("--help", "alembic app.config psycopg pydantic rich sentry_sdk sqlalchemy"),
        ("--version", "alembic app.config psycopg pydantic rich sentry_sdk sqlalchemy"),
        ("backup list --json", "alembic app.frontdesk sentry_sdk sqlalchemy.orm"),
        ("doctor --json", "app.frontdesk rich.progress sentry_sdk"),
        ("sync --help", "alembic sentry_sdk"),
        ("transfer status --json", "alembic app.frontdesk sentry_sdk"),
        ("whatsapp status --json", "alembic sentry_sdk"),
    ],
)
def test_a_command_imports_only_what_it_needs(
    arguments: str, unneeded: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://127.0.0.1:1/frontdesk")
    monkeypatch.setenv("BACKUP_ADDRESS", str(tmp_path))
    command = [sys.executable, "-c", IMPORTED, unneeded, *arguments.split()]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stderr.splitlines()[-1] == "", result.stderr


def test_the_list_of_commands_is_the_same_before_and_after_their_import() -> None:
    listed = CliRunner().invoke(main, ["--help"]).output
    context = click.Context(main)
    for name in main.list_commands(context):
        assert main.get_command(context, name) is not None
    assert CliRunner().invoke(main, ["--help"]).output == listed
    assert "Check configuration, database, schema and" in listed


def test_every_command_has_a_help_text() -> None:
    def walk(command: click.Command) -> Iterator[click.Command]:
        yield command
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                subcommand = command.get_command(context, name)
                assert subcommand is not None, name
                yield from walk(subcommand)

    for command in walk(main):
        assert command.get_short_help_str(), command.name


def test_opening_the_desk_fails_at_once_if_the_database_is_unreachable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", "postgresql://someone:s3cret@127.0.0.1:1/frontdesk")
    with pytest.raises(UnavailableError, match="refused"), console.opened_desk():
        raise AssertionError("opened")


@pytest.mark.parametrize("option", ["--rate", "--seconds", "--compare-reads"])
def test_numeric_options_reject_nan(option: str) -> None:
    result = CliRunner().invoke(main, ["demo", "traffic", option, "nan"])
    assert result.exit_code == 2
    assert "'nan' is not a number" in result.output
