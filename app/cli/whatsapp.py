"""`frontdesk whatsapp …`: commands for operators to manage the WhatsApp sessions of salons."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from app.cli import console
from app.errors import DRIVER_ERRORS, UnknownCompanyError, to_frontdesk_error
from app.frontdesk import Frontdesk
from app.observability.severity import Severity
from app.schemas.types import MAX_ID
from app.whatsapp import cleanup, import_folder, import_legacy_tables, key_rotation
from app.whatsapp.health import SalonHealth, WhatsAppHealth
from app.whatsapp.health_monitor import check_health

COLOURS = {Severity.HEALTHY: "green", Severity.WARNING: "yellow", Severity.CRITICAL: "bold red"}

_ID = click.IntRange(1, MAX_ID)
_one_company = click.option("--company", "company_id", type=_ID, help="This company only (YClients id).")
_the_company = click.option(
    "--company", "company_id", type=_ID, required=True, help="The company's YClients id."
)
_dry_run = click.option("--dry-run", is_flag=True, help="Only count; change nothing.")


@click.group("whatsapp")
def whatsapp_commands() -> None:
    """Manage the WhatsApp sessions of salons."""


@whatsapp_commands.command("status")
@_one_company
@console.json_option
def status_command(company_id: int | None, as_json: bool) -> None:
    """Show the health of the sessions, with remedies. Exit code 1 if a session is critical."""
    with console.opened_desk() as desk:
        try:
            health = check_health(desk.database, desk.settings, company_id)
        except DRIVER_ERRORS as error:
            raise to_frontdesk_error(error) from error
    if company_id is not None and not health.salons:
        raise UnknownCompanyError
    level = health.level if company_id is None else health.salons[company_id].level
    if as_json:
        console.print_json(health.as_dict() if company_id is None else health.salon_as_dict(company_id))
    else:
        _print_status(health, health.paired if company_id is None else list(health.salons.values()))
    if level is Severity.CRITICAL:
        raise click.exceptions.Exit(console.EXIT_PROBLEMS_FOUND)


def _print_status(overview: WhatsAppHealth, salons: list[SalonHealth]) -> None:
    screen = console.screen()
    if not salons:
        screen.print(overview.as_dict()["recommendation"], style=COLOURS[Severity.CRITICAL])
        return
    table = Table(box=None, pad_edge=False)
    for name in ("company", "status", "keys", "expired", "sessions", "last write", "problem and remedy"):
        table.add_column(name, justify="right" if name in ("keys", "expired", "sessions") else "left")
    for salon in salons:
        table.add_row(
            str(salon.company_id),
            f"[{COLOURS[salon.level]}]{salon.level}[/]",
            f"{salon.total:,}",
            f"{salon.expired:,}",
            f"{salon.sessions:,}",
            salon.last_write.strftime("%Y-%m-%d %H:%M") if salon.last_write else "never",
            "\n".join(f"{problem.reason}. {problem.remedy}" for problem in salon.problems),
        )
    screen.print(table)


@whatsapp_commands.command("cleanup")
@_one_company
@click.option("--type", "types", multiple=True, help="Only keys of this type, even if protected; repeatable.")
@_dry_run
@console.json_option
def cleanup_command(company_id: int | None, types: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Delete keys that expired more than a week ago. Protected types are deleted only with --type.

    Safe to run from cron on several machines: one run deletes, concurrent runs exit without changes.
    """
    with console.opened_desk() as desk, console.count_progress("companies") as on_progress:
        result = cleanup.clean_up(desk.database.live().settings, company_id, types, dry_run, on_progress)
    if as_json:
        console.print_json(result.as_dict())
        return
    screen = console.screen()
    if result.is_skipped:
        screen.print("Another clean-up is running: this one changed nothing.")
        return
    deleted = "would be deleted" if dry_run else "deleted"
    _print_counts(("type", "before", deleted, "after"), [
        (name, count, result.deleted[name], result.after.get(name, 0))
        for name, count in result.before.items()
    ])  # fmt: skip
    screen.print(f"{result.deleted.total():,} keys {deleted}.")
    if result.protected_expired:
        screen.print(
            f"{result.protected_expired:,} expired keys have protected types and stay. Use --type to delete"
            " them."
        )


@whatsapp_commands.command("forget")
@_the_company
@_dry_run
@console.json_option
def forget_command(company_id: int, dry_run: bool, as_json: bool) -> None:
    """Delete a company's session: its credentials and keys. The phone must be paired again afterwards."""
    with console.opened_desk() as desk:
        salon = desk.company(company_id)
        if dry_run:
            if salon.get_company().unwrap() is None:
                raise UnknownCompanyError
            statistics = salon.whatsapp.statistics().unwrap()
            credentials, keys = int(statistics.has_credentials), statistics.total
        else:
            deleted = salon.whatsapp.delete_session().unwrap()
            credentials, keys = deleted.credentials, deleted.keys
    if as_json:
        console.print_json({"dry_run": dry_run, "credentials": credentials, "keys": keys})
    else:
        outcome = "would be deleted" if dry_run else "deleted"
        console.screen().print(f"{credentials} credentials and {keys:,} keys {outcome}.")


