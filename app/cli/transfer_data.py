"""`frontdesk transfer plan|copy|verify|repair`: the commands that copy and compare the data of a transfer."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import click
from rich.markup import escape
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from app.cli import console
from app.transfer.copying import copy as copying
from app.transfer.copying.progress import CopyReport
from app.transfer.planning import plan
from app.transfer.planning.findings import PlanFinding
from app.transfer.protocol.endpoints import Sides
from app.transfer.protocol.stages import other_side
from app.transfer.verification import repair as repairing
from app.transfer.verification import verify as verifying

MAX_PRINTED = 20  # divergences printed as text

include_option = click.option(
    "--include",
    multiple=True,
    metavar="TABLE",
    help="Also transfer this table, which is not one of Frontdesk's.",
)
leave_out_option = click.option(
    "--leave-out",
    multiple=True,
    metavar="NAME",
    help="Exclude this table, view, function, type, role or extension; 'auth.*' excludes a whole schema.",
)


@click.command("plan")
@include_option
@leave_out_option
@console.json_option
@click.pass_context
def plan_command(
    ctx: click.Context, include: tuple[str, ...], leave_out: tuple[str, ...], as_json: bool
) -> None:
    """Compare both sides; show the problems with their remedies, and the estimated duration of a copy.

    It changes nothing. Exit codes: 0 ready, 1 there are problems, 3 a side cannot be reached.
    """
    settings = console.load_settings()
    transfer_plan = plan.make_plan(Sides.from_settings(settings), settings, include, leave_out)
    if as_json:
        console.print_json(transfer_plan.as_dict())
    else:
        _print_plan(transfer_plan)
    if transfer_plan.blocking_findings:
        ctx.exit(console.EXIT_PROBLEMS_FOUND)


def _print_plan(transfer_plan: plan.Plan) -> None:
    screen = console.screen()
    sides = Table(box=None, pad_edge=False)
    for name in ("side", "PostgreSQL", "database", "role", "size"):
        sides.add_column(name, justify="right" if name == "size" else "left")
    for side in transfer_plan.sides:
        sides.add_row(side.name, side.version, side.database, side.role, format_size(side.bytes))
    screen.print(sides)
    tables = Table(box=None, pad_edge=False)
    for name in ("\ntable", "\nrows, about", "\nsize", "with its\nindexes", "copied\nin about"):
        tables.add_column(name, justify="right" if name != "\ntable" else "left")
    for table in transfer_plan.tables:
        tables.add_row(
            table.name,
            f"{table.rows:,}",
            format_size(table.bytes),
            format_size(table.total_bytes),
            format_duration(table.seconds),
        )
    screen.print(tables)
    if transfer_plan.left_out:
        screen.print(f"\nLeft out: {', '.join(transfer_plan.left_out)}", markup=False)
    _print_findings("Notes", [finding for finding in transfer_plan.findings if not finding.in_the_way])
    _print_findings("Problems", transfer_plan.blocking_findings)
    if transfer_plan.blocking_findings:
        screen.print(f"\n[bold red]Not ready: {len(transfer_plan.blocking_findings)} problems.[/]")
    else:
        state = "The transfer has started." if transfer_plan.is_started else "Next: frontdesk transfer start"
        screen.print(
            f"\n[green]Ready.[/] The copy takes about {format_duration(transfer_plan.seconds)}. {state}"
        )


def _print_findings(title: str, findings: list[PlanFinding]) -> None:
    if not findings:
        return
    table = Table(box=None, pad_edge=False, show_header=False, title=f"\n{title}", title_justify="left")
    for _ in range(3):
        table.add_column(overflow="fold")
    for finding in findings:
        text = f"{escape(finding.problem)}\n[bold]{escape(finding.advice)}[/]"
        table.add_row(finding.side, escape(f"{finding.kind}\n{finding.name}"), text)
    console.screen().print(table)


@click.command("copy")
@click.option(
    "--jobs",
    type=click.IntRange(1, 16),
    default=copying.DEFAULT_JOBS,
    help="Number of connections to each side (default: 2).",
)
@click.option("--dry-run", is_flag=True, help="Show what remains to be copied, and write nothing.")
@console.json_option
def copy_command(jobs: int, dry_run: bool, as_json: bool) -> None:
    """Copy the rows of legacy to primary while the services keep writing.

    After a kill or an interruption, run the command again: it continues where it stopped. The relay applies
    the changes that are made during the copy.
    """
    sides = Sides.from_settings(console.load_settings())
    with _copy_progress() as on_progress:
        report = copying.copy(sides, jobs=jobs, dry_run=dry_run, on_progress=on_progress)
    if as_json:
        console.print_json(report.as_dict())
        return
    screen = console.screen()
    remaining = [table for table in report.tables if not table.finished]
    if dry_run:
        for table in remaining:
            share = f", {table.done / table.blocks:.0%} copied" if table.done else ""
            screen.print(f"{table.name}: about {table.expected_rows:,} rows{share}", markup=False)
        screen.print(f"Dry run: {len(remaining)} of {len(report.tables)} tables remain to be copied.")
        return
    if report.rows:
        rate = report.rows / report.seconds
        screen.print(f"{report.rows:,} rows in {format_duration(report.seconds)}, {rate:,.0f} rows/s.")
    skipped = sum(table.left for table in report.tables)
    if skipped:
        screen.print(f"{skipped:,} rows had changed since an earlier run: the relay applies them.")
    screen.print(f"All {len(report.tables)} tables are copied. Next: frontdesk transfer relay")


@contextmanager
def _copy_progress() -> Iterator[copying.OnCopyProgress]:
    """Show a progress bar with rate and remaining time on stderr if that is a terminal.

    Yields the function that updates it.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]} rows/s"),
        TimeRemainingColumn(),
    )
    with console.progress(*columns) as progress:
        task = progress.add_task("copying", total=None, rate="")

        def show(report: CopyReport) -> None:
            in_progress = [table.name for table in report.tables if table.done and not table.finished]
            progress.update(
                task,
                description=", ".join(in_progress) or "copying",
                completed=sum(table.done for table in report.tables),
                total=sum(table.blocks for table in report.tables),
                rate=f"{report.rows / report.seconds:,.0f}" if report.seconds else "",
            )

        yield show


