"""Schema changes for migrations. Each holds its lock briefly and can be repeated after a kill -9.

The functions query the catalog for what already exists. They compare definitions and not names, because the
names of indexes differ between installations. SQL identifiers come from the migrations, never from data.
"""

# ruff: noqa: S608 - the SQL is composed of constants of the migrations, never of data

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from alembic import context, op
from sqlalchemy import Connection, CursorResult, text

from app.migrations import introspection, schema_snapshot
from app.migrations.introspection import UniqueIndex
from app.migrations.runner import MigrationRefused

log = logging.getLogger("alembic.frontdesk")

# A rewrite blocks all reads and writes of the table. Tables with more rows than this, whose rewrite takes
# longer than 0.25 s, are rewritten only on request.
ROWS_REWRITTEN_PER_SECOND = 300_000
MAX_UNREQUESTED_REWRITE_ROWS = ROWS_REWRITTEN_PER_SECOND // 4


def option(name: str) -> str | None:
    """Return the value of the command line option `-x name=value`, or None."""
    return context.get_x_argument(as_dictionary=True).get(name)


def bind() -> Connection:
    """Return the connection of the migration."""
    return op.get_bind()


def execute(statement: str, **values: object) -> CursorResult[Any]:
    """Execute SQL. With `values`, `:name` is a bind parameter; without, the statement is sent unchanged."""
    if values:
        return bind().execute(text(statement), values)
    # No parameter syntax: names from the catalog may contain colons and percent signs.
    return bind().exec_driver_sql(statement, execution_options={"no_parameters": True})


def commit() -> None:
    """Commit within a revision, which releases its locks, and begin a new transaction."""
    with op.get_context().autocommit_block():
        pass


@contextmanager
def outside_transaction() -> Iterator[None]:
    """Run the block in autocommit mode and without lock_timeout, for CONCURRENTLY and VALIDATE.

    These statements wait for other transactions, but do not block writers.
    """
    with op.get_context().autocommit_block():
        execute("SET lock_timeout = 0")
        try:
            yield
        finally:
            execute("RESET lock_timeout")


# Indexes and constraints


def build_index(table: str, name: str, columns: Sequence[str], *, unique: bool = False) -> None:
    """Build an index without blocking writers. Call it within `outside_transaction`.

    IF NOT EXISTS checks the name only. An existing index of this name that is invalid (left by a failed
    or killed build) or has another definition is therefore dropped first. Raises IntegrityError if a
    unique index finds duplicates, MigrationRefused if the index is not valid after its build.
    """
    if not introspection.is_index_usable(name, table, columns, unique=unique):
        execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
        kind = "UNIQUE INDEX" if unique else "INDEX"
        execute(f"CREATE {kind} CONCURRENTLY IF NOT EXISTS {name} ON {table} ({', '.join(columns)})")
    if not introspection.is_index_usable(name, table, columns, unique=unique):
        raise MigrationRefused(f"Index {name} is not valid after its build; run the same command again.")


def add_unique_constraint(table: str, name: str, columns: Sequence[str]) -> None:
    """Add a UNIQUE constraint from a concurrently built index.

    A usable index or constraint of another name is renamed instead. Other unique indexes on the same
    columns, in any order, are dropped after the constraint exists. Raises IntegrityError for duplicates.
    """
    usable = _usable_unique_index(table, name, columns)
    if usable is None or name not in (usable.constraint, usable.index):
        if introspection.is_constraint_validated(table, name) is not None:
            rename_constraint(table, name, f"{name}_old")
        else:
            drop_index(name, table)
    if usable is None:
        with outside_transaction():
            build_index(table, name, columns, unique=True)
        usable = UniqueIndex(name, None, is_usable=True)
    if usable.constraint is None:
        # PostgreSQL renames the index to the constraint's name.
        execute(f"ALTER TABLE {table} ADD CONSTRAINT {name} UNIQUE USING INDEX {usable.index}")
        commit()
    elif usable.constraint != name:
        rename_constraint(table, usable.constraint, name)
    for existing in introspection.unique_indexes_on(table, columns):
        if existing.constraint != name:
            drop_index(existing.index, table, existing.constraint)


def _usable_unique_index(table: str, name: str, columns: Sequence[str]) -> UniqueIndex | None:
    """Return the usable unique index of this name, or else one with a constraint, or else any."""
    usable = [index for index in introspection.unique_indexes_on(table, columns) if index.is_usable]
    usable.sort(key=lambda index: (name not in (index.constraint, index.index), index.constraint is None))
    return usable[0] if usable else None


def rename_constraint(table: str, old: str, new: str) -> None:
    execute(
        "-- squawk-ignore renaming-object -- no code refers to this constraint by name\n"
        f"ALTER TABLE {table} RENAME CONSTRAINT {old} TO {new}"
    )
    commit()


def set_primary_key(table: str, name: str, columns: Sequence[str]) -> None:
    """Replace the primary key in one short statement, after its index on `columns` is built concurrently."""
    old = introspection.primary_key(table)
    if old == (name, list(columns)):
        return
    building = f"{name}_new" if old and old[0] == name else name
    with outside_transaction():
        build_index(table, building, columns, unique=True)
    drop = f"DROP CONSTRAINT {old[0]}, " if old else ""
    # PostgreSQL renames the index to the constraint's name.
    execute(
        "-- squawk-ignore ban-drop-constraint -- the same statement adds the new key\n"
        f"ALTER TABLE {table} {drop}ADD CONSTRAINT {name} PRIMARY KEY USING INDEX {building}"
    )
    commit()


