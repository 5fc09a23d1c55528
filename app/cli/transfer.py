"""`frontdesk transfer`: move the live database from one PostgreSQL to another."""

from collections.abc import Iterator

import click
from rich.markup import escape
from rich.table import Table

from app.cli import console
from app.cli.transfer_data import include_option, leave_out_option, plan_command
from app.transfer.sides import Sides
from app.transfer.start import start
from app.transfer.status import Stage, Status, status


@click.group("transfer")
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
    sides = Sides.of(console.settings())
    screen = console.screen()

    def say(step: str) -> None:
        if not as_json:
            screen.print(escape(step))

    found = start(sides, include, leave_out, dry_run=dry_run, on_step=say)
    moved = [table.name for table in found.moved]
    if as_json:
        console.print_json({"dry_run": dry_run, "moved": moved, "left_out": list(found.left_out)})
    elif dry_run:
        screen.print(f"Dry run: nothing is in the way of moving {len(moved)} tables.")
    else:
        screen.print(f"{len(moved)} tables are captured. Next: frontdesk transfer copy")


@transfer_commands.command("status")
@console.json_option
def status_command(as_json: bool) -> None:
    """Where the move stands, what is next, and what is in the way.

    Exit code 1 where something is in the way.
    """
    found = status(Sides.of(console.settings()))
    if as_json:
        console.print_json(found.as_dict())
    else:
        _print(found)
    if found.stage is Stage.UNKNOWN:
        raise click.exceptions.Exit(console.CouldNotRun.exit_code)
    if found.in_the_way or found.stage is Stage.BROKEN:
        raise click.exceptions.Exit(console.SOMETHING_IS_WRONG)


def _print(found: Status) -> None:
    screen = console.screen()
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in _lines(found):
        table.add_row(name, escape(value))
    screen.print(table)
    for obstacle in found.in_the_way:
        screen.print(f"[bold red]in the way[/] {escape(obstacle)}", soft_wrap=True)
    screen.print(f"[bold]next[/] {escape(found.next)}", soft_wrap=True)


def _lines(found: Status) -> Iterator[tuple[str, str]]:
    yield "stage", found.stage.value
    yield "live", found.live or "nobody: writes wait"
    for side, row in found.sides.items():
        yield side, f"{row.state}, epoch {row.epoch}" if row else "no move"
    if found.copied is not None:
        yield "copied", f"{found.copied} of {found.tables} tables"
    if found.marks is not None:
        yield "waiting", f"{found.marks:,} keys, the oldest for {found.lag:.1f} s"
    if found.last_round is not None:
        yield "last relayed", f"{found.last_round:%Y-%m-%d %H:%M:%S} UTC, in {found.replay_seconds:.2f} s"
    if found.verified_at is not None:
        equal = "equal" if found.verified_equal else "DIFFERENT"
        yield "verified", f"{found.verified_at:%Y-%m-%d %H:%M:%S} UTC: {equal}"


transfer_commands.add_command(plan_command)
