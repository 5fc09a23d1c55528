"""`frontdesk doctor`: look at everything that can be wrong, and say what to do."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from enum import StrEnum

import click
import psycopg
from rich.markup import escape
from rich.table import Table

from app.backup import run_log
from app.backup.freshness import ages
from app.cli import console
from app.config import Settings
from app.database import connection_budget, embedded_server, integrity_checks
from app.database.connection import UTF8, connect_directly
from app.database.database import Connection, Database
from app.database.live_database import MovingDatabase
from app.database.side_state import Name
from app.errors import ConfigurationError, FrontdeskError
from app.migrations import runner
from app.migrations.runner import SchemaState
from app.observability import sentry
from app.repositories import server_activity

PATIENCE = 30_000  # milliseconds for a statement: the checks read each table's highest id
OLDEST_SERVER = 150_000


class Verdict(StrEnum):
    """How one check ended; only `wrong` makes the whole wrong."""

    OK = "ok"
    WARNING = "warning"
    WRONG = "wrong"
    SKIPPED = "skipped"


STYLES = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.WRONG: "bold red", Verdict.SKIPPED: "dim"}


@dataclass(frozen=True)
class Check:
    """What was looked at, how it is, and what to do about it."""

    name: str
    verdict: Verdict
    found: str
    advice: str = ""


@click.command("doctor")
@console.json_option
@click.pass_context
def doctor_command(ctx: click.Context, as_json: bool) -> None:
    """Look at everything that can be wrong, and say what to do.

    It changes nothing. Exit codes: 0 all well (warnings do not count), 1 something is wrong,
    2 the configuration is wrong, 3 the database cannot be reached.
    """
    found, exit_code = examine()
    if as_json:
        wrong = any(check.verdict is Verdict.WRONG for check in found)
        console.print_json(
            {
                "verdict": Verdict.WRONG if wrong else Verdict.OK,
                "checks": [asdict(check) for check in found],
            }
        )
    else:
        _print(found)
    ctx.exit(exit_code)


def examine() -> tuple[list[Check], int]:
    """All checks, as far as they are possible, and the exit code."""
    try:
        settings = console.settings()
    except ConfigurationError as error:
        first, *problems = error.message.splitlines()
        advice = "Correct the environment (or the file in SECRETS_DIR) and run this again."
        wrong = [Check("configuration", Verdict.WRONG, problem, advice) for problem in problems or [first]]
        return wrong, console.WrongUsage.exit_code
    found = list(_of_settings(settings))
    live = _live(settings)
    if isinstance(live, Check):
        return [*found, live], console.WrongUsage.exit_code
    database, checks_of_move = live
    found += checks_of_move
    try:
        connection = database.connect_alone(PATIENCE)
    except psycopg.OperationalError as error:
        reason = " ".join(str(error).split())  # libpq's words: host, user and reason
        advice = "Check that the server runs, and DATABASE_URL."
        return [*found, Check("connection", Verdict.WRONG, reason, advice)], console.CouldNotRun.exit_code
    with closing(connection):
        try:
            found += _of_database(connection, settings)
        except psycopg.Error as error:
            reason = f"the checks were broken off (SQLSTATE {error.sqlstate})"
            found.append(Check("database", Verdict.WRONG, reason, "Look into the server's log."))
            return found, console.CouldNotRun.exit_code
    found += _of_way_round(settings)
    is_wrong = any(check.verdict is Verdict.WRONG for check in found)
    return found, console.SOMETHING_IS_WRONG if is_wrong else 0


def _of_settings(settings: Settings) -> Iterator[Check]:
    yield Check("configuration", Verdict.OK, f"{settings.environment}, service {settings.service_name}")
    for unsafe in settings.warnings():
        yield Check(unsafe.setting, Verdict.WARNING, unsafe.reason, unsafe.advice)
    if settings.sentry_dsn is None or not settings.sentry_enabled:
        yield Check("sentry", Verdict.OK, "off: failures are told to the log alone")
    elif sentry.is_started():
        yield Check("sentry", Verdict.OK, "failures are reported")
    else:
        yield Check("sentry", Verdict.WARNING, "SENTRY_DSN is not an address of Sentry", "Copy it again.")


def _live(settings: Settings) -> tuple[Database, list[Check]] | Check:
    """The database to look at, and what there is to say of which is live; a Check where none can be used."""
    if settings.legacy_database_url is None:
        return Database(settings, embedded_server.url_of(settings)), []
    pin = settings.transfer_pin
    with closing(MovingDatabase(settings)) as database:
        live: Name | None = None
        try:
            database.live()
            live = database.name
        except FrontdeskError as error:
            if pin is None and isinstance(error, ConfigurationError):
                return Check("live database", Verdict.WRONG, error.message)
        looked_at = database.both[pin or live or "primary"]
    if live is None:
        found = f"not known{f'; this process is pinned to {pin}' if pin else ''}"
        advice = "Both servers have to answer. After a finished move, unset LEGACY_DATABASE_URL."
        return looked_at, [Check("live database", Verdict.WARNING, found, advice)]
    if pin is None or pin == live:
        return looked_at, [Check("live database", Verdict.OK, f"{live}{', pinned' if pin else ''}")]
    advice = "Unset TRANSFER_PIN: what this process writes is refused, and what it reads may be old."
    found = f"{live}, and this process is pinned to {pin}"
    return looked_at, [Check("live database", Verdict.WRONG, found, advice)]


def _of_database(connection: Connection, settings: Settings) -> Iterator[Check]:
    version = connection.info.server_version
    encoding = connection.info.parameter_status("server_encoding")
    yield Check(
        "connection",
        Verdict.OK if version >= OLDEST_SERVER else Verdict.WARNING,
        f"PostgreSQL {version // 10_000}.{version % 10_000} answers",
        "" if version >= OLDEST_SERVER else "Frontdesk is tested with PostgreSQL 15 and newer: upgrade.",
    )
    yield Check(
        "encoding",
        Verdict.OK if encoding == UTF8 else Verdict.WARNING,
        f"the database is encoded in {encoding}",
        ""
        if encoding == UTF8
        else "Rows with letters that it does not have are refused. Take its data to a database in UTF8:"
        " pg_dump, CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0, pg_restore.",
    )
    read_only = server_activity.is_read_only(connection)
    yield Check(
        "writes",
        Verdict.WRONG if read_only else Verdict.OK,
        "the database is read-only" if read_only else "the database takes them",
        "It is a standby that nobody promoted, or was set so; providers do that when the disk is full."
        if read_only
        else "",
    )
    yield _budget(connection, settings)
    yield _schema(connection)
    yield _none_of(
        "constraints",
        "not validated",
        [f"{name} of {table}" for table, name in integrity_checks.invalid_constraints(connection)],
        "Run `alembic upgrade head` again, or ALTER TABLE … VALIDATE CONSTRAINT …",
    )
    yield _none_of(
        "indexes",
        "not valid",
        [f"{name} of {table}" for table, name in integrity_checks.invalid_indexes(connection)],
        "A build did not finish. Run `alembic upgrade head` again, or DROP INDEX CONCURRENTLY …",
    )
    yield _none_of(
        "sequences",
        "behind their tables",
        [
            f"{lag.sequence} by {lag.behind} for {lag.table}.{lag.column}"
            for lag in integrity_checks.lagging_sequences(connection)
        ],
        "Inserts fail until it has caught up: SELECT setval('sequence', (SELECT max(column) FROM table))",
    )
    yield from _backups(connection, settings)


def _backups(connection: Connection, settings: Settings) -> Iterator[Check]:
    if connection.execute("SELECT to_regclass('backup_runs')").fetchone() == (None,):
        yield Check("backup", Verdict.SKIPPED, "not known before the schema is at head")
        return
    for age in ages(run_log.last(connection), settings):
        if age.is_overdue:
            yield Check(age.what, Verdict.WRONG, str(age), age.advice)
        elif age.at is not None:
            yield Check(age.what, Verdict.OK, str(age))
        elif age.is_missed:
            yield Check(age.what, Verdict.WARNING, str(age), age.advice)
        else:
            yield Check(age.what, Verdict.SKIPPED, str(age))


def _budget(connection: Connection, settings: Settings) -> Check:
    if settings.postgres_pooler:
        found = "the pooler holds the server's connections: compare its pool_size with max_connections"
        return Check("pool budget", Verdict.SKIPPED, found)
    counted = connection_budget.measure(connection, settings, settings.web_concurrency)
    if counted.fits:
        return Check("pool budget", Verdict.OK, str(counted))
    advice = "Lower POSTGRES_MAX_CONNECTIONS, SERVICE_COUNT or WEB_CONCURRENCY, or raise max_connections."
    return Check("pool budget", Verdict.WRONG, str(counted), advice)


def _schema(connection: Connection) -> Check:
    known = connection.execute("SELECT to_regclass('alembic_version') IS NOT NULL").fetchone()
    revision = None
    if known == (True,):
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        revision = row[0] if row else None
    match runner.standing(revision):
        case SchemaState.AT_HEAD:
            return Check("schema", Verdict.OK, f"at head ({revision})")
        case SchemaState.UNKNOWN:
            advice = "The database is newer than this code: deploy the code that belongs to it."
            return Check("schema", Verdict.WRONG, f"at {revision}, which this code does not know", advice)
        case _:
            found = f"at {revision or 'no revision'}, head is {runner.revisions()[0]}"
            return Check("schema", Verdict.WRONG, found, "Run `alembic upgrade head`.")


def _of_way_round(settings: Settings) -> Iterator[Check]:
    """The way past the pooler, where there is one."""
    if settings.direct_database_url is None:
        return
    try:
        connect_directly(settings).close()
    except psycopg.OperationalError as error:
        reason = " ".join(str(error).split())
        advice = "Check DIRECT_DATABASE_URL: migrations and session locks need it."
        yield Check("direct connection", Verdict.WRONG, reason, advice)
    else:
        yield Check("direct connection", Verdict.OK, "answers")


def _none_of(name: str, state: str, found: list[str], advice: str) -> Check:
    if not found:
        return Check(name, Verdict.OK, f"none {state}")
    return Check(name, Verdict.WRONG, f"{state}: {', '.join(found)}", advice)


def _print(found: list[Check]) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(3):
        table.add_column()
    for check in found:
        text = escape(check.found) + (f"\n[bold]{escape(check.advice)}[/]" if check.advice else "")
        table.add_row(f"[{STYLES[check.verdict]}]{check.verdict}[/]", escape(check.name), text)
    console.screen().print(table)
