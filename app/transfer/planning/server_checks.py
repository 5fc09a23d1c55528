"""Checks for problems other than schema differences: privileges, server settings, existing rows, triggers."""

from collections.abc import Iterator, Sequence
from typing import Any

import psycopg

from app.config import Settings
from app.database import connection_budget
from app.database.alembic_revision import read_revision
from app.database.connection import Connection
from app.database.sql_files import read_queries
from app.transfer.planning.findings import LEGACY, PRIMARY, Exclusions, PlanFinding
from app.transfer.protocol.tables import ALEMBIC_TABLE, SCHEMA, TableInfo

# Connections to each side that the transfer's commands use at the same time: two for the copy, one for the
# relay, one for `status` and other commands.
NEEDED_CONNECTIONS = 4
LONG_TRANSACTION_SECONDS = 60  # older transactions are reported, because `start` waits for those with writes
OLDEST_SERVER = 150_000  # PostgreSQL 15, the oldest tested version, as in `server_version_num`


_QUERIES = read_queries(__package__, "server_checks.sql")


def check_side(
    connection: Connection,
    side: str,
    tables: Sequence[TableInfo],
    others: Sequence[TableInfo],
    left_out: Exclusions,
) -> Iterator[PlanFinding]:
    """Check one side: its server, tables, privileges, foreign keys, triggers and rules.

    Args:
        connection: A session on the side.
        side: LEGACY or PRIMARY.
        tables: The side's tables that are transferred.
        others: The side's tables that are not transferred.
        left_out: Objects to ignore; only large objects are looked up here.
    """
    yield from _check_server(connection, side, left_out)
    for table in tables:
        for reason in table.problems():
            yield PlanFinding("table", table.name, side, reason, f"Apply the remedy above on {side}.")
    yield from _check_privileges(connection, side, tables)
    yield from _check_foreign_keys(side, tables, others)
    parameters = {"own": SCHEMA, "tables": [table.name for table in tables]}
    for name, part, kind in connection.execute(_QUERIES["triggers_and_rules"], parameters):
        if kind == "rule":
            advice = f'On {side}: DROP RULE "{part}" ON {name}.'
            problem = "it would be applied to replayed changes"
            yield PlanFinding(kind, f"{name}.{part}", side, problem, advice)
        else:
            advice = "Nothing to do: it is disabled in the transactions that replay changes, and only there."
            yield PlanFinding(kind, f"{name}.{part}", side, "user-defined trigger", advice, in_the_way=False)


def _check_server(connection: Connection, side: str, left_out: Exclusions) -> Iterator[PlanFinding]:
    database = connection.info.dbname
    row = connection.execute(_QUERIES["database"], {"long": LONG_TRANSACTION_SECONDS}).fetchone()
    assert row is not None, "a SELECT without FROM returns one row"  # noqa: S101
    may_create, may_use, is_replica, prepared, large_objects, long_running, user = row
    if not may_create:
        advice = f'On {side}, as its owner: GRANT CREATE ON DATABASE "{database}" TO "{user}"'
        yield PlanFinding("privilege", database, side, "the role may not create a schema", advice)
    if not may_use:
        advice = f'On {side}: GRANT USAGE ON SCHEMA public TO "{user}"'
        yield PlanFinding("privilege", "public", side, "the role may not use the schema", advice)
    if is_replica:
        yield PlanFinding(
            "server", database, side, "it is a read-only replica", "Name its primary server in the URL."
        )
    if prepared:
        problem = f"{prepared} prepared transactions, whose writes may not be captured"
        advice = "COMMIT PREPARED or ROLLBACK PREPARED each of them (SELECT * FROM pg_prepared_xacts)."
        yield PlanFinding("transaction", "prepared transactions", side, problem, advice)
    if large_objects and not left_out.excludes("large objects"):
        problem = f"{large_objects} large objects, which are not transferred"
        advice = "Copy them by other means, or leave them out: --leave-out 'large objects'."
        yield PlanFinding("table", "large objects", side, problem, advice)
    if long_running and side == LEGACY:
        problem = (
            f"{long_running} transactions are older than {LONG_TRANSACTION_SECONDS} s:"
            " start waits for transactions with writes"
        )
        advice = "SELECT pid, application_name, xact_start FROM pg_stat_activity ORDER BY xact_start"
        yield PlanFinding("transaction", "long transactions", side, problem, advice, in_the_way=False)
    if connection.info.server_version < OLDEST_SERVER:
        problem = f"PostgreSQL {connection.info.server_version // 10_000} is not tested; 15 and newer are"
        advice = "Rehearse the transfer with a copy of the database first."
        yield PlanFinding("server", database, side, problem, advice, in_the_way=False)


def _check_privileges(
    connection: Connection, side: str, tables: Sequence[TableInfo]
) -> Iterator[PlanFinding]:
    parameters = {"tables": [table.name for table in tables]}
    for name, owns, may_write, hides_rows, inherits in connection.execute(_QUERIES["rights"], parameters):
        if not owns:
            advice = (
                f"Use the owner's role in {URL_VARIABLES[side]}, or on {side}: ALTER TABLE {name} OWNER TO …"
            )
            yield PlanFinding("privilege", name, side, "only its owner can create triggers on it", advice)
        elif not may_write:
            advice = f"On {side}: GRANT SELECT, INSERT, UPDATE, DELETE ON {name} TO its owner."
            yield PlanFinding("privilege", name, side, "the role may not read and write it", advice)
        if hides_rows:
            advice = f"On {side}: ALTER TABLE {name} NO FORCE ROW LEVEL SECURITY, or a role with BYPASSRLS."
            problem = "its policies may hide rows from the transfer"
            yield PlanFinding("row security", name, side, problem, advice)
        if inherits:
            problem = "it has a parent or child table (inheritance or partitioning)"
            yield PlanFinding("table", name, side, problem, "Detach it, or leave it out.")


