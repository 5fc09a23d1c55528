"""What stands in the way of a move although both schemas are alike: rights, settings, rows, triggers."""

from collections.abc import Iterator, Sequence
from typing import Any

import psycopg

from app.config import Settings
from app.database import connection_budget
from app.transfer.planning.findings import LEGACY, PRIMARY, Exclusions, PlanFinding
from app.transfer.protocol.tables import ALEMBIC_TABLE, SCHEMA, TableInfo

# Connections that the commands of a move take beside each other: a copy with two, the relay, one to look on.
NEEDED_CONNECTIONS = 4
LONG_TRANSACTION_SECONDS = 60  # seconds; `start` waits for transactions that have written
OLDEST_SERVER = 150_000

Connection = psycopg.Connection[Any]

_DATABASE = """
    SELECT has_database_privilege(current_database(), 'CREATE'),
        has_schema_privilege('public', 'USAGE'),
        pg_is_in_recovery(),
        (SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()),
        (SELECT count(*) FROM pg_largeobject_metadata),
        (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
            AND pid <> pg_backend_pid() AND xact_start < clock_timestamp() - make_interval(secs => %(long)s)),
        current_user
"""
_RIGHTS = """
    SELECT nspname || '.' || relname, pg_has_role(relowner, 'USAGE'),
        has_table_privilege(pg_class.oid, 'SELECT') AND has_table_privilege(pg_class.oid, 'INSERT')
            AND has_table_privilege(pg_class.oid, 'UPDATE') AND has_table_privilege(pg_class.oid, 'DELETE'),
        row_security_active(pg_class.oid),
        EXISTS (SELECT FROM pg_inherits WHERE inhrelid = pg_class.oid OR inhparent = pg_class.oid)
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE nspname || '.' || relname = ANY (%(tables)s) ORDER BY 1
"""
_TRIGGERS_AND_RULES = """
    SELECT nspname || '.' || relname, tgname, 'trigger'
    FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
    JOIN pg_namespace ON pg_namespace.oid = relnamespace JOIN pg_proc ON pg_proc.oid = tgfoid
    WHERE NOT tgisinternal AND tgenabled IN ('O', 'A')
        AND pronamespace IS DISTINCT FROM to_regnamespace(%(own)s)::oid
        AND nspname || '.' || relname = ANY (%(tables)s)
    UNION ALL
    SELECT schemaname || '.' || tablename, rulename, 'rule'
    FROM pg_rules WHERE schemaname || '.' || tablename = ANY (%(tables)s)
    ORDER BY 1, 2
"""
_LOCALE = """
    SELECT pg_encoding_to_char(encoding), datcollate, datctype, datlocprovider::text,
        datcollversion IS DISTINCT FROM pg_database_collation_actual_version(oid)
    FROM pg_database WHERE datname = current_database()
"""
_OLD_LOCALE = """
    SELECT pg_encoding_to_char(encoding), datcollate, datctype, 'c', false
    FROM pg_database WHERE datname = current_database()
"""


def check_side(
    connection: Connection,
    side: str,
    tables: Sequence[TableInfo],
    others: Sequence[TableInfo],
    left_out: Exclusions,
) -> Iterator[PlanFinding]:
    """What is in the way on one side. `others`: its tables that are not moved."""
    yield from _check_server(connection, side, left_out)
    for table in tables:
        for reason in table.problems():
            yield PlanFinding("table", table.name, side, reason, f"See above; on {side}.")
    yield from _check_privileges(connection, side, tables)
    yield from _check_foreign_keys(side, tables, others)
    parameters = {"own": SCHEMA, "tables": [table.name for table in tables]}
    for name, part, kind in connection.execute(_TRIGGERS_AND_RULES, parameters):
        if kind == "rule":
            advice = f'On {side}: DROP RULE "{part}" ON {name}.'
            yield PlanFinding(kind, f"{name}.{part}", side, "it would act when changes are replayed", advice)
        else:
            advice = "Nothing to do: it is switched off in the transactions that replay, and only there."
            yield PlanFinding(
                kind, f"{name}.{part}", side, "somebody's own trigger", advice, in_the_way=False
            )


