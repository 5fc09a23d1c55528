"""Building blocks of the migrations: each short under its lock, each safe to repeat after a kill -9.

They look into the catalog for what is there already, by what it is and not by its name: installations
differ in the names of their indexes. SQL identifiers come from the migrations, never from data.
"""

# ruff: noqa: S608 - the parts of SQL put together here are written in the migrations, never data

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

# Nobody can read or write a table while it is rewritten. One with more rows than this, which takes longer
# than a quarter of a second, is rewritten only on request.
ROWS_REWRITTEN_PER_SECOND = 300_000
MAX_UNREQUESTED_REWRITE_ROWS = ROWS_REWRITTEN_PER_SECOND // 4


def option(name: str) -> str | None:
    """Return the value of `-x name=value`, or None."""
    return context.get_x_argument(as_dictionary=True).get(name)


def bind() -> Connection:
    return op.get_bind()


def execute(statement: str, **values: object) -> CursorResult[Any]:
    if values:
        return bind().execute(text(statement), values)
    # As it stands: names that come from the catalog may hold a percent sign.
    return bind().exec_driver_sql(statement, execution_options={"no_parameters": True})


def commit() -> None:
    """End the transaction, with its locks, and begin another: the revision is not finished yet."""
    with op.get_context().autocommit_block():
        pass


@contextmanager
def outside_transaction() -> Iterator[None]:
    """For CONCURRENTLY and VALIDATE: they wait for other transactions without stopping any writer."""
    with op.get_context().autocommit_block():
        execute("SET lock_timeout = 0")
        try:
            yield
        finally:
            execute("RESET lock_timeout")


# Indexes and constraints


def build_index(table: str, name: str, columns: Sequence[str], *, unique: bool = False) -> None:
    """Build an index without stopping writers; call it within `outside_transaction`.

    A failed or killed build leaves an invalid index behind, which IF NOT EXISTS would take for a good
    one, and so would it one that somebody made otherwise under this name: such an index is dropped first,
    and validity is checked after. Raises IntegrityError for duplicates.
    """
    if not introspection.is_index_usable(name, table, columns, unique=unique):
        execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
        kind = "UNIQUE INDEX" if unique else "INDEX"
        execute(f"CREATE {kind} CONCURRENTLY IF NOT EXISTS {name} ON {table} ({', '.join(columns)})")
    if not introspection.is_index_usable(name, table, columns, unique=unique):
        raise MigrationRefused(f"Index {name} is not valid after its build; run the same command again.")


def add_unique_constraint(table: str, name: str, columns: Sequence[str]) -> None:
    """Add a UNIQUE constraint from a concurrent index; take over one of another name, drop any other.

    Until it is there, a constraint on the same columns in another order or otherwise made stays in force.
    Raises IntegrityError for duplicates.
    """
    ours = _usable_unique_index(table, name, columns)
    if ours is None or name not in (ours.constraint, ours.index):
        if introspection.is_constraint_validated(table, name) is not None:
            rename_constraint(table, name, f"{name}_old")
        else:
            drop_index(name, table)
    if ours is None:
        with outside_transaction():
            build_index(table, name, columns, unique=True)
        ours = UniqueIndex(name, None, is_usable=True)
    if ours.constraint is None:
        # PostgreSQL renames the index to the constraint's name.
        execute(f"ALTER TABLE {table} ADD CONSTRAINT {name} UNIQUE USING INDEX {ours.index}")
        commit()
    elif ours.constraint != name:
        rename_constraint(table, ours.constraint, name)
    for each in introspection.unique_indexes_on(table, columns):
        if each.constraint != name:
            drop_index(each.index, table, each.constraint)


def _usable_unique_index(table: str, name: str, columns: Sequence[str]) -> UniqueIndex | None:
    """The one of this name if there is one, or else a constraint, or else an index."""
    good = [each for each in introspection.unique_indexes_on(table, columns) if each.is_usable]
    good.sort(key=lambda each: (name not in (each.constraint, each.index), each.constraint is None))
    return good[0] if good else None


def rename_constraint(table: str, old: str, new: str) -> None:
    execute(
        "-- squawk-ignore renaming-object -- nobody names a constraint of the old shape\n"
        f"ALTER TABLE {table} RENAME CONSTRAINT {old} TO {new}"
    )
    commit()


def set_primary_key(table: str, name: str, columns: Sequence[str]) -> None:
    """Replace the primary key by one on `columns`, from a concurrent index, in one short statement."""
    old = introspection.primary_key(table)
    if old == (name, list(columns)):
        return
    building = f"{name}_new" if old and old[0] == name else name
    with outside_transaction():
        build_index(table, building, columns, unique=True)
    drop = f"DROP CONSTRAINT {old[0]}, " if old else ""
    # PostgreSQL renames the index to the constraint's name.
    execute(
        "-- squawk-ignore ban-drop-constraint -- the new key takes its place in the same statement\n"
        f"ALTER TABLE {table} {drop}ADD CONSTRAINT {name} PRIMARY KEY USING INDEX {building}"
    )
    commit()


