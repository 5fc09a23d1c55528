"""What the commands share: settings and Sentry first, an error as one line, output for people or as JSON."""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from alembic.util import CommandError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from app.config import Settings
from app.database import embedded_server
from app.errors import (
    DRIVER_ERRORS,
    ConfigurationError,
    FrontdeskError,
    InvalidInputError,
    to_frontdesk_error,
)
from app.frontdesk import Frontdesk
from app.migrations import runner
from app.observability import logs, sentry
from app.observability.failure_reports import report

# Other codes are answers to what the command was asked.
REPORTED_ERROR_CODES = ("internal", "unavailable", "timeout")

EXIT_PROBLEMS_FOUND = 1
EXIT_INTERRUPTED = 130

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead.")


class WrongUsage(click.ClickException):
    """Wrong usage or configuration: `Error: …` on stderr, exit code 2."""

    exit_code = 2


class CouldNotRun(click.ClickException):
    """The command could not do its work: `Error: …` on stderr, exit code 3."""

    exit_code = 3


def to_click_exception(error: Exception) -> click.ClickException:
    """The line and the exit code for an error; what is no answer but a failure is also reported."""
    if isinstance(error, (ConfigurationError, InvalidInputError)):
        return WrongUsage(error.message)
    context = click.get_current_context(silent=True)
    command = (context and context.invoked_subcommand) or "frontdesk"
    if isinstance(error, CommandError):  # what the chain of migrations refuses with
        return CouldNotRun(" ".join(str(error).split()))
    if isinstance(error, (FrontdeskError, *DRIVER_ERRORS)):
        known = to_frontdesk_error(error)
        if known.code in REPORTED_ERROR_CODES:
            report(error, command, component="cli")
        return CouldNotRun(" ".join(known.message.split()))
    report(error, command, component="cli")
    return CouldNotRun(f"Unexpected {type(error).__name__}; `frontdesk --debug …` shows where it comes from.")


class FiniteFloatRange(click.FloatRange):
    """A number in a range. "nan" is a number to Python, and below and above nothing."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Refuse what is out of the range."""
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


compare_reads_option = click.option(
    "--compare-reads",
    "compare_reads",
    type=FiniteFloatRange(0, 1),
    help="While a database is moved: share of reads that are made on the standby, too, and compared.",
)


def load_settings(compare_reads: float | None = None) -> Settings:
    """The settings, with Sentry started; every command calls it first. Raises ConfigurationError.

    `compare_reads` goes before TRANSFER_COMPARE_READS.
    """
    given = {} if compare_reads is None else {"transfer_compare_reads": compare_reads}
    loaded = Settings.load(**given)
    sentry.initialise(loaded)
    # A command speaks for itself, on one line where it fails; what goes on inside is shown on request.
    context = click.get_current_context(silent=True)
    if context is not None and context.find_root().params.get("debug"):
        logs.configure(loaded)
    else:
        logs.disable_last_resort_handler()
    return loaded


@contextmanager
def opened_desk(compare_reads: float | None = None) -> Iterator[Frontdesk]:
    """The configured Frontdesk on a database that answers. Raises UnavailableError at once otherwise.

    The embedded database needs no deploy step: it is brought to head here.
    """
    found = load_settings(compare_reads)
    with Frontdesk(found) as desk:
        desk.database.ping()
        if found.database_url is None:
            runner.upgrade(embedded_server.resolve_migration_url(found))
        yield desk


def screen() -> Console:
    """Where people read. Long lines stay whole where there is no terminal to wrap them for."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=200)


def print_json(document: Any) -> None:
    """Print one JSON document on stdout; dates and the like as text."""
    click.echo(json.dumps(document, ensure_ascii=False, indent=2, default=str))


@contextmanager
def progress(label: str) -> Iterator[Callable[[int, int | None], None]]:
    """A bar on a terminal's stderr, nothing elsewhere; call what it yields with how many of how many."""
    screen = Console(stderr=True)
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
