"""`frontdesk backup …`: make backups, and prove that they are some."""

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
    "--at", "address", help="A directory, or an address like s3://bucket/folder; else BACKUP_ADDRESS."
)
_name = click.argument("name", required=False)


@click.group("backup")
@click.pass_context
def backup_commands(ctx: click.Context) -> None:
    """Backups: made, checked, restored, drilled. NAME is one that `list` shows; without it, the newest."""
    # Leave through Python's own exit, which drops a scratch database and removes half a file.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    ctx.call_on_close(lambda: signal.signal(signal.SIGTERM, before))


@backup_commands.command("create")
@_at
@console.json_option
def create_command(address: str | None, as_json: bool) -> None:
    """Back up the whole database, while it is at work."""
    with console.opened_desk() as desk, output.progress() as on_progress:
        settings = desk.database.live().settings  # a standby may lack rows
        place = _open_storage(settings, address)
        with output.recording(settings, RunKind.CREATE) as run:
            manifest = create(settings, place, on_progress)
            run.set_manifest(manifest)
    if warning := compatibility_warning(manifest):
        click.echo(f"Warning: {warning}", err=True)
    if as_json:
        console.print_json(
            {
                "name": manifest.name,
                "at": str(place),
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
            f"{manifest.name} at {escape(str(place))}: {manifest.rows:,} rows"
            f" of {len(manifest.tables)} tables, {output.format_size(manifest.dump_bytes)}, in {run.seconds:.1f} s."
        )


@backup_commands.command("list")
@_at
@console.json_option
@click.pass_context
def list_command(ctx: click.Context, address: str | None, as_json: bool) -> None:
    """Show the backups, the newest first; exit code 1 when the newest is not complete, or found bad."""
    settings = console.load_settings()
    place = _open_storage(settings, address)
    found = catalogue.list_backups(place)
    checked = output.try_query_last_checks(settings)
    if as_json:
        console.print_json(
            {"at": str(place), "backups": [output.entry_as_dict(each, checked) for each in found]}
        )
    elif found:
        output.print_entries(found, checked)
    else:
        console.screen().print(f"There are no backups at {escape(str(place))}.")
    if not found or found[0].state is not BackupState.COMPLETE or output.is_bad(found[0], checked):
        ctx.exit(console.EXIT_PROBLEMS_FOUND)


@backup_commands.command("verify")
@_at
@_name
@console.json_option
@click.pass_context
def verify_command(ctx: click.Context, address: str | None, name: str | None, as_json: bool) -> None:
    """Read a backup to its last byte: checksums, and every row decoded; exit code 1 when it is not good."""
    settings = console.load_settings()
    place = _open_storage(settings, address)
    entry = catalogue.find_backup(place, name)
    with output.progress() as on_progress, output.recording(settings, RunKind.VERIFY, entry) as run:
        problems = verify(place, entry, on_progress)
        run.set_result(problems)
    if as_json:
        document = {"name": entry.name, "at": str(place), "good": not problems, "problems": problems}
        console.print_json(document | {"seconds": run.seconds, "recorded": run.recorded})
    else:
        output.print_result(entry.name, f"every byte read in {run.seconds:.1f} s", problems)
    if problems:
        ctx.exit(console.EXIT_PROBLEMS_FOUND)


@backup_commands.command("restore")
@_at
@_name
@click.option("--into", "url", help="The URL of an empty database; else DATABASE_URL.")
@click.option("--no-owner", is_flag=True, help="Give everything to the connecting role, and grant nothing.")
@click.option("--dry-run", is_flag=True, help="Check the backup and the database, and write nothing.")
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
    """Restore into an empty database, and compare what is there then; exit code 1 when it differs.

    Without NAME, the newest complete backup. All of it comes back, or nothing.
    """
    settings = console.load_settings()
    place = _open_storage(settings, address)
    entry = catalogue.find_backup(place, name, complete_only=True)
    target = embedded_server.resolve_migration_url(settings) if url is None else _validate_url(url)
    with output.progress() as on_progress:
        if dry_run:
            verify_checksum(place, entry, on_progress)
            with fingerprint.open_connection(settings, target) as connection:
                check_empty(connection)
                database = connection.info.dbname
        else:
            with output.recording(settings, RunKind.RESTORE, entry, target) as run:
                restored = restore(settings, place, entry, target, on_progress, keep_owners=not no_owner)
                run.set_result(restored.differences, restored.recovery_seconds)
    if dry_run:
        if as_json:
            console.print_json({"dry_run": True, "name": entry.name, "at": str(place), "database": database})
        else:
            console.screen().print(f"{entry.name} is intact and would be restored into {escape(database)}.")
        return
    if as_json:
        document = {"dry_run": False, "at": str(place), "missing_roles": restored.missing_roles}
        console.print_json(output.restored_as_dict(restored) | document | {"recorded": run.recorded})
    else:
        output.print_result(entry.name, output.restored_as_text(restored), restored.differences)
        if restored.missing_roles:
            roles = escape(", ".join(restored.missing_roles))
            console.screen().print(
                f"Owners and grants are left out: not on this server, or not ours: {roles}."
            )
    if restored.differences:
        ctx.exit(console.EXIT_PROBLEMS_FOUND)


@backup_commands.command("drill")
@_at
@_name
@click.option(
    "--server", help=f"Where the scratch database is made: a URL, or {EMBEDDED}; else as DATABASE_URL."
)
@console.json_option
@click.pass_context
def drill_command(
    ctx: click.Context, address: str | None, name: str | None, server: str | None, as_json: bool
) -> None:
    """Restore a backup into a scratch database, compare every table, and tell how long it took.

    The scratch is dropped in any case. Exit code 1 when the backup is not good.
    """
    settings = console.load_settings()
    place = _open_storage(settings, address)
    entry = catalogue.find_backup(place, name)
    if server is None:
        settings = output.live_settings(settings)
    elif server != EMBEDDED:
        server = _validate_url(server)
    with output.progress() as on_progress, output.recording(settings, RunKind.DRILL, entry) as run:
        found = drill(settings, place, entry, server, on_progress)
        run.set_result(found.problems, found.restored.recovery_seconds if found.restored else None)
    if as_json:
        document = {"name": entry.name, "good": found.is_good, "problems": found.problems}
        details = {} if found.restored is None else output.restored_as_dict(found.restored)
        console.print_json(
            details | document | {"at": str(place), "where": found.location, "recorded": run.recorded}
        )
    else:
        text = output.restored_as_text(found.restored) if found.restored else ""
        output.print_result(entry.name, f"{text}, in {found.location}, which is dropped", found.problems)
    if not found.is_good:
        ctx.exit(console.EXIT_PROBLEMS_FOUND)


@backup_commands.command("prune")
@_at
@click.option("--keep", type=click.IntRange(min=1), help="Keep the newest so many.")
@click.option("--days", type=click.IntRange(1, 36_500), help="Keep those that are not older.")
@click.option("--dry-run", is_flag=True, help="Say what would go, and delete nothing.")
@console.json_option
def prune_command(
    address: str | None, keep: int | None, days: int | None, dry_run: bool, as_json: bool
) -> None:
    """Delete the backups that neither --keep nor --days keeps; the last good one stays in any case.

    Which one is good is found out by reading it. Where none is, nothing is deleted. The newest one that a
    drill has restored stays, too.
    """
    if keep is None and days is None:
        raise console.WrongUsage("Give --keep, --days, or both.")
    settings = console.load_settings()
    place = _open_storage(settings, address)
    checked, restored = output.try_read_run_log(settings) or ({}, set())
    with output.progress() as on_progress:
        bad = [name for name, (_, outcome, _) in checked.items() if outcome == RunOutcome.BAD]
        planned = prune.plan_prune(place, keep, days, on_progress, restored=restored, bad=bad)
    if not dry_run:
        for entry in planned.deleted:
            prune.delete_backup(place, entry)
    if as_json:
        console.print_json(
            {
                "dry_run": dry_run,
                "at": str(place),
                "deleted": [each.name for each in planned.deleted],
                "kept": [each.name for each in planned.kept],
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
    """A libpq URL, written as DATABASE_URL may be. Raises WrongUsage that does not quote its password."""
    url = url.replace("postgresql+psycopg://", "postgresql://", 1)
    try:
        psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise console.WrongUsage("The URL is not like postgresql://user:password@host:5432/name.") from None
    return url