def drop_index(name: str, table: str, constraint_name: str | None = None) -> None:
    if constraint_name is not None:
        execute(
            "-- squawk-ignore ban-drop-constraint -- another constraint has taken its place\n"
            f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {constraint_name}"
        )
        commit()
    else:
        with outside_transaction():
            execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")


def drop_indexes_on(table: str, columns: Sequence[str], *, unique: bool | None = None) -> None:
    """Drop every plain index (or unique constraint) on exactly these columns, whatever its name."""
    for name, constraint_name in introspection.indexes_on(table, columns, unique=unique):
        drop_index(name, table, constraint_name)


def add_not_valid_constraint(table: str, name: str, definition: str) -> None:
    """Add a CHECK or a foreign key for the rows to come, which is short: no row is looked at."""
    if introspection.is_constraint_validated(table, name) is None:
        execute(f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition} NOT VALID")
        commit()


def validate_constraint(table: str, name: str) -> None:
    """Check the rows that are there already, which stops nobody."""
    if not introspection.is_constraint_validated(table, name):
        with outside_transaction():
            execute(
                "-- squawk-ignore prefer-robust-stmts -- outside a transaction, and harmless when repeated\n"
                f"ALTER TABLE {table} VALIDATE CONSTRAINT {name}"
            )


def set_not_null(table: str, column: str) -> None:
    """Forbid NULL; the validated CHECK spares the scan under the exclusive lock."""
    check = f"{table}_{column}_filled"
    add_not_valid_constraint(table, check, f"CHECK ({column} IS NOT NULL)")
    validate_constraint(table, check)
    execute(
        "-- squawk-ignore ban-drop-constraint -- NOT NULL says the same, in the same statement\n"
        f"ALTER TABLE {table} ALTER COLUMN {column} SET NOT NULL, DROP CONSTRAINT {check}"
    )
    commit()


# Rewrites, and what stands in their way


def refuse_large_rewrite(connection: Connection, table: str) -> int:
    """Refuse to rewrite a large table without `-x rewrite=yes`; return about how many rows it has."""
    # The planner's figure is free, but -1 or old where nothing was analysed; the size never lies.
    estimate = text(
        "SELECT CASE WHEN reltuples >= 0 AND relpages > 0"
        " THEN reltuples / relpages * pg_relation_size(oid) / current_setting('block_size')::int"
        " ELSE pg_relation_size(oid) / 100 END::bigint FROM pg_class WHERE oid = to_regclass(:table)"
    )
    rows: int = connection.execute(estimate, {"table": table}).scalar() or 0
    if rows >= MAX_UNREQUESTED_REWRITE_ROWS:
        # Wide rows in a table that nobody analysed look like many: count as far as it matters.
        counted = (
            f"SELECT count(*) FROM (SELECT FROM {table} LIMIT {MAX_UNREQUESTED_REWRITE_ROWS}) AS first_rows"
        )
        found: int = connection.exec_driver_sql(counted).scalar_one()
        rows = rows if found == MAX_UNREQUESTED_REWRITE_ROWS else found
    if rows >= MAX_UNREQUESTED_REWRITE_ROWS and option("rewrite") != "yes":
        raise MigrationRefused(
            f"Table {table} (about {rows:,} rows) must be rewritten: about {_rewrite_seconds(rows)} s during which"
            " nobody can read or write it. At a quiet time: alembic -x rewrite=yes upgrade head"
        )
    return rows


def refuse_dependents(connection: Connection, tables: Sequence[str]) -> None:
    """Refuse what would stop the chain half-way: what hangs on types and primary keys, and other owners."""
    if not_ours := schema_snapshot.missing_privileges(connection, tables):
        raise MigrationRefused("The connecting role may not change everything:", tuple(not_ours))
    harmless = re.compile("trigger .* on (?!columns of )|row level security ")
    found = [
        line for line in schema_snapshot.dependent_objects(connection, tables) if not harmless.match(line)
    ]
    if found:
        raise MigrationRefused("Drop these until the upgrade is done:", tuple(found))


def log_rewrite(table: str) -> None:
    """Say how long the rewrite of a table, which comes next, stops everybody."""
    if rows := refuse_large_rewrite(bind(), table):
        log.info("Rewriting %s (about %s rows): about %s s", table, f"{rows:,}", _rewrite_seconds(rows))


def commit_and_analyze(table: str) -> None:
    """Commit, and look at the rows anew: with the old type the planner's figures have gone.

    Without them it sorts the whole table for each batch to come, and for many a query of those at work.
    """
    commit()
    execute(f"ANALYZE {table}")
    commit()


def _rewrite_seconds(rows: int) -> int:
    return max(1, round(rows / ROWS_REWRITTEN_PER_SECOND))