URL_VARIABLES = {LEGACY: "LEGACY_DATABASE_URL", PRIMARY: "DATABASE_URL"}


def _check_foreign_keys(
    side: str, tables: Sequence[TableInfo], others: Sequence[TableInfo]
) -> Iterator[PlanFinding]:
    """Find foreign keys between transferred and other tables. The relay cannot keep them valid."""
    moved = {table.name for table in tables}
    for table in (*tables, *others):
        for key in table.foreign_keys:
            if (table.name in moved) != (key.parent in moved):
                problem = f"{key.name} refers to {key.parent}, and only one of the two tables is transferred"
                drop = f"ALTER TABLE {table.name} DROP CONSTRAINT {key.name}"
                advice = f"Transfer both tables, or neither; or on {side}: {drop}"
                yield PlanFinding("constraint", f"{table.name}.{key.name}", side, problem, advice)


def check_connection_budget(connection: Connection, side: str, settings: Settings) -> Iterator[PlanFinding]:
    """Check that the server has enough connections for the services and the transfer together."""
    if settings.postgres_pooler:
        advice = (
            "Make sure that the server has free connections beside the pooler's:"
            f" the transfer needs {NEEDED_CONNECTIONS}."
        )
        problem = "not checked: the services use a pooler"
        yield PlanFinding("connections", "pool", side, problem, advice, in_the_way=False)
        return
    counted = connection_budget.measure(connection, settings, settings.web_concurrency)
    fits = counted.remaining >= NEEDED_CONNECTIONS
    advice = (
        "Nothing to do."
        if fits
        else "Lower POSTGRES_MAX_CONNECTIONS, SERVICE_COUNT or WEB_CONCURRENCY, or raise max_connections."
    )
    problem = f"{counted}; the transfer needs {NEEDED_CONNECTIONS}"
    yield PlanFinding("connections", "pool", side, problem, advice, in_the_way=not fits)


def compare_databases(legacy: Connection, primary: Connection) -> Iterator[PlanFinding]:
    """Compare the Alembic revisions, encodings, locales and collation versions of the two databases."""
    legacy_revision, primary_revision = alembic_revision(legacy), alembic_revision(primary)
    if legacy_revision != primary_revision or legacy_revision is None:
        problem = (
            f"legacy is at {legacy_revision or 'no revision'}, primary at {primary_revision or 'no revision'}"
        )
        advice = "Run `alembic upgrade head` on both."
        yield PlanFinding("revision", ALEMBIC_TABLE, "both", problem, advice)
    (encoding, *locale, _), (other_encoding, *other_locale, _) = _locale(legacy), _locale(primary)
    if encoding != other_encoding:
        problem = f"the encoding of legacy is {encoding}, that of primary is {other_encoding}"
        advice = f"Create primary again: CREATE DATABASE … ENCODING '{encoding}' TEMPLATE template0"
        yield PlanFinding("collation", "encoding", "both", problem, advice)
    if locale != other_locale:
        problem = f"the locale of legacy is {' '.join(locale)}, that of primary is {' '.join(other_locale)}"
        advice = (
            "Nothing to do: lists sorted by text may change their order; stored data does not depend on it."
        )
        yield PlanFinding("collation", "locale", "both", problem, advice, in_the_way=False)
    for side, connection in ((LEGACY, legacy), (PRIMARY, primary)):
        if _locale(connection)[-1]:
            problem = "the system's collation version differs from the version recorded for the database"
            advice = f"On {side}: REINDEX DATABASE, then ALTER DATABASE … REFRESH COLLATION VERSION."
            yield PlanFinding("collation", "version", side, problem, advice, in_the_way=False)


def check_primary_is_empty(primary: Connection, tables: Sequence[TableInfo]) -> Iterator[PlanFinding]:
    """Yield a finding for each table of primary that has rows.

    Rows that only primary has look like rows that were deleted on legacy.
    """
    for table in tables:
        if (
            may_read(primary, table.name)
            and primary.execute(f"SELECT FROM {table.identifier.as_string(None)} LIMIT 1").fetchone()
            is not None
        ):
            advice = f"If the rows are not needed, on primary: TRUNCATE {table.name} CASCADE"
            problem = "it has rows already; the transfer needs it empty"
            yield PlanFinding("table", table.name, PRIMARY, problem, advice)


def may_read(connection: Connection, table: str) -> bool:
    """Return True if the role has the SELECT privilege on the table, a qualified name."""
    schema, _, name = table.partition(".")
    row = connection.execute(
        "SELECT has_table_privilege(format('%%I.%%I', %s::text, %s::text), 'SELECT')", (schema, name)
    )
    return row.fetchone() == (True,)


def alembic_revision(connection: Connection) -> str | None:
    """Return the database's Alembic revision, or None if it has none.

    If the role may not read the Alembic table, return a text that says this.
    """
    try:
        with connection.transaction():
            return read_revision(connection.execute, ALEMBIC_TABLE)
    except psycopg.errors.InsufficientPrivilege:
        return "a revision that the role may not read"


def _locale(connection: Connection) -> tuple[Any, ...]:
    # Servers before PostgreSQL 15 have neither datlocprovider nor datcollversion.
    is_old = connection.info.server_version < OLDEST_SERVER
    (row,) = connection.execute(_QUERIES["old_locale"] if is_old else _QUERIES["locale"]).fetchall()
    return tuple(row)
