"""The `plan` command: compare both sides, and estimate size and duration of a transfer. It is read-only."""

import time
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

from psycopg import sql

from app.config import Settings
from app.database.connection import Connection
from app.errors import InvalidInputError
from app.transfer.planning import catalog, schema_diff, server_checks
from app.transfer.planning.findings import BOTH, LEGACY, PRIMARY, Exclusions, PlanFinding
from app.transfer.protocol import control_schema
from app.transfer.protocol.endpoints import Sides, require_different_databases
from app.transfer.protocol.tables import (
    ALEMBIC_TABLE,
    SCHEMA,
    TableInfo,
    read_tables,
    select_tables,
    sort_parents_first,
    transfer_tables,
)

# Write rate that was measured on a small server, with indexes and foreign keys to maintain.
WRITE_BYTES_PER_SECOND = 15_000_000
SAMPLE_BLOCKS = 256  # blocks of the largest table, read to measure legacy's read rate
ASSUMED_COPY_JOBS = 2  # parallel connections for the estimate of the copy time

_SIZES = """
    SELECT nspname || '.' || relname,
        CASE WHEN reltuples < 0 THEN pg_stat_get_live_tuples(pg_class.oid) ELSE reltuples END::bigint,
        pg_table_size(pg_class.oid), pg_total_relation_size(pg_class.oid)
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE nspname || '.' || relname = ANY (%(tables)s)
"""


@dataclass(frozen=True)
class TableSize:
    """The size of a transferred table on legacy."""

    name: str
    rows: int  # estimated by the server's statistics
    bytes: int  # without indexes
    total_bytes: int  # with indexes
    seconds: float  # estimated copy time on one connection


@dataclass(frozen=True)
class SideSummary:
    """The server, database and role of one side."""

    name: str
    version: str  # for example 18.4
    database: str
    role: str
    bytes: int  # size of the whole database


@dataclass(frozen=True)
class Plan:
    """The result of `plan`: the tables to transfer, their sizes, and the findings."""

    transfer_tables: tuple[TableInfo, ...]  # parents before children
    sides: tuple[SideSummary, ...]
    tables: tuple[TableSize, ...]
    findings: tuple[PlanFinding, ...]
    left_out: tuple[str, ...]  # names of the objects that the operator left out
    is_started: bool  # `start` has already set up legacy
    seconds: float  # rough estimate of the copy time

    @property
    def blocking_findings(self) -> list[PlanFinding]:
        """The findings that must be resolved before `start`."""
        return [finding for finding in self.findings if finding.in_the_way]

    def as_dict(self) -> dict[str, Any]:
        """Return the plan for JSON output."""
        return {
            "ready": not self.blocking_findings,
            "started": self.is_started,
            "sides": [asdict(side) for side in self.sides],
            "tables": [asdict(table) for table in self.tables],
            "rows": sum(table.rows for table in self.tables),
            "bytes": sum(table.total_bytes for table in self.tables),
            "seconds": self.seconds,
            "in_the_way": [asdict(finding) for finding in self.blocking_findings],
            "good_to_know": [asdict(finding) for finding in self.findings if not finding.in_the_way],
            "left_out": list(self.left_out),
        }


def make_plan(
    sides: Sides, settings: Settings, include: Collection[str] = (), leave_out: Collection[str] = ()
) -> Plan:
    """Connect to both sides and compare them. Changes nothing.

    Args:
        sides: The two databases.
        settings: The services' settings, for the check of the connection budget.
        include: Tables outside Frontdesk's models that are transferred as well, for example `public.extra`.
        leave_out: Names or patterns of other objects to ignore: tables, views, functions, types, roles and
            extensions. `auth.*` matches a whole schema.

    Raises:
        UnavailableError: A side cannot be reached.
        InvalidInputError: A name in `include` or `leave_out` matches no object.
    """
    with closing(sides.legacy.connect()) as legacy, closing(sides.primary.connect()) as primary:
        require_different_databases(legacy, primary)
        for connection in (legacy, primary):
            connection.execute("SET default_transaction_read_only = on")  # guarantees that nothing changes
        return make_plan_on_sessions(legacy, primary, settings, include, leave_out)


