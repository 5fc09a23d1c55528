"""`frontdesk transfer`: move the live database from one PostgreSQL to another."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from app.cli import console
from app.cli.lazy_group import LazyGroup
from app.cli.transfer_bench import bench_command
from app.cli.transfer_data import (
    copy_command,
    include_option,
    leave_out_option,
    plan_command,
    repair_command,
    verify_command,
)
from app.errors import ConfigurationError
from app.transfer.cutover.cutover import MAX_PAUSE_SECONDS, change_live_side
from app.transfer.cutover.report import Step
from app.transfer.finish import finish
from app.transfer.protocol.endpoints import SideName, Sides
from app.transfer.protocol.stages import Stage, other_side
from app.transfer.protocol.status import Status, read_status
from app.transfer.relay.apply_cycle import CycleResult
from app.transfer.relay.relay import OnCycle, drain, relay
from app.transfer.start import start


@click.group("transfer", cls=LazyGroup, import_paths={"demo": "app.demo.transfer:demo_command"})
def transfer_commands() -> None:
    """Move the live database from LEGACY_DATABASE_URL to DATABASE_URL without losing a write.

    plan, start, copy, relay, verify, cutover, and finish when all is well; until then rollback leads back.
    Each step is safe to repeat; `status` says what is next.
    """


@transfer_commands.command("start")
@include_option
@leave_out_option
@click.option("--dry-run", is_flag=True, help="Only look for what is in the way.")
@console.json_option
def start_command(include: tuple[str, ...], leave_out: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Switch capture on: from now on every change on legacy is noted.

    Writers wait for a moment, table by table. What is set up already stays as it is.
    """
    settings = console.load_settings()
    sides = Sides.from_settings(settings)
    if not settings.transfer_capture:
        raise ConfigurationError(
            "TRANSFER_CAPTURE is off: unset it to let changes be noted, and start again."
        )
    screen = console.screen()

    def say(step: str) -> None:
        if not as_json:
            screen.print(escape(step))

    found = start(sides, include, leave_out, dry_run=dry_run, on_step=say)
    moved = [table.name for table in found.transfer_tables]
    if as_json:
        console.print_json({"dry_run": dry_run, "moved": moved, "left_out": list(found.left_out)})
    elif dry_run:
        screen.print(f"Dry run: nothing is in the way of moving {len(moved)} tables.")
    else:
        screen.print(f"{len(moved)} tables are captured. Next: frontdesk transfer copy")


@transfer_commands.command("relay")
@click.option("--once", is_flag=True, help="Bring over what waits now, and stop.")
@click.option("--dry-run", is_flag=True, help="One round, which is taken back.")
@console.json_option
def relay_command(once: bool, dry_run: bool, as_json: bool) -> None:
    """Keep the standby up to date, whichever side that is, until Ctrl-C.

    Run it beside the services, under whatever keeps it running. It waits for the copy, and for a server that
    is down; writers never wait for it.
    """
    sides = Sides.from_settings(console.load_settings())
    if once or dry_run:
        done = drain(sides, dry_run=dry_run)
        changes, rows = done.entries, done.rows
    else:
        changes = rows = 0
        with _relay_progress() as on_round, _stopped_by_signals() as stop:
            relay(sides, stop, on_round, lambda reason: click.echo(reason, err=True))
    if as_json:
        console.print_json({"dry_run": dry_run, "changes": changes, "rows": rows})
    elif once or dry_run:
        taken_back = " Dry run: taken back." if dry_run else ""
        console.screen().print(f"{changes:,} changes, {rows:,} rows.{taken_back}")


@contextmanager
def _relay_progress() -> Iterator[OnCycle]:
    """A line on a terminal's stderr, nothing elsewhere."""
    screen = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as progress:
        task = progress.add_task("relay", total=None)

        def show(source: SideName, result: CycleResult) -> None:
            progress.update(task, description=f"{source} → {other_side(source)}", advance=result.entries)

        yield show


@contextmanager
def _stopped_by_signals() -> Iterator[Event]:
    """Ctrl-C and SIGTERM end the relay between two rounds."""
    stop = Event()
    before = {each: signal.signal(each, lambda *_: stop.set()) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


_max_pause = click.option(
    "--max-pause",
    type=console.FiniteFloatRange(0.05, 60),
    default=MAX_PAUSE_SECONDS,
    show_default=True,
    help="Give up, with writes open again, when the pause would be longer. Seconds.",
)
_dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Rehearse: try each step, time it, take it back."
)


@transfer_commands.command("cutover")
@_max_pause
@_dry_run_option
@console.json_option
def cutover_command(max_pause: float, dry_run: bool, as_json: bool) -> None:
    """Make primary the live side; legacy follows it from then on.

    Writes pause for a fraction of a second. Before the hand-over every failure opens legacy again; a command
    that was killed is run again, and goes on where it stood.
    """
    _change_live_side("primary", max_pause, dry_run, as_json)


