"""`frontdesk testdata …`: count and delete test data in a live database."""

import click

from app.cli import console
from app.maintenance import test_data
from app.schemas.types import MAX_ID

_one_company = click.option(
    "--company", "company_id", type=click.IntRange(1, MAX_ID), help="This company only (YClients id)."
)


@click.group("testdata")
def testdata_commands() -> None:
    """Count and delete test data in a live database.

    Test data are clients and bookings whose name begins with [TEST and whose phone is one of TEST_PHONES.
    """


@testdata_commands.command("stats")
@_one_company
@console.json_option
def stats_command(company_id: int | None, as_json: bool) -> None:
    """Count test data, and rows with only one of the markers (name, phone), which are never deleted."""
    with console.opened_desk() as desk:
        counts = test_data.stats(desk.database.live().settings, company_id)
    if as_json:
        console.print_json({"tables": counts})
        return
    for table, markers in counts.items():
        click.echo(
            f"{table}: {markers['marked']:,} rows of test data; {markers['name_only']:,} rows with only the"
            f" name marked, {markers['phone_only']:,} with only the phone"
        )


@testdata_commands.command("clean")
@_one_company
@click.option("--yes", is_flag=True, help="Delete the rows. Without this option nothing is changed.")
@click.option("--dry-run", is_flag=True, help="Count the rows that would be deleted. The default.")
@click.option(
    "--limit",
    type=click.IntRange(1, 1_000_000),
    default=test_data.DEFAULT_LIMIT,
    show_default=True,
    help="Maximum number of rows to delete from each table.",
)
@console.json_option
def clean_command(company_id: int | None, yes: bool, dry_run: bool, limit: int, as_json: bool) -> None:
    """Delete test data: bookings with their services and slots, then clients without bookings.

    Clients with bookings that are not test data stay. Without --yes nothing is changed.
    """
    if yes and dry_run:
        raise console.WrongUsage("Give either --yes or --dry-run.")
    with console.opened_desk() as desk:
        result = test_data.clean(desk.database.live().settings, company_id, limit, dry_run=not yes)
    if as_json:
        console.print_json(
            {"dry_run": not yes, "limit": limit, "deleted": result.deleted, "left": result.remaining}
        )
        return
    done = "deleted" if yes else "would be deleted"
    for table, count in result.deleted.items():
        click.echo(f"{table}: {count:,} {done}")
    for table, count in result.remaining.items():
        if count:
            click.echo(f"{table}: {count:,} left: above the limit, or with bookings that are not test data")
    if not yes:
        click.echo("Nothing was changed. Use --yes to delete.")
