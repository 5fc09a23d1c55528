"""Code shared by the commands of `frontdesk backup`: progress bar, log of runs, output of results."""

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from typing import Any

import click
from rich.markup import escape
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.table import Table

from app.backup import fingerprint, run_log
from app.backup.catalogue import BackupState, Entry
from app.backup.dump_stream import OnProgress
from app.backup.manifest import Manifest
from app.backup.restore import BackupRestoreResult
from app.backup.run_log import Run, RunKind, RunOutcome
from app.cli import console
from app.config import Settings
from app.database import embedded_server
from app.database.live_database import configured_database
from app.errors import DRIVER_ERRORS, FrontdeskError, to_frontdesk_error

COLOURS = {BackupState.COMPLETE: "green", BackupState.UNFINISHED: "yellow", BackupState.DAMAGED: "bold red"}
LastChecks = dict[str, tuple[str, str, datetime]]


def live_settings(settings: Settings) -> Settings:
    """Return settings that name the live side of a transfer as the database. Raises FrontdeskError."""
    database = configured_database(settings)
    try:
        return database.live().settings
    finally:
        database.close()


class Recording:
    """A run in progress. Its result is logged when it ends."""

    def __init__(self, entry: Entry | None) -> None:
        self.name = None if entry is None else entry.name
        self.manifest = None if entry is None else entry.manifest
        self.problems: Sequence[str] = ()
        self.recovery_seconds: float | None = None
        self.seconds = 0.0
        self.recorded = False

    def set_manifest(self, manifest: Manifest) -> None:
        """Set the manifest of the backup that this run has made."""
        self.name, self.manifest = manifest.name, manifest

    def set_result(self, problems: Sequence[str], recovery_seconds: float | None = None) -> None:
        """Set the problems found in the backup, and the seconds until its data were restored."""
        self.problems, self.recovery_seconds = problems, recovery_seconds


@contextmanager
def recording(
    settings: Settings, kind: RunKind, entry: Entry | None = None, url: str | None = None
) -> Iterator[Recording]:
    """Time a run and log its outcome in the database at `url`, by default the configured one.

    If the log cannot be written, a warning is printed; the result of the run is unaffected.
    """
    run, begun = Recording(entry), time.monotonic()
    outcome, problem = RunOutcome.FAILED, None
    try:
        yield run
        outcome = RunOutcome.BAD if run.problems else RunOutcome.GOOD
        problem = "; ".join(run.problems) or None
    except (FrontdeskError, *DRIVER_ERRORS) as error:
        problem = to_frontdesk_error(error).message
        raise
    finally:
        run.seconds = round(time.monotonic() - begun, 3)
        seconds = run.seconds if run.recovery_seconds is None else run.recovery_seconds
        try:
            finished = Run(kind, outcome, seconds, run.name, run.manifest, problem)
            run_log.record(
                settings, url or embedded_server.resolve_migration_url(live_settings(settings)), finished
            )
            run.recorded = True
        except (FrontdeskError, *DRIVER_ERRORS) as error:
            if outcome is not RunOutcome.FAILED:  # a failed run prints its own error, which matters more
                click.echo(
                    f"Warning: this run could not be logged: {to_frontdesk_error(error).message}", err=True
                )


def try_query_last_checks(settings: Settings) -> LastChecks | None:
    """Return the last check of each backup, or None, with a warning, if the database is unavailable."""
    run_history = try_read_run_log(settings)
    return None if run_history is None else run_history[0]


def try_read_run_log(settings: Settings) -> tuple[LastChecks, set[str]] | None:
    """Return the last check of each backup and the names of restored ones.

    If the database is unavailable, print a warning and return None.
    """
    try:
        with fingerprint.open_connection(
            settings, embedded_server.resolve_migration_url(live_settings(settings))
        ) as connection:
            return run_log.query_last_checks(connection), run_log.query_restored_names(connection)
    except (FrontdeskError, *DRIVER_ERRORS) as error:
        click.echo(
            f"Warning: the log of earlier checks is unavailable: {to_frontdesk_error(error).message}",
            err=True,
        )
        return None


def is_bad(entry: Entry, checked: LastChecks | None) -> bool:
    """True if the last check of the backup found it bad."""
    return checked is not None and entry.name in checked and checked[entry.name][1] == RunOutcome.BAD


def entry_as_dict(entry: Entry, checked: LastChecks | None) -> dict[str, Any]:
    """Return one backup for JSON output. `last_check` is null if no check is known."""
    last = (checked or {}).get(entry.name)
    return {
        "name": entry.name,
        "taken_at": entry.manifest and entry.manifest.taken_at,
        "state": entry.state,
        "problem": entry.problem or None,
        "bytes": entry.bytes,
        "rows": entry.manifest and entry.manifest.rows,
        "server_version": entry.manifest and entry.manifest.server_version,
        "last_check": last and dict(zip(("kind", "outcome", "at"), last, strict=True)),
    }


def print_entries(entries: Sequence[Entry], checked: LastChecks | None) -> None:
    """Print the backups as a table."""
    table = Table(box=None, pad_edge=False)
    for name in ("backup", "state", "size", "rows", "last check"):
        table.add_column(name, justify="right" if name in ("size", "rows") else "left")
    for entry in entries:
        last = (checked or {}).get(entry.name)
        table.add_row(
            entry.name,
            f"[{COLOURS[entry.state]}]{entry.state}[/]"
            + (f": {escape(entry.problem)}" if entry.problem else ""),
            format_size(entry.bytes),
            f"{entry.manifest.rows:,}" if entry.manifest else "",
            f"{last[0]} {last[2]:%Y-%m-%d %H:%M}: {last[1]}"
            if last
            else "never"
            if checked is not None
            else "?",
        )
    console.screen().print(table)


def restored_as_dict(restored: BackupRestoreResult) -> dict[str, Any]:
    """Return the result of a restore for JSON output."""
    return {
        "name": restored.manifest.name,
        "good": not restored.differences,
        "problems": restored.differences,
        "rows": restored.manifest.rows,
        "tables": len(restored.manifest.tables),
        "recovery_seconds": round(restored.recovery_seconds, 3),
        "comparison_seconds": round(restored.comparison_seconds, 3),
    }


def restored_as_text(restored: BackupRestoreResult) -> str:
    """Return the result of a restore as text, such as `20 rows back in 0.4 s, compared in 0.1 s`."""
    return (
        f"{restored.manifest.rows:,} rows back in {restored.recovery_seconds:.1f} s,"
        f" compared in {restored.comparison_seconds:.1f} s"
    )


def print_result(name: str, summary: str, problems: Sequence[str]) -> None:
    """Print `name: good (summary).`, or `name: not good.` and one line per problem."""
    screen = console.screen()
    if not problems:
        screen.print(f"{name}: [green]good[/] ({escape(summary)}).")
        return
    screen.print(f"{name}: [bold red]not good[/].")
    for problem in problems:
        screen.print(f"  {escape(problem)}")


def format_size(count: int) -> str:
    """Format a number of bytes, such as `812 kB` or `1.3 GB`."""
    number, unit = float(count), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if number < 1000:
            break
        number, unit = number / 1000, larger
    return f"{number:.0f} {unit}" if number >= 100 or unit == "bytes" else f"{number:.1f} {unit}"


def progress() -> AbstractContextManager[OnProgress]:
    """Show a progress bar for the current step, and return the function that updates it."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    return console.step_progress("starting", *columns)
