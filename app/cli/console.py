"""Code shared by the commands: settings and Sentry, errors as one line, output as text or JSON."""

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from app.config import Settings
from app.errors import (
    DRIVER_ERRORS,
    ConfigurationError,
    FrontdeskError,
    InvalidInputError,
    to_frontdesk_error,
)
from app.observability import logs, sentry
from app.observability.failure_reports import report

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

    from app.frontdesk import Frontdesk

# Errors with these codes are failures, which are logged and sent to Sentry. Other codes are valid results of
# a command, such as "not_found".
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
    """Return the error as a ClickException with a one-line message and an exit code.

    Failures (REPORTED_ERROR_CODES and unexpected exceptions) are also logged and sent to Sentry.
    """
    if isinstance(error, (ConfigurationError, InvalidInputError)):
        return WrongUsage(error.message)
    context = click.get_current_context(silent=True)
    command = (context and context.invoked_subcommand) or "frontdesk"
    if _is_alembic_error(error):
        return CouldNotRun(" ".join(str(error).split()))
    if isinstance(error, (FrontdeskError, *DRIVER_ERRORS)):
        known = to_frontdesk_error(error)
        if known.code in REPORTED_ERROR_CODES:
            report(error, command, component="cli")
        return CouldNotRun(" ".join(known.message.split()))
    report(error, command, component="cli")
    return CouldNotRun(f"Unexpected {type(error).__name__}; `frontdesk --debug …` shows the traceback.")


def _is_alembic_error(error: Exception) -> bool:
    """Return True if Alembic, or a migration that refuses to run, has raised the error."""
    alembic = sys.modules.get("alembic.util")  # not imported: that takes long, and few commands need Alembic
    return alembic is not None and isinstance(error, alembic.CommandError)


class FiniteFloatRange(click.FloatRange):
    """A click type for a number in a range. Unlike FloatRange it rejects "nan", which no bound excludes."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number. Fails with a usage error if it is not a number or out of the range."""
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


compare_reads_option = click.option(
    "--compare-reads",
    "compare_reads",
    type=FiniteFloatRange(0, 1),
    help="Share of reads, from 0 to 1, to repeat on the standby and compare while a transfer runs.",
)


def load_settings(compare_reads: float | None = None) -> Settings:
    """Load the settings and initialise Sentry and logging. Every command calls this first.

    `compare_reads` overrides TRANSFER_COMPARE_READS. Raises ConfigurationError.
    """
    given = {} if compare_reads is None else {"transfer_compare_reads": compare_reads}
    loaded = Settings.load(**given)
    sentry.initialise(loaded)
    # A command prints its own result or a one-line error; logs are shown with --debug only.
    context = click.get_current_context(silent=True)
    if context is not None and context.find_root().params.get("debug"):
        logs.configure(loaded)
    else:
        logs.disable_last_resort_handler()
    return loaded


@contextmanager
def opened_desk(compare_reads: float | None = None) -> "Iterator[Frontdesk]":
    """Open the configured Frontdesk for the duration of the block.

    An embedded database is first migrated to head, because it has no deploy step that does it. Raises
    UnavailableError if the database does not respond.
    """
    from app.frontdesk import Frontdesk

    settings = load_settings(compare_reads)
    with Frontdesk(settings) as desk:
        desk.database.ping()
        if settings.database_url is None:
            from app.database import embedded_server
            from app.migrations import runner

            runner.upgrade(embedded_server.resolve_migration_url(settings))
        yield desk


def screen() -> Console:
    """Return the console for text on stdout. Without a terminal, lines wrap only after 200 characters."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=200)


def print_json(document: Any) -> None:
    """Print one JSON document on stdout. Values without a JSON type, such as dates, become strings."""
    click.echo(json.dumps(document, ensure_ascii=False, indent=2, default=str))


def progress(*columns: "ProgressColumn") -> "Progress":
    """Return a progress display with these columns, on stderr; it is disabled if that is not a terminal."""
    from rich.progress import Progress

    screen = Console(stderr=True)
    return Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal)


@contextmanager
def count_progress(label: str) -> Iterator[Callable[[int, int | None], None]]:
    """Show a progress bar, and yield the function that updates it: `on_progress(done, total)`.

    The total may be unknown (None).
    """
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn

    with progress(TextColumn(label), BarColumn(), MofNCompleteColumn()) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def step_progress(
    first_step: str, *columns: "ProgressColumn"
) -> Iterator[Callable[[str, int, int | None], None]]:
    """Show the progress of one step at a time, and yield the function that updates it.

    This is `on_progress(step, done, total)`; the total may be unknown (None).
    """
    with progress(*columns) as bar:
        task = bar.add_task(first_step, total=None)
        yield lambda step, done, total: bar.update(task, description=step, completed=done, total=total)
