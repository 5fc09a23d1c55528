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
from app.errors import UnavailableError

OnTable = Callable[[int, int], None]  # number of tables done, number of all tables

LARGE_OBJECTS = "large objects"  # listed among the tables, as one table: their number and hash

# pg_dump dumps every schema, but neither system objects nor members of extensions.
_NOT_BUILT_IN = """
    nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema'
    AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = {catalog}::regclass AND objid = {alias}.oid
        AND deptype = 'e')
"""
_TABLES = sql.SQL(
    """
    SELECT nspname, relname, quote_ident(nspname) || '.' || quote_ident(relname),
        ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0
            AND NOT attisdropped ORDER BY attname::text COLLATE "C")
    FROM pg_class AS c JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE relkind = 'r' AND relpersistence <> 't' AND {own} ORDER BY 3
    """
).format(own=sql.SQL(_NOT_BUILT_IN).format(catalog=sql.Literal("pg_class"), alias=sql.SQL("c")))
# An extension can have rows of its tables dumped (extconfig). The extension restores them, so the manifest
# does not list these tables.
_EXTENSION_TABLES = """
    SELECT quote_ident(nspname) || '.' || quote_ident(relname)
    FROM pg_extension CROSS JOIN unnest(extconfig) AS config
    JOIN pg_class ON pg_class.oid = config JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE relkind = 'r' ORDER BY 1
"""
# Read in pieces of 1 MB, because a large object may exceed the size limit of a value. The hash includes the
# OIDs, because rows refer to large objects by OID.
_LARGE_OBJECTS = """
    WITH RECURSIVE pieces (id, number, size, hash) AS (
        SELECT pg_largeobject_metadata.oid, 0::bigint, length(piece), sha256(piece)
        FROM pg_largeobject_metadata CROSS JOIN LATERAL (
            SELECT lo_get(pg_largeobject_metadata.oid, 0, 1000000) AS piece OFFSET 0) AS first
        UNION ALL
        SELECT id, number + 1, length(piece), sha256(piece)
        FROM pieces CROSS JOIN LATERAL (
            SELECT lo_get(id, (number + 1) * 1000000, 1000000) AS piece OFFSET 0) AS following
        WHERE size = 1000000
    )
    SELECT count(DISTINCT id),
        encode(sha256(string_agg(oidsend(id) || hash, ''::bytea ORDER BY id, number)), 'hex')
    FROM pieces
"""
_SEQUENCES = """
    SELECT quote_ident(schemaname) || '.' || quote_ident(sequencename), last_value FROM pg_sequences
    WHERE last_value IS NOT NULL AND increment_by > 0 ORDER BY 1
"""
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
    classes=sql.SQL(_NOT_BUILT_IN).format(catalog=sql.Literal("pg_class"), alias=sql.SQL("c")),
    functions=sql.SQL(_NOT_BUILT_IN).format(catalog=sql.Literal("pg_proc"), alias=sql.SQL("p")),
    types=sql.SQL(_NOT_BUILT_IN).format(catalog=sql.Literal("pg_type"), alias=sql.SQL("t")),
    schemas=sql.SQL(_NOT_BUILT_IN).format(catalog=sql.Literal("pg_namespace"), alias=sql.SQL("n")),
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
    sequences = dict(connection.execute(_SEQUENCES).fetchall())
    tables = connection.execute(_TABLES).fetchall()
    contents = []
    for number, (schema, table, name, columns) in enumerate(tables):
        on_table(number, len(tables))
        ((rows, sha256),) = connection.execute(table_hash_sql(schema, table, columns))
        contents.append(TableContent(name=name, rows=rows, sha256=sha256))
    on_table(len(tables), len(tables))
    ((rows, sha256),) = connection.execute(_LARGE_OBJECTS)
    if rows:
        contents.append(TableContent(name=LARGE_OBJECTS, rows=rows, sha256=sha256))
    return Contents(tuple(contents), sequences)


def query_extension_tables(connection: Connection) -> list[str]:
    """Return the extensions' tables whose rows a dump may contain, although the manifest omits them."""
    return [name for (name,) in connection.execute(_EXTENSION_TABLES)]


def query_user_objects(connection: Connection) -> list[str]:
    """Return the names of up to six objects that users created in this database; [] if it is empty."""
    return [name for (name,) in connection.execute(_USER_OBJECTS)]
