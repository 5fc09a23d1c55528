"""`frontdesk db …`: put an existing database under Alembic, and remove its duplicates."""

import click

from app.cli import console
from app.database import adoption, migrations
from app.database.adoption import Finding


@click.group("db")
def db_commands() -> None:
    """Existing databases: put one under Alembic, remove its duplicates."""


@db_commands.command("adopt")
@click.option("--yes", is_flag=True, help="Stamp the database with the step that it matches.")
@console.json_option
def adopt_command(yes: bool, as_json: bool) -> None:
    """Say which step of the migrations a database matches, or exactly how it differs.

    For a database that Alembic does not know yet. Without --yes nothing is changed. With it, the database
    is stamped with the step that it matches, and `alembic upgrade head` finishes what is done in part.
    Exit code 1 when it differs: nothing is stamped then.
    """
    url = console.settings().migration_url()
    with migrations.connecting(url) as engine:
        if yes:
            with migrations.one_deploy_at_a_time(engine, wait=False), engine.connect() as connection:
                finding = adoption.adopt(connection)
        else:
            with engine.connect() as connection:
                finding = adoption.look(connection)
    if as_json:
        console.print_json(finding.as_dict())
    else:
        _print_finding(finding)
    if finding.state == "differs":
        raise click.exceptions.Exit(console.SOMETHING_IS_WRONG)


def _print_finding(finding: Finding) -> None:
    revision = finding.revision
    alike = f" (so does {', '.join(finding.same)}, which changes rows only)" if finding.same else ""
    said = {
        "adopted": f"Alembic knows this database already: it is at revision {revision}.",
        "empty": "There are no tables here: nothing to adopt.",
        "matches": f"The tables match revision {revision}{alike}.",
        "partly": f"The tables match revision {revision}, and later steps are done in places.",
        "differs": "The tables are those of no step"
        + (f"; the closest is {revision}. Differences:" if revision else ":"),
    }
    click.echo(said[finding.state])
    for line in finding.differences:
        click.echo(f"  {line}")
    if finding.later:
        click.echo(f"Otherwise than revision {revision} leaves it, which the upgrade takes care of:")
        for line in finding.later:
            click.echo(f"  {line}")
    if finding.left_alone:
        click.echo(f"Tables of others, left alone: {', '.join(finding.left_alone)}.")
    click.echo(_advice(finding))


def _advice(finding: Finding) -> str:
    if finding.state == "differs":
        return "Nothing was changed. Change what differs, and look again."
    if finding.state == "empty" or (finding.state == "adopted" and finding.revision != migrations.head()):
        return "Next: alembic upgrade head"
    if finding.state == "adopted":
        return "There is nothing to do."
    if finding.stamped:
        return f"Stamped {finding.revision}. Next: frontdesk db dedupe --dry-run, then alembic upgrade head"
    return f"Nothing was changed; `frontdesk db adopt --yes` stamps {finding.revision}."