def make_plan_on_sessions(
    legacy: Connection,
    primary: Connection,
    settings: Settings | None,
    include: Collection[str] = (),
    leave_out: Collection[str] = (),
) -> Plan:
    """Make a plan on open sessions; see `make_plan`.

    Without settings, the connection budget is not checked. After `start`, its `include` and `leave_out` still
    apply and need not be repeated.
    """
    left_out = Exclusions(tuple(leave_out))
    is_started = control_schema.is_set_up(legacy)
    if is_started:
        include = {*include, *(table.name for table in transfer_tables(legacy))}
        left_out.add_earlier_exclusions(_left_out_before(legacy))
    legacy_tables, primary_tables = read_tables(legacy), read_tables(primary)
    moved = {table.name for table in select_tables([*legacy_tables, *primary_tables], include)}
    unknown = sorted(set(include) - moved)
    if unknown:
        raise InvalidInputError(
            f"There is no table {', '.join(unknown)}; qualify names with the schema, as in public.extra."
        )
    findings = list(server_checks.compare_databases(legacy, primary))
    findings += _undecided(legacy_tables, primary_tables, moved, left_out)
    comparable = legacy.info.server_version // 10_000 == primary.info.server_version // 10_000
    objects = [
        catalog.read(connection, sorted(moved), texts_comparable=comparable)
        for connection in (legacy, primary)
    ]
    findings += schema_diff.compare(objects[0], objects[1], left_out)
    for side, connection, tables in ((LEGACY, legacy, legacy_tables), (PRIMARY, primary, primary_tables)):
        transferred = [table for table in tables if table.name in moved]
        others = [table for table in tables if table.name not in moved]
        findings += server_checks.check_side(connection, side, transferred, others, left_out)
        if settings is not None:
            findings += server_checks.check_connection_budget(connection, side, settings)
        if side == PRIMARY and not is_started:
            findings += server_checks.check_primary_is_empty(connection, transferred)
    if None in (server_checks.alembic_revision(legacy), server_checks.alembic_revision(primary)):
        # A database without a revision lacks every table. The finding about the revision already advises to
        # run the migrations, which create the tables.
        findings = [item for item in findings if item.kind != "moved table" or item.name in include]
    if left_out.unused_patterns:
        raise InvalidInputError(
            f"There is no object named {', '.join(left_out.unused_patterns)} that can be left out."
        )
    transferred = sort_parents_first(table for table in legacy_tables if table.name in moved)
    sizes = _sizes(legacy, transferred)
    seconds = [size.seconds for size in sizes]
    return Plan(
        transfer_tables=tuple(transferred),
        sides=(_summary(legacy, LEGACY), _summary(primary, PRIMARY)),
        tables=tuple(sizes),
        findings=tuple(findings),
        left_out=tuple(left_out.names),
        is_started=is_started,
        seconds=round(max([sum(seconds) / ASSUMED_COPY_JOBS, *seconds]), 1),
    )


def _left_out_before(legacy: Connection) -> list[str]:
    row = legacy.execute(
        f"SELECT detail->'left_out' FROM {SCHEMA}.journal WHERE step = 'start' ORDER BY id DESC LIMIT 1"
    ).fetchone()
    return row[0] if row else []


def _undecided(
    legacy_tables: Sequence[TableInfo],
    primary_tables: Sequence[TableInfo],
    moved: Collection[str],
    left_out: Exclusions,
) -> list[PlanFinding]:
    """Return a finding for each table outside Frontdesk's models that is neither included nor left out."""
    findings = []
    legacy, primary = {table.name for table in legacy_tables}, {table.name for table in primary_tables}
    for name in sorted((legacy | primary) - set(moved) - {ALEMBIC_TABLE}):
        if left_out.excludes(name):
            continue
        side = BOTH if name in legacy and name in primary else LEGACY if name in legacy else PRIMARY
        advice = (
            f"Transfer it, too (--include {name}; both sides must have it), or leave it out:"
            f" --leave-out {name}"
        )
        findings.append(PlanFinding("table", name, side, "it is not one of Frontdesk's tables", advice))
    return findings


def _summary(connection: Connection, name: str) -> SideSummary:
    row = connection.execute(
        "SELECT current_setting('server_version'), current_database(), current_user,"
        " pg_database_size(current_database())"
    ).fetchone()
    assert row is not None, "a SELECT without FROM returns one row"  # noqa: S101
    version, database, role, size = row
    return SideSummary(name, version.split()[0], database, role, size)


def _sizes(legacy: Connection, tables: Sequence[TableInfo]) -> list[TableSize]:
    counted = {
        name: sizes for name, *sizes in legacy.execute(_SIZES, {"tables": [table.name for table in tables]})
    }
    largest = max(tables, key=lambda table: counted[table.name][1], default=None)
    may_read = largest is not None and server_checks.may_read(legacy, largest.name)
    read_rate = _read_rate(legacy, largest) if largest is not None and may_read else None
    each_byte = 1 / WRITE_BYTES_PER_SECOND + (1 / read_rate if read_rate else 0)
    return [
        TableSize(table.name, rows, size, total, round(size * each_byte, 2))
        for table in tables
        for rows, size, total in [counted[table.name]]
    ]


def _read_rate(legacy: Connection, table: TableInfo) -> float | None:
    """Measure the rate at which legacy sends the first blocks of a table.

    Returns bytes per second, or None if the table has too little data (10 kB or less) to measure.
    """
    query = sql.SQL("COPY (SELECT {} FROM ONLY {} WHERE ctid < '({},0)') TO STDOUT (FORMAT binary)").format(
        table.column_list(), table.identifier, sql.Literal(SAMPLE_BLOCKS)
    )
    began = time.perf_counter()
    with legacy.cursor() as cursor, cursor.copy(query) as copy:
        size = sum(len(data) for data in copy)
    return size / (time.perf_counter() - began) if size > 10_000 else None
