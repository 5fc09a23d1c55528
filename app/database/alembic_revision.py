"""The Alembic revision that a database is at."""

from collections.abc import Callable
from typing import Any


def read_revision(execute: Callable[[str], Any], table: str = "alembic_version") -> str | None:
    """Return the revision of the database, or None if Alembic has never stamped it.

    `execute` runs a query: psycopg's `connection.execute` or SQLAlchemy's `connection.exec_driver_sql`.
    A `table` without schema is resolved by search_path. Passes on the driver's errors.
    """
    if execute(f"SELECT pg_catalog.to_regclass('{table}')").fetchone() == (None,):
        return None
    ((revision,),) = execute(f"SELECT pg_catalog.min(version_num) FROM {table}")  # noqa: S608
    return None if revision is None else str(revision)
