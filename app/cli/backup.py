"""`frontdesk backup …`: make, verify, restore, drill and prune backups."""

import signal
import sys

import click
import psycopg.conninfo
from rich.markup import escape

from app.backup import catalogue, fingerprint, prune
from app.backup.catalogue import BackupState
from app.backup.create import create
from app.backup.drill import EMBEDDED, drill
from app.backup.dump_stream import verify_checksum
from app.backup.restore import check_empty, compatibility_warning, restore
from app.backup.run_log import RunKind, RunOutcome
from app.backup.storage import Storage
from app.backup.verify import verify
from app.cli import backup_output as output
from app.cli import console
from app.config import Settings
from app.database import embedded_server

_at = click.option(
    "--at",
    "address",
    help="Directory of the backups, or an address like s3://bucket/folder. Default: BACKUP_ADDRESS.",
)
_name = click.argument("name", required=False)


@click.group("backup")
@click.pass_context
def backup_commands(ctx: click.Context) -> None:
    """Make, verify, restore, drill and prune backups.

    NAME is the name of a backup that `list` shows. Without it, a command uses the newest backup.
    """
    # SystemExit runs clean-up code, which drops the scratch database and removes incomplete files.
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    ctx.call_on_close(lambda: signal.signal(signal.SIGTERM, previous))


@backup_commands.command("create")
@_at
@console.json_option
def create_command(address: str | None, as_json: bool) -> None:
    """Back up the whole database; it stays in use."""
    with console.opened_desk() as desk, output.progress() as on_progress:
        settings = desk.database.live().settings  # a standby may lack rows
        storage = _open_storage(settings, address)
        with output.recording(settings, RunKind.CREATE) as run:
            manifest = create(settings, storage, on_progress)
            run.set_manifest(manifest)
    if warning := compatibility_warning(manifest):
        click.echo(f"Warning: {warning}", err=True)
    if as_json:
        console.print_json(
            {
                "name": manifest.name,
                "at": str(storage),
                "taken_at": manifest.taken_at,
                "seconds": run.seconds,
                "bytes": manifest.dump_bytes,
                "sha256": manifest.dump_sha256,
                "tables": len(manifest.tables),
                "rows": manifest.rows,
                "server_version": manifest.server_version,
                "tool": manifest.tool,
                "recorded": run.recorded,
            }
        )
    else:
        console.screen().print(
            f"{manifest.name} at {escape(str(storage))}: {manifest.rows:,} rows"
            f" of {len(manifest.tables)} tables, {output.format_size(manifest.dump_bytes)},"
            f" in {run.seconds:.1f} s."
        )


@backup_commands.command("list")
@_at
@console.json_option
@click.pass_context
def list_command(ctx: click.Context, address: str | None, as_json: bool) -> None:
    """List the backups, newest first. Exit code 1 if the newest is incomplete, damaged or found bad."""
    settings = console.load_settings()
    storage = _open_storage(settings, address)
    entries = catalogue.list_backups(storage)
    checked = output.try_query_last_checks(settings)
    if as_json:
        console.print_json(
            {"at": str(storage), "backups": [output.entry_as_dict(entry, checked) for entry in entries]}
        )
    elif entries:
        output.print_entries(entries, checked)
    else:
        console.screen().print(f"There are no backups at {escape(str(storage))}.")
    if not entries or entries[0].state is not BackupState.COMPLETE or output.is_bad(entries[0], checked):
        ctx.exit(console.EXIT_PROBLEMS_FOUND)


@backup_commands.command("verify")
@_at
@_name
@console.json_option
@click.pass_context
def verify_command(ctx: click.Context, address: str | None, name: str | None, as_json: bool) -> None:
    """Read a whole backup: check its checksums and decode every row. Exit code 1 if it is not good."""
    settings = console.load_settings()
    storage = _open_storage(settings, address)
    entry = catalogue.find_backup(storage, name)
    with output.progress() as on_progress, output.recording(settings, RunKind.VERIFY, entry) as run:
        problems = verify(storage, entry, on_progress)
        run.set_result(problems)
    if as_json:
        document = {"name": entry.name, "at": str(storage), "good": not problems, "problems": problems}
        console.print_json(document | {"seconds": run.seconds, "recorded": run.recorded})
    else:
        output.print_result(entry.name, f"every byte read in {run.seconds:.1f} s", problems)
    if problems:
        ctx.exit(console.EXIT_PROBLEMS_FOUND)


