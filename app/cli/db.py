"""`frontdesk db …`: put an existing database under Alembic's control, and merge its duplicate rows."""

import click

from app.adoption import adopt, merge_duplicates, restore_archived
from app.adoption.adopt import AdoptionReport
from app.adoption.duplicate_groups import MergedGroup
from app.adoption.merge_duplicates import DeduplicationReport
from app.cli import console
from app.database import embedded_server
from app.migrations import runner
from app.schemas.types import MAX_ID

MAX_PRINTED = 20  # duplicate groups printed per table


@click.group("db")
def db_commands() -> None:
    """Put an existing database under Alembic's control, and merge its duplicate rows."""


@db_commands.command("adopt")
@click.option("--yes", is_flag=True, help="Stamp the database with the revision that it matches.")
@console.json_option
def adopt_command(yes: bool, as_json: bool) -> None:
    """Show which migration revision a database matches, or exactly how it differs.

    Use it for a database that Alembic does not manage yet. Without --yes nothing is changed. With --yes the
    database is stamped with the revision that it matches; `alembic upgrade head` then completes migrations
    that were applied in part. Exit code 1 if the database differs; then nothing is stamped.
    """
    url = embedded_server.resolve_migration_url(console.load_settings())
    with runner.migration_engine(url) as engine:
        if yes:
            with runner.migration_lock(engine, wait=False), engine.connect() as connection:
                finding = adopt.adopt(connection)
        else:
            with engine.connect() as connection:
                finding = adopt.inspect_schema(connection)
    if as_json:
        console.print_json(finding.as_dict())
    else:
        _print_finding(finding)
    if finding.state == "differs":
        raise click.exceptions.Exit(console.EXIT_PROBLEMS_FOUND)


def _print_finding(finding: AdoptionReport) -> None:
    revision = finding.revision
    alike = f" (and {', '.join(finding.same)}, which changes rows only)" if finding.same else ""
    messages = {
        "adopted": f"Alembic manages this database already: it is at revision {revision}.",
        "empty": "The database has no tables: nothing to adopt.",
        "matches": f"The tables match revision {revision}{alike}.",
        "partly": f"The tables match revision {revision}; later migrations are applied in part.",
        "differs": "The tables match no revision"
        + (f"; the closest is {revision}. Differences:" if revision else ":"),
    }
    click.echo(messages[finding.state])
    for line in finding.differences:
        click.echo(f"  {line}")
    if finding.later:
        click.echo(f"Differences from revision {revision} that the upgrade resolves:")
        for line in finding.later:
            click.echo(f"  {line}")
    if finding.left_alone:
        click.echo(f"Tables of other programs, not changed: {', '.join(finding.left_alone)}.")
    click.echo(_next_step(finding))


def _next_step(finding: AdoptionReport) -> str:
    if finding.state == "differs":
        return "Nothing was changed. Resolve the differences, and run this command again."
    if finding.state == "empty" or (finding.state == "adopted" and finding.revision != runner.head()):
        return "Next: alembic upgrade head"
    if finding.state == "adopted":
        return "There is nothing to do."
    if finding.stamped:
        return f"Stamped {finding.revision}. Next: frontdesk db dedupe --dry-run, then alembic upgrade head"
    return f"Nothing was changed; `frontdesk db adopt --yes` stamps {finding.revision}."


@db_commands.command("dedupe")
@click.option("--dry-run", is_flag=True, help="Show what would be done, and change nothing.")
@click.option(
    "--restore",
    "archive_ids",
    type=click.IntRange(1, MAX_ID),
    multiple=True,
    metavar="ID",
    help="Instead of merging, restore the row with this id in archived_rows; repeatable.",
)
@console.json_option
def dedupe_command(dry_run: bool, archive_ids: tuple[int, ...], as_json: bool) -> None:
    """Merge each group of duplicate rows into its earliest row, and archive the others.

    Works on the old schema, before the migrations that add its unique constraints. Services may keep
    writing: each group is merged in one short transaction. After an interruption, run the command again.
    Exit code 1 if groups are left, or a row cannot be restored.
    """
    url = embedded_server.resolve_migration_url(console.load_settings())
    if archive_ids:
        _restore(url, archive_ids, dry_run, as_json)
        return
    with console.count_progress("groups") as on_progress:
        result = (merge_duplicates.plan if dry_run else merge_duplicates.run)(url, on_progress)
    if as_json:
        console.print_json(result.as_dict())
    else:
        _print_deduplication(result)
    if result.remaining:
        raise click.exceptions.Exit(console.EXIT_PROBLEMS_FOUND)


def _print_deduplication(result: DeduplicationReport) -> None:
    would = "would be " if result.is_dry_run else ""
    for table, counts in result.as_dict()["tables"].items():
        click.echo(
            f"{table}: {counts['groups']:,} groups; {counts['archived']:,} rows {would}archived,"
            f" {counts['filled']:,} values {would}taken over,"
            f" {counts['repointed']:,} references {would}re-pointed"
        )
        of_table = [pair for pair in result.merged if pair[0].table == table]
        for group, merged in of_table[:MAX_PRINTED]:
            click.echo(f"  {group.key_text}: {_describe_merge(merged)}")
        if len(of_table) > MAX_PRINTED:
            click.echo(f"  and {len(of_table) - MAX_PRINTED:,} more: --json shows all")
    for group, reason in result.failed.items():
        click.echo(f"{group}: not merged, {reason}")
    if not result.merged and not result.failed:
        click.echo("There are no duplicates.")
    elif result.is_dry_run:
        click.echo("Nothing was changed. Run the command without --dry-run to do this.")
    elif result.remaining:
        click.echo(f"{result.remaining:,} groups are left.")


def _describe_merge(merged: MergedGroup) -> str:
    actions = [f"keeps {merged.kept_id}"]
    rows = (
        f"{row_id}" if number is None else f"{row_id} (as {number})"
        for row_id, number in merged.archived.items()
    )
    actions.append(f"archives {', '.join(rows)}")
    if merged.filled:
        actions.append(f"takes over {', '.join(merged.filled)}")
    actions += [f"re-points {count} in {column}" for column, count in merged.repointed.items()]
    return ", ".join(actions)


def _restore(url: str, archive_ids: tuple[int, ...], dry_run: bool, as_json: bool) -> None:
    outcomes = restore_archived.restore(url, archive_ids, dry_run)
    if as_json:
        console.print_json({"dry_run": dry_run, "rows": [vars(outcome) for outcome in outcomes]})
    else:
        for outcome in outcomes:
            row = f"row {outcome.id} of {outcome.table}" if outcome.table else "no row"
            if outcome.refused:
                click.echo(f"{outcome.archive_id}: {row} cannot be restored: {outcome.refused}")
            else:
                click.echo(f"{outcome.archive_id}: {row} {'would be' if dry_run else 'is'} restored")
                if outcome.left_out:
                    click.echo(f"  without {', '.join(outcome.left_out)}, which stay in the archive")
    if any(outcome.refused for outcome in outcomes):
        raise click.exceptions.Exit(console.EXIT_PROBLEMS_FOUND)
