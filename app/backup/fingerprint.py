"""Fingerprint of a database: row count and hash of each table, and sequences, compared with a manifest."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import sql

from app.backup.manifest import Manifest, TableContent
from app.config import Settings
from app.database.checksum import table_hash_sql, use_canonical_form
from app.database.connection import UNLIMITED, Connection, connect, connect_timeout
from app.database.sql_files import read_queries
from app.errors import UnavailableError

OnTable = Callable[[int, int], None]  # number of tables done, number of all tables

LARGE_OBJECTS = "large objects"  # all of them are one entry of the list of tables, with their number and hash

_QUERIES = read_queries(__package__, "fingerprint.sql")
_TABLES = sql.SQL(
    """
    SELECT nspname, relname, quote_ident(nspname) || '.' || quote_ident(relname),
        ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0
            AND NOT attisdropped ORDER BY attname::text COLLATE "C")
    FROM pg_class AS c JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE relkind = 'r' AND relpersistence <> 't' AND {own} ORDER BY 3
    """
).format(own=sql.SQL(_QUERIES["not_built_in"]).format(catalog=sql.Literal("pg_class"), alias=sql.SQL("c")))
_USER_OBJECTS = sql.SQL(
    """
    SELECT what FROM (
        SELECT format('%I.%I', nspname, relname) AS what FROM pg_class AS c
        JOIN pg_namespace ON pg_namespace.oid = relnamespace
        WHERE relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'c') AND {classes}
        UNION ALL SELECT format('%I.%I()', nspname, proname) FROM pg_proc AS p
        JOIN pg_namespace ON pg_namespace.oid = pronamespace WHERE {functions}
        UNION ALL SELECT format('type %I.%I', nspname, typname) FROM pg_type AS t
        JOIN pg_namespace ON pg_namespace.oid = typnamespace
        WHERE typrelid = 0 AND typcategory <> 'A' AND {types}
        UNION ALL SELECT format('large object %s', oid) FROM pg_largeobject_metadata
        UNION ALL SELECT format('schema %I', nspname) FROM pg_namespace AS n WHERE nspname <> 'public'
            AND {schemas}
    ) AS objects ORDER BY what LIMIT 6
    """
).format(
    classes=sql.SQL(_QUERIES["not_built_in"]).format(catalog=sql.Literal("pg_class"), alias=sql.SQL("c")),
    functions=sql.SQL(_QUERIES["not_built_in"]).format(catalog=sql.Literal("pg_proc"), alias=sql.SQL("p")),
    types=sql.SQL(_QUERIES["not_built_in"]).format(catalog=sql.Literal("pg_type"), alias=sql.SQL("t")),
    schemas=sql.SQL(_QUERIES["not_built_in"]).format(catalog=sql.Literal("pg_namespace"), alias=sql.SQL("n")),
)


@dataclass(frozen=True)
class Contents:
    """Tables and sequences of a database in one snapshot."""

    tables: tuple[TableContent, ...]
    sequences: dict[str, int]

    def differences(self, manifest: Manifest) -> list[str]:
        """Return the differences from the manifest, one line per table or sequence; empty if equal."""
        actual = {table.name: table for table in self.tables}
        expected = {table.name: table for table in manifest.tables}
        lines = [f"{name}: is missing" for name in expected if name not in actual]
        lines += [f"{name}: is not in the manifest" for name in actual if name not in expected]
        for name in expected.keys() & actual.keys():
            rows, expected_rows = actual[name].rows, expected[name].rows
            if rows != expected_rows:
                lines.append(f"{name}: {rows:,} rows instead of {expected_rows:,}")
            elif actual[name].sha256 != expected[name].sha256:
                lines.append(f"{name}: {rows:,} rows as expected, but with different content")
        lines += [
            f"{name}: the sequence is behind, at {self.sequences.get(name)} instead of {number}"
            for name, number in manifest.sequences.items()
            if self.sequences.get(name, number - 1) < number
        ]
        return sorted(lines)


@contextmanager
def open_connection(settings: Settings, url: str) -> Iterator[Connection]:
    """Open an autocommit connection for long operations, with no timeouts except TCP's.

    Raises UnavailableError if the database cannot be reached.
    """
    try:
        name, timeout = f"{settings.service_name}-backup", connect_timeout(settings)
        connection = connect(url, name, UNLIMITED, connect_timeout=timeout)
    except psycopg.OperationalError as error:
        # libpq's message contains the host, user and reason, never the password.
        raise UnavailableError(f"Cannot reach the database: {error}") from None
    with connection:
        yield connection


def read_contents(connection: Connection, on_table: OnTable) -> Contents:
    """Count and hash every table in the open transaction, and read the sequences.

    The transaction then holds locks that block TRUNCATE until it ends.
    """
    use_canonical_form(connection)
    # Sequences are not part of the snapshot. Read first, they are never ahead of the dump.
    sequences = dict(connection.execute(_QUERIES["sequences"]).fetchall())
    tables = connection.execute(_TABLES).fetchall()
    contents = []
    for number, (schema, table, name, columns) in enumerate(tables):
        on_table(number, len(tables))
        ((rows, sha256),) = connection.execute(table_hash_sql(schema, table, columns))
        contents.append(TableContent(name=name, rows=rows, sha256=sha256))
    on_table(len(tables), len(tables))
    ((rows, sha256),) = connection.execute(_QUERIES["large_objects"])
    if rows:
        contents.append(TableContent(name=LARGE_OBJECTS, rows=rows, sha256=sha256))
    return Contents(tuple(contents), sequences)


def query_extension_tables(connection: Connection) -> list[str]:
    """Return the extensions' tables whose rows a dump may contain, although the manifest omits them."""
    return [name for (name,) in connection.execute(_QUERIES["extension_tables"])]


def query_user_objects(connection: Connection) -> list[str]:
    """Return the names of up to six objects that users created in this database; [] if it is empty."""
    return [name for (name,) in connection.execute(_USER_OBJECTS)]
