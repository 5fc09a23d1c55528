"""SHA-256 checksums of rows and tables, computed on the server.

Equal values give equal checksums on servers of different versions, collations and defaults. For this, the
session's output settings are fixed, the columns are named explicitly, and the text of a record distinguishes
NULL (nothing) from an empty string (two quotes).
"""

from collections.abc import Sequence

from psycopg import sql

from app.database.connection import Connection

# Rows that are hashed together. Without buckets, the hashes of a table of 33 million rows would be one value
# of more than 1 GB, which is PostgreSQL's limit.
BUCKET_ROWS = 1_000

CANONICAL_SETTINGS = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",  # the shortest text that is parsed as the same number
    "bytea_output": "hex",
    "lc_monetary": "C",
    "row_security": "off",  # a policy that hides rows raises an error; the checksum would miss rows
    "search_path": "pg_catalog",  # values of types like regclass are printed with their schema
}

_TABLE_HASH = sql.SQL("""
    SELECT coalesce(sum(rows), 0)::bigint,
        encode(sha256(coalesce(string_agg(hash, ''::bytea ORDER BY bucket), ''::bytea)), 'hex')
    FROM (
        SELECT bucket, count(*) AS rows, sha256(string_agg(hash, ''::bytea ORDER BY place)) AS hash
        FROM (
            SELECT hash, place, (place - 1) / {size} AS bucket
            FROM (
                SELECT hash, row_number() OVER (ORDER BY hash) AS place
                FROM (SELECT {row_hash} AS hash FROM ONLY {table}) AS hashed
            ) AS placed
        ) AS numbered GROUP BY bucket
    ) AS buckets
""")


def use_canonical_form(connection: Connection) -> None:
    """Set the session's output settings to CANONICAL_SETTINGS.

    Afterwards the session must name tables with their schema: search_path is pg_catalog.
    """
    connection.execute(
        "SELECT set_config(name, value, false)"
        " FROM unnest(%(names)s::text[], %(values)s::text[]) AS setting (name, value)",
        {"names": [*CANONICAL_SETTINGS], "values": [*CANONICAL_SETTINGS.values()]},
    )


def row_hash_sql(columns: Sequence[str], *alias: str) -> str:
    """Return the SQL expression for the SHA-256 (bytea, 32 bytes) of a row's columns, in the given order.

    The session must have called `use_canonical_form`. Execute the statement without parameters: a column name
    may contain `%`.
    """
    row = ", ".join(sql.Identifier(*alias, name).as_string(None) for name in columns)
    return f"sha256(convert_to(ROW({row})::text, 'UTF8'))"


def table_hash_sql(schema: str, table: str, columns: Sequence[str]) -> str:
    """Return the query for a table's number of rows and its checksum (hex).

    The query sorts the hashes of the rows, hashes them in buckets of BUCKET_ROWS, and returns the SHA-256 of
    the bucket hashes. The checksum therefore depends on neither a key nor a collation, and duplicate rows
    count. Rows of inheriting tables and partitions are not included; check those tables separately.
    """
    return _TABLE_HASH.format(
        row_hash=sql.SQL(row_hash_sql(columns)),
        table=sql.Identifier(schema, table),
        size=sql.Literal(BUCKET_ROWS),
    ).as_string(None)