def drop_index(name: str, table: str, constraint_name: str | None = None) -> None:
    """Drop an index: concurrently, or with its constraint if it has one."""
    if constraint_name is not None:
        execute(
            "-- squawk-ignore ban-drop-constraint -- another constraint has replaced it\n"
            f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {constraint_name}"
        )
        commit()
    else:
        with outside_transaction():
            execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")


def drop_indexes_on(table: str, columns: Sequence[str], *, unique: bool | None = None) -> None:
    """Drop every index and unique constraint on exactly these columns, under any name.

    `unique` limits the call to unique or to non-unique indexes. Primary keys, partial indexes and
    expression indexes are kept.
    """
    for name, constraint_name in introspection.indexes_on(table, columns, unique=unique):
        drop_index(name, table, constraint_name)


def add_not_valid_constraint(table: str, name: str, definition: str) -> None:
    """Add a CHECK or foreign key as NOT VALID: it holds for new rows, and existing rows are not scanned."""
    if introspection.is_constraint_validated(table, name) is None:
        execute(f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition} NOT VALID")
        commit()


def validate_constraint(table: str, name: str) -> None:
    """Validate a constraint against the existing rows, without blocking reads or writes."""
    if not introspection.is_constraint_validated(table, name):
        with outside_transaction():
            execute(
                "-- squawk-ignore prefer-robust-stmts -- runs outside a transaction and can be repeated\n"
                f"ALTER TABLE {table} VALIDATE CONSTRAINT {name}"
            )


def set_not_null(table: str, column: str) -> None:
    """Set a column NOT NULL. A validated CHECK avoids the table scan under the exclusive lock."""
    check = f"{table}_{column}_filled"
    add_not_valid_constraint(table, check, f"CHECK ({column} IS NOT NULL)")
    validate_constraint(table, check)
    execute(
        "-- squawk-ignore ban-drop-constraint -- the same statement sets NOT NULL, which is equivalent\n"
        f"ALTER TABLE {table} ALTER COLUMN {column} SET NOT NULL, DROP CONSTRAINT {check}"
    )
    commit()


# Rewrites, and their preconditions


def refuse_large_rewrite(connection: Connection, table: str) -> int:
    """Return the estimated number of rows.

    Raises MigrationRefused if the table is large and `-x rewrite=yes` is not set.
    """
    # The planner's estimate costs nothing, but it is -1 or outdated without ANALYZE; the size is current.
    estimate = text(
        "SELECT CASE WHEN reltuples >= 0 AND relpages > 0"
        " THEN reltuples / relpages * pg_relation_size(oid) / current_setting('block_size')::int"
        " ELSE pg_relation_size(oid) / 100 END::bigint FROM pg_class WHERE oid = to_regclass(:table)"
    )
    rows: int = connection.execute(estimate, {"table": table}).scalar() or 0
    if rows >= MAX_UNREQUESTED_REWRITE_ROWS:
        # Without ANALYZE, the estimate is too high for wide rows: count the rows up to the limit.
        counted = (
            f"SELECT count(*) FROM (SELECT FROM {table} LIMIT {MAX_UNREQUESTED_REWRITE_ROWS}) AS first_rows"
        )
        actual: int = connection.exec_driver_sql(counted).scalar_one()
        rows = rows if actual == MAX_UNREQUESTED_REWRITE_ROWS else actual
    if rows >= MAX_UNREQUESTED_REWRITE_ROWS and option("rewrite") != "yes":
        raise MigrationRefused(
            f"Table {table} (about {rows:,} rows) must be rewritten: about {_rewrite_seconds(rows)} s without"
            " reads and writes. At a time of low load, run: alembic -x rewrite=yes upgrade head"
        )
    return rows


def refuse_dependents(connection: Connection, tables: Sequence[str]) -> None:
    """Check that no step of the chain can fail because of dependent objects or missing privileges.

    Raises MigrationRefused, which lists the objects that depend on column types or primary keys, or the
    missing privileges.
    """
    if missing := schema_snapshot.missing_privileges(connection, tables):
        raise MigrationRefused("The connecting role lacks privileges:", tuple(missing))
    harmless = re.compile("trigger .* on (?!columns of )|row level security ")
    dependents = [
        line for line in schema_snapshot.dependent_objects(connection, tables) if not harmless.match(line)
    ]
    if dependents:
        raise MigrationRefused(
            "Drop these objects, and create them again after the upgrade:", tuple(dependents)
        )


def log_rewrite(table: str) -> None:
    """Log how long the following rewrite of a table will block it. Raises like `refuse_large_rewrite`."""
    if rows := refuse_large_rewrite(bind(), table):
        log.info("Rewriting %s (about %s rows): about %s s", table, f"{rows:,}", _rewrite_seconds(rows))


def commit_and_analyze(table: str) -> None:
    """Commit, and analyze the table: a change of a column's type deletes the column's statistics.

    Without statistics, PostgreSQL would sort the whole table for each following batch, and for many queries
    of concurrent sessions.
    """
    commit()
    execute(f"ANALYZE {table}")
    commit()


def _rewrite_seconds(rows: int) -> int:
    return max(1, round(rows / ROWS_REWRITTEN_PER_SECOND))