@click.command("verify")
@click.option("--table", "only", multiple=True, metavar="TABLE", help="This table only; repeatable.")
@console.json_option
@click.pass_context
def verify_command(ctx: click.Context, only: tuple[str, ...], as_json: bool) -> None:
    """Compare the contents of both sides, row by row if they differ; the services may keep writing.

    Exit codes: 0 equal, 1 different (each row is listed), 3 something could not be compared.
    """
    sides = Sides.from_settings(console.load_settings())
    with _verify_progress() as on_progress:
        report = verifying.verify(sides, only=only, on_progress=on_progress)
    if as_json:
        console.print_json(report.as_dict())
    else:
        _print_verification(report)
    if report.divergences:
        ctx.exit(console.EXIT_PROBLEMS_FOUND)
    if not report.is_compared:
        ctx.exit(console.CouldNotRun.exit_code)


def _print_verification(report: verifying.VerificationReport) -> None:
    screen = console.screen()
    standby = other_side(report.source)
    table = Table(box=None, pad_edge=False)
    for name in ("table", report.source, standby, "", "SHA-256"):
        table.add_column(name, justify="right" if name in (report.source, standby) else "left")
    for compared in report.tables:
        result = "[green]equal[/]"
        if compared.reason or compared.unsettled:
            reason = escape(compared.reason) or f"{compared.unsettled} rows kept changing"
            result = f"[yellow]{reason}[/]"
        if compared.different:
            result = f"[bold red]{compared.different:,} different[/]"
        if compared.waiting:
            result += f", {compared.waiting:,} pending in the change log"
        counts = (f"{compared.source_rows:,}", f"{compared.standby_rows:,}")
        table.add_row(escape(compared.name), *counts, result, compared.root[:16])
    screen.print(table)
    _print_divergences(report.divergences)
    if report.divergences:
        screen.print("[bold red]Different.[/] Next: frontdesk transfer repair makes the standby equal again.")
    elif report.is_compared:
        rows = sum(compared.source_rows for compared in report.tables)
        screen.print(
            f"[green]Equal.[/] {rows:,} rows on {report.source}, in {format_duration(report.seconds)}."
        )
    else:
        screen.print("[bold yellow]Not everything could be compared.[/]")


def _print_divergences(divergences: list[verifying.Divergence]) -> None:
    screen = console.screen()
    for row in divergences[:MAX_PRINTED]:
        columns = f" in {', '.join(row.columns)}" if row.columns else ""
        screen.print(f"{row.table} ({', '.join(row.key)}): {row.kind}{columns}", markup=False, soft_wrap=True)
    if len(divergences) > MAX_PRINTED:
        screen.print(f"… and {len(divergences) - MAX_PRINTED:,} more; --json lists all of them.")


@click.command("repair")
@click.option("--dry-run", is_flag=True, help="Only find the rows that differ.")
@console.json_option
@click.pass_context
def repair_command(ctx: click.Context, dry_run: bool, as_json: bool) -> None:
    """Make rows of the standby that differ equal to the live side, through the change log.

    Exit codes: 0 equal now, 1 some rows still differ, 3 something could not be compared.
    """
    sides = Sides.from_settings(console.load_settings())
    with _verify_progress() as on_progress:
        result = repairing.repair(sides, dry_run=dry_run, on_progress=on_progress)
    if as_json:
        console.print_json(result.as_dict())
    else:
        _print_divergences(result.found)
        on_standby = (
            f", {result.standby_changes:,} changes were made on the standby" if result.standby_changes else ""
        )
        outcome = "Dry run: nothing was written." if dry_run else f"{len(result.remaining):,} still differ."
        console.screen().print(f"{len(result.found):,} rows differed{on_standby}. {outcome}")
    if not result.succeeded:
        ctx.exit(console.EXIT_PROBLEMS_FOUND)


def _verify_progress() -> AbstractContextManager[verifying.OnVerifyProgress]:
    """Show a progress bar for the current table, and return the function that updates it."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    return console.step_progress("comparing", *columns)


def format_size(count: float) -> str:
    """Format a number of bytes, such as `12 kB` or `3.4 MB`."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit != "MB" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"


def format_duration(seconds: float) -> str:
    """Format a duration in seconds, such as `0.4 s`, `3 min` or `2.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