@transfer_commands.command("rollback")
@_max_pause
@_dry_run_option
@console.json_option
def rollback_command(max_pause: float, dry_run: bool, as_json: bool) -> None:
    """Make legacy the live side again, with every write made since the cutover."""
    _change_live_side("legacy", max_pause, dry_run, as_json)


def _change_live_side(target: SideName, max_pause: float, dry_run: bool, as_json: bool) -> None:
    settings = console.load_settings()
    sides = Sides.from_settings(settings)
    if settings.transfer_pin is not None:
        raise ConfigurationError(
            f"TRANSFER_PIN keeps the services on {settings.transfer_pin}, whichever side is live:"
            " take it out of their environment, and restart them, before the live side changes."
        )
    screen = console.screen()

    def say(step: Step) -> None:
        if not as_json:
            screen.print(
                f"{step.seconds * 1000:8,.0f} ms  {escape(step.name)}  [dim]{escape(step.detail)}[/]"
            )

    report = change_live_side(sides, target, max_pause=max_pause, dry_run=dry_run, on_step=say)
    if as_json:
        console.print_json(report.as_dict())
    elif report.was_live:
        screen.print(f"{target} is live already.")
    elif dry_run:
        screen.print(f"Rehearsed: nothing stands in the way of making {target} live.")
    else:
        screen.print(f"{target} is live. Writes paused for {(report.pause or 0) * 1000:,.0f} ms.")


@transfer_commands.command("finish")
@click.option("--force", is_flag=True, help="Even if services are still connected to legacy, or it is gone.")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@console.json_option
def finish_command(force: bool, dry_run: bool, as_json: bool) -> None:
    """End the move: remove its triggers, functions and tables from both sides.

    After it there is no rollback. The side that is live stays so; before a cutover this gives the move up.
    """
    sides = Sides.from_settings(console.load_settings())
    done: list[str] = []
    finish(sides, force=force, dry_run=dry_run, on_step=done.append)
    if as_json:
        console.print_json({"dry_run": dry_run, "removed": done})
        return
    for line in done:
        console.screen().print(escape(line))
    console.screen().print("Dry run: nothing was removed." if dry_run else "Nothing of the move is left.")


@transfer_commands.command("status")
@console.json_option
def status_command(as_json: bool) -> None:
    """Where the move stands, what is next, and what is in the way.

    Exit code 1 where something is in the way.
    """
    found = read_status(Sides.from_settings(console.load_settings()))
    if as_json:
        console.print_json(found.as_dict())
    else:
        _print(found)
    if found.stage is Stage.UNKNOWN:
        raise click.exceptions.Exit(console.CouldNotRun.exit_code)
    if found.in_the_way or found.stage is Stage.BROKEN:
        raise click.exceptions.Exit(console.EXIT_PROBLEMS_FOUND)


def _print(transfer_status: Status) -> None:
    screen = console.screen()
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in _lines(transfer_status):
        table.add_row(name, escape(value))
    screen.print(table)
    for obstacle in transfer_status.in_the_way:
        screen.print(f"[bold red]in the way[/] {escape(obstacle)}", soft_wrap=True)
    screen.print(f"[bold]next[/] {escape(transfer_status.next)}", soft_wrap=True)


def _lines(transfer_status: Status) -> Iterator[tuple[str, str]]:
    yield "stage", transfer_status.stage.value
    yield "live", transfer_status.live or "nobody: writes wait"
    for side, row in transfer_status.sides.items():
        yield side, f"{row.state}, epoch {row.epoch}" if row else "no move"
    if transfer_status.copied is not None:
        yield "copied", f"{transfer_status.copied} of {transfer_status.tables} tables"
    if transfer_status.marks is not None:
        yield "waiting", f"{transfer_status.marks:,} keys, the oldest for {transfer_status.lag:.1f} s"
    if transfer_status.last_round is not None:
        yield (
            "last relayed",
            f"{transfer_status.last_round:%Y-%m-%d %H:%M:%S} UTC, in {transfer_status.replay_seconds:.2f} s",
        )
    if transfer_status.verified_at is not None:
        equal = "equal" if transfer_status.verified_equal else "DIFFERENT"
        yield "verified", f"{transfer_status.verified_at:%Y-%m-%d %H:%M:%S} UTC: {equal}"


transfer_commands.add_command(plan_command)
transfer_commands.add_command(copy_command)
transfer_commands.add_command(verify_command)
transfer_commands.add_command(repair_command)
transfer_commands.add_command(bench_command)
