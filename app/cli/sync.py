"""`frontdesk sync`: synchronise a company with YClients, and show the state of past runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import click
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from app.cli import console
from app.frontdesk import Frontdesk
from app.schemas.types import MAX_ID
from app.yclients.mapping.entities import KINDS_BY_NAME
from app.yclients.syncing import run as yclients_sync
from app.yclients.syncing.status import SyncRunStatus, sync_status
from app.yclients.syncing.summary import SyncSummary

MAX_PRINTED = 20  # problems printed as text
_COUNTS = ("rows", "inserted", "updated", "unchanged")
_RARE_COUNTS = ("stale", "superseded", "deleted", "rejected", "warnings")  # shown unless all are zero
_ID = click.IntRange(1, MAX_ID)


@click.group("sync")
def sync_commands() -> None:
    """Synchronise companies with YClients."""


def _kinds(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> list[str] | None:
    """Return the kinds of all --only options, each of which may list several: `--only a,b --only c`."""
    names = [name.strip() for option in given for name in option.split(",")]
    for name in names:
        if name not in KINDS_BY_NAME:
            raise click.BadParameter(f"{name!r} is not one of {', '.join(KINDS_BY_NAME)}.")
    return names or None


@sync_commands.command("yclients")
@click.option("--company", "company_id", type=_ID, required=True, help="The company's YClients id.")
@click.option("--full", is_flag=True, help="Read all bookings, not only those changed since the last run.")
@click.option(
    "--since",
    help="Read the bookings changed since this date or time, such as 2026-11-01. Default time zone: salon's.",
)
@click.option("--only", multiple=True, callback=_kinds, help=f"Only these kinds: {', '.join(KINDS_BY_NAME)}.")
@click.option("--dry-run", is_flag=True, help="Synchronise everything, then roll it back.")
@console.json_option
def yclients_command(
    company_id: int, full: bool, since: str | None, only: list[str] | None, dry_run: bool, as_json: bool
) -> None:
    """Synchronise a company with YClients.

    The first run reads everything. Later runs read only the changed bookings, and read and compare all other
    data. All runs of this installation share the rate limits of the API. After an interruption or a kill,
    start the run again; nothing is lost.
    """
    if full and since:
        raise click.UsageError("Give either --full or --since.")
    with console.opened_desk() as desk, _progress() as on_progress:
        summary = yclients_sync.sync(
            desk,
            company_id,
            full=full,
            since=_parse_since(desk, company_id, since) if since else None,
            only=only,
            dry_run=dry_run,
            on_progress=on_progress,
        )
    if as_json:
        console.print_json(summary.as_dict())
    else:
        _print(summary)
    if not summary.succeeded:
        raise click.exceptions.Exit(console.EXIT_PROBLEMS_FOUND)


def _parse_since(desk: Frontdesk, company_id: int, text: str) -> datetime:
    """Parse a date or time; without an offset, it is in the salon's time zone."""
    try:
        since = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(
            "--since must be a date or a time, such as 2026-11-01 or 2026-11-01T10:00."
        ) from None
    if since.tzinfo:
        return since
    return since.replace(tzinfo=desk.uow_factory.tenant_cache.get(company_id).timezone)


class _Rate(ProgressColumn):
    """Progress column with the rate in rows per second."""

    def render(self, task: Task) -> Text:
        """Return the rate as text."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f} rows/s" if speed else "", style="progress.data.speed")


@contextmanager
def _progress() -> Iterator[yclients_sync.OnProgress]:
    """Show a progress bar per kind on stderr if that is a terminal; yield the function that updates them."""
    columns = (
        TextColumn("{task.description:<18}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
    )
    with console.progress(*columns) as progress:
        tasks = {name: progress.add_task(name, total=None, visible=False) for name in KINDS_BY_NAME}

        def show(state: yclients_sync.SyncProgress) -> None:
            progress.start_task(tasks[state.kind])
            progress.update(tasks[state.kind], completed=state.done, total=state.total, visible=True)

        yield show


def _print(summary: SyncSummary) -> None:
    screen = console.screen()
    rare = [name for name in _RARE_COUNTS if any(vars(kind)[name] for kind in summary.kinds.values())]
    table = Table(box=None, pad_edge=False)
    table.add_column("kind", no_wrap=True)
    for name in (*_COUNTS, *rare, "seconds"):
        table.add_column(name, justify="right")
    for name, kind in summary.kinds.items():
        counts = (f"{vars(kind)[count]:,}" for count in (*_COUNTS, *rare))
        table.add_row(name, *counts, f"{kind.seconds:.1f}")
    screen.print(table)
    for name, problem in summary.problems[:MAX_PRINTED]:
        outcome = "rejected" if problem.is_rejected else "warning"
        key = ", ".join(map(str, problem.key or ())) or "without a key"
        reasons = "; ".join(f"{field}: {reason}" for field, reason in problem.reasons.items())
        screen.print(escape(f"{name} {key}: {outcome}: {reasons}"), soft_wrap=True)
    more = sum(kind.rejected + kind.warnings for kind in summary.kinds.values()) - MAX_PRINTED
    if more > 0:
        screen.print(f"… and {more:,} more.")
    for note in summary.notes:
        screen.print(escape(note), soft_wrap=True)
    nothing = "" if summary.has_changes else " Nothing changed."
    screen.print(f"{summary.requests:,} requests in {summary.seconds:.1f} s.{nothing}")
    if summary.is_dry_run:
        screen.print("Dry run: everything was rolled back.")


@sync_commands.command("status")
@click.option("--company", "company_id", type=_ID, help="The company's YClients id. Default: all companies.")
@console.json_option
def status_command(company_id: int | None, as_json: bool) -> None:
    """Show the last runs of each company: start, mode, state, duration, requests and written rows.

    Exit code 1 if the last run of a company failed or was interrupted.
    """
    with console.opened_desk() as desk:
        by_company = sync_status(desk, company_id)
    if as_json:
        console.print_json([status.as_dict() for statuses in by_company.values() for status in statuses])
    else:
        _print_status([status for statuses in by_company.values() for status in statuses])
    if any(statuses and not statuses[0].state.is_healthy for statuses in by_company.values()):
        raise click.exceptions.Exit(console.EXIT_PROBLEMS_FOUND)


def _print_status(statuses: list[SyncRunStatus]) -> None:
    screen = console.screen()
    if not statuses:
        screen.print("No sync has run yet.")
        return
    table = Table(box=None, pad_edge=False)
    for name in ("company", "started (UTC)", "mode", "state", "seconds", "requests", "written"):
        table.add_column(name, justify="left" if name in ("started (UTC)", "mode", "state") else "right")
    table.add_column("remarks")
    for status in statuses:
        run = status.run
        seconds = (run.finished_at - run.started_at).total_seconds() if run.finished_at else None
        table.add_row(
            str(run.company_id),
            f"{run.started_at:%Y-%m-%d %H:%M:%S}",
            run.mode,
            status.state.value,
            f"{seconds:.1f}" if seconds is not None else "",
            f"{run.requests:,}",
            f"{status.written:,}",
            escape(run.error_message or ""),
        )
    screen.print(table)
