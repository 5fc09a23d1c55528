"""Snapshots of a schema: one entry for each column, constraint and index of its tables.

A snapshot maps the description of an object (`unique clients (phone)`) to its definition or name
(`clients_phone_key`), both in readable form. Snapshots are compared entry by entry.
"""

import re
from collections.abc import Iterable, Mapping

from sqlalchemy import Connection, text

from app.database.sql_files import read_queries

SchemaSnapshot = Mapping[str, str]

_QUERIES = read_queries(__package__, "schema_snapshot.sql")


def read(connection: Connection, tables: Iterable[str]) -> dict[str, str]:
    """Return the snapshot of these tables. Only tables of the current schema are included."""
    snapshot: dict[str, list[str]] = {}
    for statement in (_QUERIES["columns"], _QUERIES["constraints"], _QUERIES["indexes"]):
        for entry, definition in connection.execute(text(statement), {"tables": [*tables]}):
            snapshot.setdefault(entry, []).append(_normalise(definition))
    return {entry: ", ".join(sorted(definitions)) for entry, definitions in sorted(snapshot.items())}


def dependent_objects(connection: Connection, tables: Iterable[str]) -> list[str]:
    """Return a line for each view, trigger, foreign key of another table etc. that depends on the tables."""
    return list(connection.execute(text(_QUERIES["dependents"]), {"tables": [*tables]}).scalars())


def missing_privileges(connection: Connection, tables: Iterable[str]) -> list[str]:
    """Return a line, with its remedy, for each privilege that the connecting role lacks."""
    return list(connection.execute(text(_QUERIES["missing_privileges"]), {"tables": [*tables]}).scalars())


def index_name_conflicts(connection: Connection, names: Iterable[str], tables: Iterable[str]) -> list[str]:
    """Return a line for each index with one of `names` on a table that is not in `tables`."""
    return list(
        connection.execute(
            text(_QUERIES["index_name_conflicts"]), {"names": [*names], "tables": [*tables]}
        ).scalars()
    )


def search_path_problems(connection: Connection, tables: Iterable[str]) -> list[str]:
    """Return a line per schema for tables that search_path resolves outside of current_schema()."""
    names = [*tables, "alembic_version"]
    return list(connection.execute(text(_QUERIES["search_path_problems"]), {"tables": names}).scalars())


def existing_tables(connection: Connection) -> set[str]:
    """Return the names of the tables in the current schema, except Alembic's own."""
    names = connection.execute(
        text(
            "SELECT relname::text FROM pg_class WHERE relkind IN ('r', 'p', 'f')"
            " AND relnamespace = current_schema()::regnamespace AND relname <> 'alembic_version'"
        )
    )
    return set(names.scalars())


def _normalise(definition: str) -> str:
    """Normalise a definition: drop sequence names and spell CURRENT_TIMESTAMP as now()."""
    definition = re.sub(r"nextval\('.*'::regclass\)", "nextval(sequence)", definition)
    return definition.replace("CURRENT_TIMESTAMP", "now()")
