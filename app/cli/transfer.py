"""`frontdesk transfer …`: transfer the live database from one PostgreSQL server to another."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event

import click
from rich.markup import escape
from rich.progress import MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from app.cli import console
from app.cli.lazy_group import LazyGroup
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


@click.group(
    "transfer",
    cls=LazyGroup,
    import_paths={
        "bench": "app.cli.transfer_bench:bench_command",
        "demo": "app.demo.transfer:demo_command",
    },
)
def transfer_commands() -> None:
    """Transfer the live database from LEGACY_DATABASE_URL to DATABASE_URL without losing a write.

    The steps are plan, start, copy, relay, verify, cutover and finish. Until finish, rollback makes legacy
    live again. Every step is safe to repeat; `status` shows the next one.
    """


@transfer_commands.command("start")
@include_option
@leave_out_option
@click.option("--dry-run", is_flag=True, help="Only check for problems.")
@console.json_option
def start_command(include: tuple[str, ...], leave_out: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Start change capture: from now on, the change log of legacy records every change.

    Writes to each table are blocked for a moment while its trigger is created. Tables that are captured
    already are not changed.
    """
    settings = console.load_settings()
    sides = Sides.from_settings(settings)
    if not settings.transfer_capture:
        raise ConfigurationError(
            "TRANSFER_CAPTURE is off, so changes cannot be captured. Unset it and run the command again."
        )
    screen = console.screen()

    def print_step(step: str) -> None:
        if not as_json:
            screen.print(escape(step))

    plan = start(sides, include, leave_out, dry_run=dry_run, on_step=print_step)
    tables = [table.name for table in plan.transfer_tables]
    if as_json:
        console.print_json({"dry_run": dry_run, "moved": tables, "left_out": list(plan.left_out)})
    elif dry_run:
        screen.print(f"Dry run: no problems; changes of {len(tables)} tables would be captured.")
    else:
        screen.print(f"Changes of {len(tables)} tables are captured. Next: frontdesk transfer copy")


@transfer_commands.command("relay")
@click.option("--once", is_flag=True, help="Apply the pending changes and stop.")
@click.option("--dry-run", is_flag=True, help="Run one apply cycle and roll it back.")
@console.json_option
def relay_command(once: bool, dry_run: bool, as_json: bool) -> None:
    """Apply the changes of the live side to the standby, whichever side that is, until Ctrl-C.

    Run it beside the services, under a supervisor such as systemd. It waits until the copy is complete, and
    while a server is down. Writes of the services never wait for it.
    """
    sides = Sides.from_settings(console.load_settings())
    if once or dry_run:
        result = drain(sides, dry_run=dry_run)
        changes, rows = result.entries, result.rows
    else:
        changes = rows = 0
        with _relay_progress() as on_cycle, _stopped_by_signals() as stop:
            relay(sides, stop, on_cycle, lambda reason: click.echo(reason, err=True))
    if as_json:
        console.print_json({"dry_run": dry_run, "changes": changes, "rows": rows})
    elif once or dry_run:
        note = " Dry run: rolled back." if dry_run else ""
        console.screen().print(f"{changes:,} changes, {rows:,} rows.{note}")