@backup_commands.command("restore")
@_at
@_name
@click.option("--into", "url", help="URL of an empty database. Default: DATABASE_URL.")
@click.option("--no-owner", is_flag=True, help="The connecting role owns everything; restore no grants.")
@click.option("--dry-run", is_flag=True, help="Check the backup and the database without writing anything.")
@console.json_option
@click.pass_context
def restore_command(
    ctx: click.Context,
    address: str | None,
    name: str | None,
    url: str | None,
    no_owner: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Restore into an empty database and compare the result. Exit code 1 if it differs from the backup.

    Without NAME, the newest complete backup is restored. The restore is one transaction: a failed one leaves
    the database empty.
    """
    settings = console.load_settings()
    storage = _open_storage(settings, address)
    entry = catalogue.find_backup(storage, name, complete_only=True)
    target = embedded_server.resolve_migration_url(settings) if url is None else _validate_url(url)
    with output.progress() as on_progress:
        if dry_run:
            verify_checksum(storage, entry, on_progress)
            with fingerprint.open_connection(settings, target) as connection:
                check_empty(connection)
                database = connection.info.dbname
        else:
            with output.recording(settings, RunKind.RESTORE, entry, target) as run:
                restored = restore(settings, storage, entry, target, on_progress, keep_owners=not no_owner)
                run.set_result(restored.differences, restored.recovery_seconds)
    if dry_run:
        if as_json:
            console.print_json(
                {"dry_run": True, "name": entry.name, "at": str(storage), "database": database}
            )
        else:
            console.screen().print(f"{entry.name} is intact and would be restored into {escape(database)}.")
        return
    if as_json:
        document = {"dry_run": False, "at": str(storage), "missing_roles": restored.missing_roles}
        console.print_json(output.restored_as_dict(restored) | document | {"recorded": run.recorded})
    else:
        output.print_result(entry.name, output.restored_as_text(restored), restored.differences)
        if restored.missing_roles:
            roles = escape(", ".join(restored.missing_roles))
            console.screen().print(
                "Owners and grants were not restored: the server lacks these roles, or the connecting role is"
                f" not a member of them: {roles}."
            )
    if restored.differences:
        ctx.exit(console.EXIT_PROBLEMS_FOUND)


@backup_commands.command("drill")
@_at
@_name
@click.option(
    "--server",
    help=f"Server for the scratch database: a URL, or {EMBEDDED}. Default: the server of DATABASE_URL.",
)
@console.json_option
@click.pass_context
def drill_command(
    ctx: click.Context, address: str | None, name: str | None, server: str | None, as_json: bool
) -> None:
    """Restore a backup into a scratch database, compare every table, and report the recovery time.

    The scratch database is always dropped. Exit code 1 if the backup is not good.
    """
    settings = console.load_settings()
    storage = _open_storage(settings, address)
    entry = catalogue.find_backup(storage, name)
    if server is None:
        settings = output.live_settings(settings)
    elif server != EMBEDDED:
        server = _validate_url(server)
    with output.progress() as on_progress, output.recording(settings, RunKind.DRILL, entry) as run:
        result = drill(settings, storage, entry, server, on_progress)
        run.set_result(result.problems, result.restored.recovery_seconds if result.restored else None)
    if as_json:
        document = {"name": entry.name, "good": result.is_good, "problems": result.problems}
        details = {} if result.restored is None else output.restored_as_dict(result.restored)
        console.print_json(
            details | document | {"at": str(storage), "where": result.location, "recorded": run.recorded}
        )
    else:
        text = output.restored_as_text(result.restored) if result.restored else ""
        output.print_result(entry.name, f"{text}, in {result.location}, now dropped", result.problems)
    if not result.is_good:
        ctx.exit(console.EXIT_PROBLEMS_FOUND)


@backup_commands.command("prune")
@_at
@click.option("--keep", type=click.IntRange(min=1), help="Number of the newest backups to keep.")
@click.option("--days", type=click.IntRange(1, 36_500), help="Keep backups up to this age, in days.")
@click.option("--dry-run", is_flag=True, help="Show what would be deleted, and delete nothing.")
@console.json_option
def prune_command(
    address: str | None, keep: int | None, days: int | None, dry_run: bool, as_json: bool
) -> None:
    """Delete the backups that neither --keep nor --days keeps. The last good one always stays.

    Backups are read, newest first, to find a good one. If no backup is good, nothing is deleted. The newest
    backup that a drill or a restore found good stays, too.
    """
    if keep is None and days is None:
        raise console.WrongUsage("Give --keep, --days, or both.")
    settings = console.load_settings()
    storage = _open_storage(settings, address)
    checked, restored = output.try_read_run_log(settings) or ({}, set())
    with output.progress() as on_progress:
        bad = [name for name, (_, outcome, _) in checked.items() if outcome == RunOutcome.BAD]
        planned = prune.plan_prune(storage, keep, days, on_progress, restored=restored, bad=bad)
    if not dry_run:
        for entry in planned.deleted:
            prune.delete_backup(storage, entry)
    if as_json:
        console.print_json(
            {
                "dry_run": dry_run,
                "at": str(storage),
                "deleted": [entry.name for entry in planned.deleted],
                "kept": [entry.name for entry in planned.kept],
                "proven": planned.proven and planned.proven.name,
            }
        )
        return
    screen, done = console.screen(), "would be deleted" if dry_run else "deleted"
    for entry in planned.deleted:
        screen.print(f"{entry.name}: {output.format_size(entry.bytes)} {done}")
    proven = f"; {planned.proven.name} was read and is good" if planned.proven else ""
    screen.print(f"{len(planned.deleted)} {done}, {len(planned.kept)} kept{proven}.")


def _open_storage(settings: Settings, location: str | None) -> Storage:
    return Storage(location or settings.backup_storage())


def _validate_url(url: str) -> str:
    """Return the URL in the form for libpq. Raises WrongUsage, whose message does not contain the URL."""
    url = url.replace("postgresql+psycopg://", "postgresql://", 1)
    try:
        psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise console.WrongUsage(
            "The URL is not valid. Write it like postgresql://user:password@host:5432/name."
        ) from None
    return url