@whatsapp_commands.command("rotate-keys")
@_dry_run
@console.json_option
@click.pass_context
def rotate_command(ctx: click.Context, dry_run: bool, as_json: bool) -> None:
    """Re-encrypt all credentials and keys with the first of WHATSAPP_ENCRYPTION_KEYS.

    After an interruption, run the command again: it continues. Remove the old key only when nothing is left
    to rotate and every process runs with the new key first.
    """
    with console.opened_desk() as desk, console.count_progress("values") as on_progress:
        done = 0

        def count(values: int) -> None:
            nonlocal done
            done += values
            on_progress(done, None)

        result = key_rotation.rotate_keys(desk.database.live().settings, dry_run, count)
    if as_json:
        console.print_json(result.as_dict() | {"dry_run": dry_run})
    else:
        would = "would be " if dry_run else ""
        console.screen().print(
            f"{result.rotated:,} values {would}re-encrypted, {result.current:,} have the newest key already."
        )
        if result.changed:
            console.screen().print(
                f"{result.changed:,} values changed during the rotation. Run the command again."
            )
        if result.unreadable:
            console.screen().print(
                f"{result.unreadable:,} values cannot be decrypted with any key of WHATSAPP_ENCRYPTION_KEYS."
            )
    if result.unreadable or result.changed:
        ctx.exit(console.EXIT_PROBLEMS_FOUND)


@whatsapp_commands.command("import")
@_one_company
@click.option("--legacy", is_flag=True, help="Import from the old system's tables in LEGACY_DATABASE_URL.")
@_dry_run
@console.json_option
@click.argument("folder", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.pass_context
def import_command(
    ctx: click.Context,
    company_id: int | None,
    legacy: bool,
    dry_run: bool,
    as_json: bool,
    folder: Path | None,
) -> None:
    """Import sessions from a FOLDER of Baileys' useMultiFileAuthState, or from the old system (--legacy).

    An existing session of a company is not overwritten. Stop the old worker first: two workers on one session
    break it.
    """
    if legacy == (folder is not None):
        raise console.WrongUsage("Give either the FOLDER or --legacy.")
    if folder is not None and company_id is None:
        raise console.WrongUsage("Give --company: a folder does not contain the id of its company.")
    with console.opened_desk() as desk:
        sessions: Iterable[tuple[int, import_folder.ImportedSession]] = import_legacy_tables.read_tables(
            desk.settings, company_id
        )
        if folder is not None and company_id is not None:
            sessions = [(company_id, import_folder.read_folder(folder))]
        outcomes = [_import_session(desk, company, session, dry_run) for company, session in sessions]
    if as_json:
        console.print_json({"dry_run": dry_run, "sessions": outcomes})
    else:
        _print_import(outcomes, dry_run)
    if not outcomes or any(outcome["error"] or outcome["skipped"] for outcome in outcomes):
        ctx.exit(console.EXIT_PROBLEMS_FOUND)


def _import_session(
    desk: Frontdesk, company_id: int, session: import_folder.ImportedSession, dry_run: bool
) -> dict[str, Any]:
    salon = desk.company(company_id)
    result = salon.whatsapp.import_session(session.creds, session.keys, dry_run)
    if result.error is not None and result.error.code in ("unavailable", "timeout", "internal"):
        raise result.error
    return {
        "company_id": company_id,
        "error": result.error and result.error.message,
        "keys": {key_type: len(values) for key_type, values in session.keys.items()},
        "skipped": session.skipped,
    }


def _print_import(outcomes: list[dict[str, Any]], dry_run: bool) -> None:
    screen = console.screen()
    if not outcomes:
        screen.print("There is no session to import.")
    for outcome in outcomes:
        keys = ", ".join(f"{count} {key_type}" for key_type, count in outcome["keys"].items())
        if outcome["error"]:
            screen.print(f"Company {outcome['company_id']}: {outcome['error']}")
        else:
            done = "would be imported" if dry_run else "imported"
            screen.print(f"Company {outcome['company_id']}: {done}: credentials, {keys or 'no keys'}.")
        for key_type, count in outcome["skipped"].items():
            screen.print(f"  {count} keys of type {key_type} cannot be read and were skipped.")


def _print_counts(names: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    table = Table(box=None, pad_edge=False)
    for number, name in enumerate(names):
        table.add_column(name, justify="right" if number else "left")
    for first, *counts in rows:
        table.add_row(first, *(f"{count:,}" for count in counts))
    console.screen().print(table)