def _check_server(connection: Connection, side: str, left_out: Exclusions) -> Iterator[PlanFinding]:
    database = connection.info.dbname
    row = connection.execute(_DATABASE, {"long": LONG_TRANSACTION_SECONDS}).fetchone()
    assert row is not None, "one row of functions"  # noqa: S101
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
        problem = f"{prepared} prepared transactions: their writes could slip past the capture"
        advice = "COMMIT PREPARED or ROLLBACK PREPARED each (SELECT * FROM pg_prepared_xacts)."
        yield PlanFinding("transaction", "prepared transactions", side, problem, advice)
    if large_objects and not left_out.excludes("large objects"):
        problem = f"{large_objects} large objects, which are not moved"
        advice = "Move them yourself, or leave them out: --leave-out 'large objects'."
        yield PlanFinding("table", "large objects", side, problem, advice)
    if long_running and side == LEGACY:
        problem = f"{long_running} transactions are older than {LONG_TRANSACTION_SECONDS} s: start waits for those that have written"
        advice = "SELECT pid, application_name, xact_start FROM pg_stat_activity ORDER BY xact_start"
        yield PlanFinding("transaction", "long transactions", side, problem, advice, in_the_way=False)
    if connection.info.server_version < OLDEST_SERVER:
        problem = f"PostgreSQL {connection.info.server_version // 10_000}: tried with 15 and newer"
        yield PlanFinding("server", database, side, problem, "Rehearse with a copy first.", in_the_way=False)


def _check_privileges(
    connection: Connection, side: str, tables: Sequence[TableInfo]
) -> Iterator[PlanFinding]:
    parameters = {"tables": [table.name for table in tables]}
    for name, owns, may_write, hides_rows, inherits in connection.execute(_RIGHTS, parameters):
        if not owns:
            advice = (
                f"Give {URL_VARIABLES[side]} the owner's role, or on {side}: ALTER TABLE {name} OWNER TO …"
            )
            yield PlanFinding("privilege", name, side, "only its owner can put triggers on it", advice)
        elif not may_write:
            advice = f"On {side}: GRANT SELECT, INSERT, UPDATE, DELETE ON {name} TO its owner."
            yield PlanFinding("privilege", name, side, "the role may not read and write it", advice)
        if hides_rows:
            advice = f"On {side}: ALTER TABLE {name} NO FORCE ROW LEVEL SECURITY, or a role with BYPASSRLS."
            yield PlanFinding("row security", name, side, "its policies may hide rows from the move", advice)
        if inherits:
            yield PlanFinding(
                "table", name, side, "it is part of an inheritance", "Detach it, or leave it out."
            )


URL_VARIABLES = {LEGACY: "LEGACY_DATABASE_URL", PRIMARY: "DATABASE_URL"}


def _check_foreign_keys(
    side: str, tables: Sequence[TableInfo], others: Sequence[TableInfo]
) -> Iterator[PlanFinding]:
    """Foreign keys between what is moved and what is not: the relay can keep neither end of them."""
    moved = {table.name for table in tables}
    for table in (*tables, *others):
        for key in table.foreign_keys:
            if (table.name in moved) != (key.parent in moved):
                problem = f"{key.name} refers to {key.parent}, and only one of the two is moved"
                drop = f"ALTER TABLE {table.name} DROP CONSTRAINT {key.name}"
                advice = f"Move both, or neither; or on {side}: {drop}"
                yield PlanFinding("constraint", f"{table.name}.{key.name}", side, problem, advice)


