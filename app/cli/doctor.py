"""`frontdesk doctor`: check configuration, database, schema and backups, and suggest remedies."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from enum import StrEnum

import click
import psycopg
from rich.markup import escape
from rich.table import Table

from app.backup import run_log
from app.backup.freshness import check_freshness
from app.cli import console
from app.config import Settings
from app.database import connection_budget, embedded_server, integrity_checks
from app.database.alembic_revision import read_revision
from app.database.connection import CLIENT_ENCODING, Connection, connect_directly
from app.database.database import Database
from app.database.live_database import LiveDatabase
from app.database.side_state import SideName
from app.errors import ConfigurationError, FrontdeskError
from app.migrations import runner
from app.migrations.runner import SchemaState
from app.observability import sentry
from app.repositories import server_activity

STATEMENT_TIMEOUT_MS = 30_000  # long, because the checks read the highest id of every table
MIN_SERVER_VERSION_NUM = 150_000  # PostgreSQL 15


class CheckStatus(StrEnum):
    """Verdict of one check. Only `wrong` makes the verdict of the whole command wrong."""

    OK = "ok"
    WARNING = "warning"
    WRONG = "wrong"
    SKIPPED = "skipped"


STYLES = {
    CheckStatus.OK: "green",
    CheckStatus.WARNING: "yellow",
    CheckStatus.WRONG: "bold red",
    CheckStatus.SKIPPED: "dim",
}


@dataclass(frozen=True)
class Check:
    """Result of one check: its subject, the verdict, the finding, and the remedy if there is a problem."""

    name: str
    verdict: CheckStatus
    found: str
    advice: str = ""


@click.command("doctor")
@console.json_option
@click.pass_context
def doctor_command(ctx: click.Context, as_json: bool) -> None:
    """Check configuration, database, schema and backups, and suggest remedies.

    It changes nothing. Exit codes: 0 no problem (warnings do not count), 1 a check found a problem,
    2 the configuration is wrong, 3 the database cannot be reached.
    """
    checks, exit_code = run_checks()
    if as_json:
        wrong = any(check.verdict is CheckStatus.WRONG for check in checks)
        console.print_json(
            {
                "verdict": CheckStatus.WRONG if wrong else CheckStatus.OK,
                "checks": [asdict(check) for check in checks],
            }
        )
    else:
        _print(checks)
    ctx.exit(exit_code)


def run_checks() -> tuple[list[Check], int]:
    """Run all checks that are possible; return their results and the exit code."""
    try:
        settings = console.load_settings()
    except ConfigurationError as error:
        first, *problems = error.message.splitlines()
        advice = "Correct the environment (or the file in SECRETS_DIR) and run this again."
        wrong = [
            Check("configuration", CheckStatus.WRONG, problem, advice) for problem in problems or [first]
        ]
        return wrong, console.WrongUsage.exit_code
    checks = list(_check_settings(settings))
    live = _find_live_database(settings)
    if isinstance(live, Check):
        return [*checks, live], console.WrongUsage.exit_code
    database, transfer_checks = live
    checks += transfer_checks
    try:
        connection = database.connect_outside_pool(STATEMENT_TIMEOUT_MS)
    except psycopg.OperationalError as error:
        reason = " ".join(str(error).split())  # libpq's message: host, user and reason
        advice = "Check that the server is running and that DATABASE_URL is right."
        return [
            *checks,
            Check("connection", CheckStatus.WRONG, reason, advice),
        ], console.CouldNotRun.exit_code
    with closing(connection):
        try:
            checks += _check_database(connection, settings)
        except psycopg.Error as error:
            reason = f"the checks were aborted by a database error (SQLSTATE {error.sqlstate})"
            checks.append(Check("database", CheckStatus.WRONG, reason, "See the log of the server."))
            return checks, console.CouldNotRun.exit_code
    checks += _check_direct_connection(settings)
    is_wrong = any(check.verdict is CheckStatus.WRONG for check in checks)
    return checks, console.EXIT_PROBLEMS_FOUND if is_wrong else 0


def _check_settings(settings: Settings) -> Iterator[Check]:
    yield Check("configuration", CheckStatus.OK, f"{settings.environment}, service {settings.service_name}")
    for unsafe in settings.warnings():
        yield Check(unsafe.setting, CheckStatus.WARNING, unsafe.reason, unsafe.remedy)
    if settings.sentry_dsn is None or not settings.sentry_enabled:
        yield Check("sentry", CheckStatus.OK, "off: failures are logged only")
    elif sentry.is_initialised():
        yield Check("sentry", CheckStatus.OK, "failures are sent to Sentry")
    else:
        advice = "Copy the DSN again from the settings of the Sentry project."
        yield Check("sentry", CheckStatus.WARNING, "SENTRY_DSN is not a valid DSN", advice)


def _find_live_database(settings: Settings) -> tuple[Database, list[Check]] | Check:
    """Return the database to check and the checks of which side is live.

    Returns a single Check with the problem if no database can be used.
    """
    if settings.legacy_database_url is None:
        return Database(settings, embedded_server.resolve_database_url(settings)), []
    pin = settings.transfer_pin
    with closing(LiveDatabase(settings)) as database:
        live: SideName | None = None
        try:
            database.live()
            live = database.live_name
        except FrontdeskError as error:
            if pin is None and isinstance(error, ConfigurationError):
                return Check("live database", CheckStatus.WRONG, error.message)
        checked = database.sides[pin or live or "primary"]
    if live is None:
        found = f"unknown{f'; this process is pinned to {pin}' if pin else ''}"
        advice = "Make both servers reachable. After a finished transfer, unset LEGACY_DATABASE_URL."
        return checked, [Check("live database", CheckStatus.WARNING, found, advice)]
    if pin is None or pin == live:
        return checked, [Check("live database", CheckStatus.OK, f"{live}{', pinned' if pin else ''}")]
    advice = "Unset TRANSFER_PIN: writes of this process are rejected, and its reads may be outdated."
    found = f"{live}, but this process is pinned to {pin}"
    return checked, [Check("live database", CheckStatus.WRONG, found, advice)]


def _check_database(connection: Connection, settings: Settings) -> Iterator[Check]:
    version = connection.info.server_version
    encoding = connection.info.parameter_status("server_encoding")
    yield Check(
        "connection",
        CheckStatus.OK if version >= MIN_SERVER_VERSION_NUM else CheckStatus.WARNING,
        f"PostgreSQL {version // 10_000}.{version % 10_000} responds",
        ""
        if version >= MIN_SERVER_VERSION_NUM
        else "Frontdesk is tested with PostgreSQL 15 and newer: upgrade the server.",
    )
    yield Check(
        "encoding",
        CheckStatus.OK if encoding == CLIENT_ENCODING else CheckStatus.WARNING,
        f"the database is encoded in {encoding}",
        ""
        if encoding == CLIENT_ENCODING
        else "Rows with characters outside this encoding are rejected. Copy the data to a database in UTF8:"
        " pg_dump, CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0, pg_restore.",
    )
    read_only = server_activity.is_read_only(connection)
    yield Check(
        "writes",
        CheckStatus.WRONG if read_only else CheckStatus.OK,
        "the database is read-only" if read_only else "the database accepts writes",
        "Promote the server if it is a standby. Otherwise it was set to read-only: providers do this when"
        " the disk is full."
        if read_only
        else "",
    )
    yield _check_connection_budget(connection, settings)
    yield _check_schema(connection)
    yield _check_list(
        "constraints",
        "all validated",
        "not validated",
        [f"{name} of {table}" for table, name in integrity_checks.invalid_constraints(connection)],
        "Run `alembic upgrade head` again, or ALTER TABLE … VALIDATE CONSTRAINT …",
    )
    yield _check_list(
        "indexes",
        "all valid",
        "not valid",
        [f"{name} of {table}" for table, name in integrity_checks.invalid_indexes(connection)],
        "Their build did not finish. Run `alembic upgrade head` again, or DROP INDEX CONCURRENTLY …",
    )
    yield _check_list(
        "sequences",
        "none behind its table",
        "behind their tables",
        [
            f"{lag.sequence} by {lag.behind} for {lag.table}.{lag.column}"
            for lag in integrity_checks.lagging_sequences(connection)
        ],
        "Inserts fail with duplicate ids. Run SELECT setval('sequence', (SELECT max(column) FROM table))",
    )
    yield from _check_backups(connection, settings)


def _check_backups(connection: Connection, settings: Settings) -> Iterator[Check]:
    if connection.execute("SELECT to_regclass('backup_runs')").fetchone() == (None,):
        yield Check("backup", CheckStatus.SKIPPED, "unknown until the schema is at head")
        return
    for age in check_freshness(run_log.query_summary(connection), settings):
        if age.is_overdue:
            yield Check(age.name, CheckStatus.WRONG, str(age), age.remedy)
        elif age.last_at is not None:
            yield Check(age.name, CheckStatus.OK, str(age))
        elif age.is_missing:
            yield Check(age.name, CheckStatus.WARNING, str(age), age.remedy)
        else:
            yield Check(age.name, CheckStatus.SKIPPED, str(age))


def _check_connection_budget(connection: Connection, settings: Settings) -> Check:
    if settings.postgres_pooler:
        found = "not checked with a pooler: compare its pool_size with the server's max_connections"
        return Check("pool budget", CheckStatus.SKIPPED, found)
    counted = connection_budget.measure(connection, settings, settings.web_concurrency)
    if counted.fits:
        return Check("pool budget", CheckStatus.OK, str(counted))
    advice = "Lower POSTGRES_MAX_CONNECTIONS, SERVICE_COUNT or WEB_CONCURRENCY, or raise max_connections."
    return Check("pool budget", CheckStatus.WRONG, str(counted), advice)


def _check_schema(connection: Connection) -> Check:
    revision = read_revision(connection.execute)
    match runner.schema_state_at(revision):
        case SchemaState.AT_HEAD:
            return Check("schema", CheckStatus.OK, f"at head ({revision})")
        case SchemaState.UNKNOWN:
            advice = "The database is newer than this code: deploy the release that migrated it."
            return Check("schema", CheckStatus.WRONG, f"at {revision}, which this code does not know", advice)
        case _:
            found = f"at {revision or 'no revision'}, head is {runner.revisions()[0]}"
            return Check("schema", CheckStatus.WRONG, found, "Run `alembic upgrade head`.")


def _check_direct_connection(settings: Settings) -> Iterator[Check]:
    """Check the connection of DIRECT_DATABASE_URL, which bypasses the pooler, if it is set."""
    if settings.direct_database_url is None:
        return
    try:
        connect_directly(settings).close()
    except psycopg.OperationalError as error:
        reason = " ".join(str(error).split())
        advice = "Check DIRECT_DATABASE_URL: migrations and session locks need it."
        yield Check("direct connection", CheckStatus.WRONG, reason, advice)
    else:
        yield Check("direct connection", CheckStatus.OK, "the server responds")


def _check_list(name: str, good: str, bad: str, names: list[str], advice: str) -> Check:
    if not names:
        return Check(name, CheckStatus.OK, good)
    return Check(name, CheckStatus.WRONG, f"{bad}: {', '.join(names)}", advice)


def _print(checks: list[Check]) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(3):
        table.add_column()
    for check in checks:
        text = escape(check.found) + (f"\n[bold]{escape(check.advice)}[/]" if check.advice else "")
        table.add_row(f"[{STYLES[check.verdict]}]{check.verdict}[/]", escape(check.name), text)
    console.screen().print(table)
