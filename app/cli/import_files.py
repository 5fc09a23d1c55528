"""`frontdesk import`: files of YClients payloads, or of rows of ours, into one company."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from app.cli import console
from app.schemas.types import MAX_ID
from app.yclients.importing.import_files import OnProblem, OnProgress, import_files
from app.yclients.importing.summary import ImportProblem, ImportSummary
from app.yclients.mapping.entities import KINDS_BY_NAME

MAX_PRINTED = 20  # findings on the screen
_COUNTS = ("rows", "inserted", "updated", "unchanged", "stale", "superseded", "rejected", "warnings")
_TABLE_WIDTH_CHARS = 120  # characters of the widest table
_ID = click.IntRange(1, MAX_ID)


@click.command("import")
@click.option("--company", "company_id", type=_ID, required=True, help="The company's YClients id.")
@click.option(
    "--kind",
    type=click.Choice(list(KINDS_BY_NAME)),
    help="What the rows are, where that is not told by them.",
)
@click.option(
    "--staff", "staff_id", type=_ID, help="Whose schedule it is, where the file's name does not say."
)
@click.option(
    "--rejects",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write every rejected row and warning to this file, one JSON object a line.",
)
@click.option("--dry-run", is_flag=True, help="Do everything and roll it back.")
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
    """Import FILES into a company: YClients' answers as they are, or one row of ours a line (NDJSON).

    Files in any order: company, service categories, services, staff, clients, schedules, bookings. A field
    that cannot be read is left out, with a warning; a row without a usable id or a required field is
    rejected. The same import again changes nothing.
    """
    with (
        _rejects_file(rejects, files) as on_finding,
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
            on_problem=on_finding,
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
        raise console.WrongUsage(f"--rejects would overwrite {path}, which is to be imported.")
    try:
        file = path.open("w", encoding="utf-8")
    except OSError as error:
        raise console.WrongUsage(f"Cannot write {path}: {error.strerror}.") from None
    with file:

        def write(finding: ImportProblem) -> None:
            file.write(json.dumps(finding.as_dict(), ensure_ascii=False, default=str) + "\n")

        yield write


@contextmanager
def _progress() -> Iterator[OnProgress]:
    """A bar on a terminal's stderr, nothing elsewhere."""
    columns = (TextColumn("{task.description:<18}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    screen = Console(stderr=True)
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as progress:
        task = progress.add_task("reading", total=None)

        def show(kind: str, done: int, total: int) -> None:
            progress.update(task, description=kind, completed=done, total=total)

        yield show


def _print(summary: ImportSummary, rejects: Path | None) -> None:
    screen = console.screen()
    if summary.made_company:
        screen.print(f"Company {summary.company_id} was not known: made with default settings.")
    if summary.kinds:
        # On a narrow terminal a wrapped line is read more easily than a number cut short.
        screen.print(_table(summary), width=max(screen.width, _TABLE_WIDTH_CHARS), crop=False)
    for error in summary.broken:
        screen.print(escape(f"{error.message}; its rows before that were imported."), soft_wrap=True)
    _print_findings(summary, rejects, screen)
    if not summary.kinds:
        screen.print("The files hold no rows: nothing to import.")
    elif not summary.has_changes:
        screen.print("Nothing changed.")
    if summary.is_dry_run:
        screen.print("Dry run: everything was rolled back.")


def _table(summary: ImportSummary) -> Table:
    """Counts by kind; what happened to no row of any kind has no column."""
    happened = [
        name for name in _COUNTS if name == "rows" or any(getattr(k, name) for k in summary.kinds.values())
    ]
    table = Table(box=None, pad_edge=False)
    table.add_column("kind")
    for name in (*happened, "seconds", "rows/s"):
        table.add_column(name, justify="right")
    for name, kind in summary.kinds.items():
        counts = kind.as_dict()
        rate = counts["rows_per_second"]
        table.add_row(
            name,
            *(f"{counts[count]:,}" for count in happened),
            f"{kind.seconds:.2f}",
            f"{rate:,}" if rate else "",
        )
    return table


def _print_findings(summary: ImportSummary, rejects: Path | None, screen: Console) -> None:
    """Rejected rows first: they are missing, where warnings are only incomplete."""
    findings = sorted(summary.problems, key=lambda finding: not finding.is_rejected)
    for finding in findings[:MAX_PRINTED]:
        screen.print(escape(str(finding)), soft_wrap=True)
    more = sum(kind.rejected + kind.warnings for kind in summary.kinds.values()) - len(findings[:MAX_PRINTED])
    if more > 0:
        where = f"{rejects} has them" if rejects else "--rejects FILE writes them all"
        screen.print(escape(f"… and {more:,} more; {where}."))