@contextmanager
def _relay_progress() -> Iterator[OnCycle]:
    """Show a progress line on stderr if that is a terminal; yield the function that updates it."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    with console.progress(*columns) as progress:
        task = progress.add_task("relay", total=None)

        def show(source: SideName, result: CycleResult) -> None:
            progress.update(task, description=f"{source} → {other_side(source)}", advance=result.entries)

        yield show


@contextmanager
def _stopped_by_signals() -> Iterator[Event]:
    """Yield an event that SIGINT (Ctrl-C) and SIGTERM set: the relay then ends after its apply cycle."""
    stop = Event()
    signals = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, lambda *_: stop.set()) for number in signals}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


_max_pause = click.option(
    "--max-pause",
    type=console.FiniteFloatRange(0.05, 60),
    default=MAX_PAUSE_SECONDS,
    show_default=True,
    help="Longest pause of writes, in seconds. Abort and accept writes again if it would be longer.",
)
_dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Rehearse: run and time each step, then roll it back."
)


@transfer_commands.command("cutover")
@_max_pause
@_dry_run_option
@console.json_option
def cutover_command(max_pause: float, dry_run: bool, as_json: bool) -> None:
    """Make primary the live side; legacy follows it from then on.

    Writes pause for a fraction of a second. If a step before the hand-over fails, legacy accepts writes
    again. After a kill, run the command again: it continues where it stopped.
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
            f"TRANSFER_PIN keeps the services on {settings.transfer_pin}, whichever side is live."
            " Remove it from their environment and restart them, then run this command again."
        )
    screen = console.screen()

    def print_step(step: Step) -> None:
        if not as_json:
            screen.print(
                f"{step.seconds * 1000:8,.0f} ms  {escape(step.name)}  [dim]{escape(step.detail)}[/]"
            )

    report = change_live_side(sides, target, max_pause=max_pause, dry_run=dry_run, on_step=print_step)
    if as_json:
        console.print_json(report.as_dict())
    elif report.was_live:
        screen.print(f"{target} is live already.")
    elif dry_run:
        screen.print(f"Rehearsal: no problems; {target} can become live.")
    else:
        screen.print(f"{target} is live. Writes paused for {(report.pause or 0) * 1000:,.0f} ms.")


@transfer_commands.command("finish")
@click.option(
    "--force", is_flag=True, help="Finish even if services are connected to legacy or it is unreachable."
)
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
@console.json_option
def finish_command(force: bool, dry_run: bool, as_json: bool) -> None:
    """End the transfer: remove its triggers, functions and tables from both sides.

    No rollback is possible afterwards. The live side stays live; before a cutover, this cancels the transfer.
    """
    sides = Sides.from_settings(console.load_settings())
    done: list[str] = []
    finish(sides, force=force, dry_run=dry_run, on_step=done.append)
    if as_json:
        console.print_json({"dry_run": dry_run, "removed": done})
        return
    for line in done:
        console.screen().print(escape(line))
    console.screen().print(
        "Dry run: nothing was removed." if dry_run else "Everything of the transfer is removed."
    )


@transfer_commands.command("status")
@console.json_option
def status_command(as_json: bool) -> None:
    """Show the stage of the transfer, the next step, and problems.

    Exit codes: 1 there are problems, 3 the stage is unknown.
    """
    status = read_status(Sides.from_settings(console.load_settings()))
    if as_json:
        console.print_json(status.as_dict())
    else:
        _print(status)
    if status.stage is Stage.UNKNOWN:
        raise click.exceptions.Exit(console.CouldNotRun.exit_code)
    if status.in_the_way or status.stage is Stage.BROKEN:
        raise click.exceptions.Exit(console.EXIT_PROBLEMS_FOUND)


def _print(transfer_status: Status) -> None:
    screen = console.screen()
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in _lines(transfer_status):
        table.add_row(name, escape(value))
    screen.print(table)
    for problem in transfer_status.in_the_way:
        screen.print(f"[bold red]problem[/] {escape(problem)}", soft_wrap=True)
    screen.print(f"[bold]next[/] {escape(transfer_status.next)}", soft_wrap=True)


def _lines(transfer_status: Status) -> Iterator[tuple[str, str]]:
    yield "stage", transfer_status.stage.value
    yield "live", transfer_status.live or "none: writes are paused"
    for side, row in transfer_status.sides.items():
        yield side, f"{row.state}, epoch {row.epoch}" if row else "no transfer"
    if transfer_status.copied is not None:
        yield "copied", f"{transfer_status.copied} of {transfer_status.tables} tables"
    if transfer_status.marks is not None:
        yield "pending", f"{transfer_status.marks:,} keys, the oldest for {transfer_status.lag:.1f} s"
    if transfer_status.last_round is not None:
        yield (
            "last applied",
            f"{transfer_status.last_round:%Y-%m-%d %H:%M:%S} UTC, in {transfer_status.replay_seconds:.2f} s",
        )
    if transfer_status.verified_at is not None:
        equal = "equal" if transfer_status.verified_equal else "DIFFERENT"
        yield "verified", f"{transfer_status.verified_at:%Y-%m-%d %H:%M:%S} UTC: {equal}"


transfer_commands.add_command(plan_command)
transfer_commands.add_command(copy_command)
transfer_commands.add_command(verify_command)
transfer_commands.add_command(repair_command)
