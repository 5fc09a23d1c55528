"""The objects of one side, read from its catalog: each with its kind, its name and a comparable definition.

Names are qualified. PostgreSQL generates the definitions with an empty search path, so that two servers
return the same text for the same object.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from app.database.connection import Connection
from app.database.sql_files import read_queries
from app.transfer.protocol.tables import BENCH_SCHEMA, SCHEMA

# The transfer's own schemas, which are not compared.
TRANSFER_SCHEMAS = (SCHEMA, BENCH_SCHEMA)


@dataclass(frozen=True)
class CatalogObject:
    """A database object of one side."""

    kind: str
    name: str
    definition: str
    table: str | None = None  # the transferred table that the object belongs to
    part: str = ""  # the object's name within this table
    is_valid: bool = True  # False for an index that is not built, or a constraint that is not validated


_TABLES = """
    SELECT pg_class.oid, nspname || '.' || relname FROM pg_class
    JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE nspname || '.' || relname = ANY (%(names)s)
"""
_PARTS = read_queries(__package__, "catalog_parts.sql")
_OTHERS = read_queries(__package__, "catalog_objects.sql")
# Exclude objects of the system, of extensions and of the transfer itself.
_FILTER = """
    SELECT name, definition FROM ({query}) AS object (name, definition, namespace, catalog, oid)
    LEFT JOIN pg_namespace ON pg_namespace.oid = namespace
    WHERE (namespace IS NULL OR nspname !~ '^pg_' AND nspname <> 'information_schema'
            AND nspname <> ALL (%(own)s))
        AND NOT EXISTS (SELECT FROM pg_depend
            WHERE classid = catalog::regclass AND objid = object.oid AND deptype = 'e')
"""


def read(
    connection: Connection, moved: Sequence[str], *, texts_comparable: bool
) -> dict[tuple[str, str], CatalogObject]:
    """Read the objects of one side.

    Args:
        connection: A session with an empty search path, as `Side.connect` opens it.
        moved: Qualified names of the transferred tables, whose parts are read. Missing tables are skipped.
        texts_comparable: Include the generated text of views and SQL function bodies. Set it only if both
            servers have the same major version, because the text differs between major versions.

    Returns:
        The objects by (kind, name).
    """
    tables: dict[int, str] = dict(connection.execute(_TABLES, {"names": list(moved)}).fetchall())
    parameters = {"tables": list(tables), "own": list(TRANSFER_SCHEMAS), "texts": texts_comparable}
    objects = [CatalogObject("moved table", name, "", table=name) for name in tables.values()]
    for kind, query in _PARTS.items():
        for oid, part, definition, valid in connection.execute(query, parameters):
            name = f"{tables[oid]}.{part}" if part else tables[oid]
            objects.append(CatalogObject(kind, name, definition, tables[oid], part or "", valid))
    for kind, query in _OTHERS.items():
        for name, definition in connection.execute(_FILTER.format(query=query), parameters):
            objects.append(CatalogObject(kind, name, definition))
    return {(item.kind, item.name): item for item in objects}
