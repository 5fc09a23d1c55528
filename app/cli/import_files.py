"""`frontdesk import`: import files of YClients payloads, or of Frontdesk rows, into one company."""

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from app.cli import console
from app.schemas.types import MAX_ID
from app.yclients.importing.import_files import OnProblem, OnProgress, import_files
from app.yclients.importing.summary import ImportProblem, ImportSummary
from app.yclients.mapping.entities import KINDS_BY_NAME

MAX_PRINTED = 20  # problems printed as text
_COUNTS = ("rows", "inserted", "updated", "unchanged", "stale", "superseded", "rejected", "warnings")
_TABLE_WIDTH_CHARS = 120  # width of a table with all columns
_ID = click.IntRange(1, MAX_ID)


@click.command("import")
@click.option("--company", "company_id", type=_ID, required=True, help="The company's YClients id.")
@click.option(
    "--kind",
    type=click.Choice(list(KINDS_BY_NAME)),
    help="Kind of the rows, if it cannot be detected from their contents.",
)
@click.option(
    "--staff", "staff_id", type=_ID, help="Staff member of a schedule, if the file name has no staff id."
)
@click.option(
    "--rejects",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write every rejected row and warning to this file, one JSON object per line.",
)
@click.option("--dry-run", is_flag=True, help="Import everything, then roll it back.")
@console.json_option
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
def import_command(
    company_id: int,
    kind: str | None,
    staff_id: int | None,
    rejects: Path | None,
    dry_run: bool,
    as_json: bool,
    files: tuple[Path, ...],
) -> None:
    """Import FILES into a company: responses of the YClients API, or NDJSON with one Frontdesk row per line.

    FILES may be in any order: company, service categories, services, staff, clients, schedules, bookings. A
    field with an invalid value is dropped with a warning. A row without a valid id or without a required
    field is rejected. Repeating an import changes nothing.
    """
    with (
        _rejects_file(rejects, files) as on_problem,
        console.opened_desk() as desk,
        _progress() as on_progress,
    ):
        summary = import_files(
            desk,
            company_id,
            files,
            kind=KINDS_BY_NAME[kind] if kind else None,
            staff_id=staff_id,
            on_progress=on_progress,
            dry_run=dry_run,
            on_problem=on_problem,
        )
    if as_json:
        console.print_json(summary.as_dict())
    else:
        _print(summary, rejects)
    if not summary.succeeded:
        raise click.exceptions.Exit(console.EXIT_PROBLEMS_FOUND)


@contextmanager
def _rejects_file(path: Path | None, inputs: tuple[Path, ...]) -> Iterator[OnProblem | None]:
    if path is None:
        yield None
        return
    if any(path.exists() and given.exists() and path.samefile(given) for given in inputs):
        raise console.WrongUsage(f"--rejects would overwrite {path}, which is one of the files to import.")
    try:
        file = path.open("w", encoding="utf-8")
    except OSError as error:
        raise console.WrongUsage(f"Cannot write {path}: {error.strerror}.") from None
    with file:

        def write(problem: ImportProblem) -> None:
            file.write(json.dumps(problem.as_dict(), ensure_ascii=False, default=str) + "\n")

        yield write


def _progress() -> AbstractContextManager[OnProgress]:
    """Show a progress bar for the current kind of rows, and return the function that updates it."""
    columns = (TextColumn("{task.description:<18}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    return console.step_progress("reading", *columns)


def _print(summary: ImportSummary, rejects: Path | None) -> None:
    screen = console.screen()
    if summary.made_company:
        screen.print(f"Company {summary.company_id} was unknown: created with default settings.")
    if summary.kinds:
        # Rich would truncate numbers to fit a narrow terminal; wrapped lines keep them whole.
        screen.print(_table(summary), width=max(screen.width, _TABLE_WIDTH_CHARS), crop=False)
    for error in summary.broken:
        screen.print(escape(f"{error.message}; the rows before were imported."), soft_wrap=True)
    _print_problems(summary, rejects, screen)
    if not summary.kinds:
        screen.print("The files contain no rows: nothing to import.")
    elif not summary.has_changes:
        screen.print("Nothing changed.")
    if summary.is_dry_run:
        screen.print("Dry run: everything was rolled back.")


def _table(summary: ImportSummary) -> Table:
    """Return the counts by kind, without the columns that are zero for every kind."""
    columns = [
        name for name in _COUNTS if name == "rows" or any(getattr(k, name) for k in summary.kinds.values())
    ]
    table = Table(box=None, pad_edge=False)
    table.add_column("kind")
    for name in (*columns, "seconds", "rows/s"):
        table.add_column(name, justify="right")
    for name, kind in summary.kinds.items():
        counts = kind.as_dict()
        rate = counts["rows_per_second"]
        table.add_row(
            name,
            *(f"{counts[count]:,}" for count in columns),
            f"{kind.seconds:.2f}",
            f"{rate:,}" if rate else "",
        )
    return table


def _print_problems(summary: ImportSummary, rejects: Path | None, screen: Console) -> None:
    """Print rejected rows, then warnings, because a missing row matters more than a missing field."""
    problems = sorted(summary.problems, key=lambda problem: not problem.is_rejected)[:MAX_PRINTED]
    for problem in problems:
        screen.print(escape(str(problem)), soft_wrap=True)
    more = sum(kind.rejected + kind.warnings for kind in summary.kinds.values()) - len(problems)
    if more > 0:
        where = f"{rejects} lists all" if rejects else "--rejects FILE writes all of them"
        screen.print(escape(f"… and {more:,} more; {where}."))