def check_connection_budget(connection: Connection, side: str, settings: Settings) -> Iterator[PlanFinding]:
    """Whether the services' connections and those of the move fit the server."""
    if settings.postgres_pooler:
        advice = (
            f"The pooler holds the services' connections; the move needs {NEEDED_CONNECTIONS} beside them."
        )
        yield PlanFinding(
            "connections", "pool", side, "not compared: there is a pooler", advice, in_the_way=False
        )
        return
    counted = connection_budget.measure(connection, settings, settings.web_concurrency)
    fits = counted.remaining >= NEEDED_CONNECTIONS
    advice = (
        "Nothing to do."
        if fits
        else "Lower POSTGRES_MAX_CONNECTIONS, SERVICE_COUNT or WEB_CONCURRENCY, or raise max_connections."
    )
    problem = f"{counted}; the move needs {NEEDED_CONNECTIONS}"
    yield PlanFinding("connections", "pool", side, problem, advice, in_the_way=not fits)


def compare_databases(legacy: Connection, primary: Connection) -> Iterator[PlanFinding]:
    """Revisions, encodings and locales of the two databases."""
    there, here = alembic_revision(legacy), alembic_revision(primary)
    if there != here or there is None:
        problem = f"legacy stands at {there or 'no revision'}, primary at {here or 'no revision'}"
        advice = "Run `alembic upgrade head` on both."
        yield PlanFinding("revision", ALEMBIC_TABLE, "both", problem, advice)
    (encoding, *locale, _), (other_encoding, *other_locale, _) = _locale(legacy), _locale(primary)
    if encoding != other_encoding:
        problem = f"legacy is encoded in {encoding}, primary in {other_encoding}"
        advice = f"Make primary's database anew: CREATE DATABASE … ENCODING '{encoding}' TEMPLATE template0"
        yield PlanFinding("collation", "encoding", "both", problem, advice)
    if locale != other_locale:
        problem = f"legacy sorts by {' '.join(locale)}, primary by {' '.join(other_locale)}"
        advice = (
            "Lists ordered by text may come in another order; nothing that Frontdesk keeps depends on it."
        )
        yield PlanFinding("collation", "locale", "both", problem, advice, in_the_way=False)
    for side, connection in ((LEGACY, legacy), (PRIMARY, primary)):
        if _locale(connection)[-1]:
            problem = "the system's collation has changed since the indexes were built"
            advice = f"On {side}: REINDEX DATABASE, then ALTER DATABASE … REFRESH COLLATION VERSION."
            yield PlanFinding("collation", "version", side, problem, advice, in_the_way=False)


def check_primary_is_empty(primary: Connection, tables: Sequence[TableInfo]) -> Iterator[PlanFinding]:
    """Rows that only primary has would be taken for rows that legacy has deleted."""
    for table in tables:
        if (
            may_read(primary, table.name)
            and primary.execute(f"SELECT FROM {table.identifier.as_string(None)} LIMIT 1").fetchone()
            is not None
        ):
            advice = f"If nobody needs them, on primary: TRUNCATE {table.name} CASCADE"
            yield PlanFinding(
                "table", table.name, PRIMARY, "it has rows already; the move needs it empty", advice
            )


def may_read(connection: Connection, table: str) -> bool:
    """Whether the role may read the table at all."""
    schema, _, name = table.partition(".")
    row = connection.execute(
        "SELECT has_table_privilege(format('%%I.%%I', %s::text, %s::text), 'SELECT')", (schema, name)
    )
    return row.fetchone() == (True,)


def alembic_revision(connection: Connection) -> str | None:
    """What Alembic has noted; None where it has not been."""
    if connection.execute("SELECT to_regclass(%s)", (ALEMBIC_TABLE,)).fetchone() == (None,):
        return None
    if not may_read(connection, ALEMBIC_TABLE):
        return "a revision that the role may not read"
    row = connection.execute(f"SELECT version_num FROM {ALEMBIC_TABLE}").fetchone()
    return row[0] if row else None


def _locale(connection: Connection) -> tuple[Any, ...]:
    is_old = connection.info.server_version < OLDEST_SERVER  # which does not know some of it
    (row,) = connection.execute(_OLD_LOCALE if is_old else _LOCALE).fetchall()
    return tuple(row)
