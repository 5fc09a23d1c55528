"""Content compared by SHA-256, on the server: a row, and a whole table, in one canonical form.

Two servers of different versions, collations and defaults write the same text for the same values: the
session's output settings are fixed, columns are named explicitly, and a record's text keeps NULL (nothing)
apart from an empty string (two quotes).
"""

from collections.abc import Sequence

from psycopg import sql

from app.database.database import Connection

BUCKET_ROWS = 1_000  # rows; in one piece, the hashes of 33 million would exceed the gigabyte of one value

CANONICAL_SETTINGS = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",  # the shortest text that reads back as the same number
    "bytea_output": "hex",
    "lc_monetary": "C",
    "row_security": "off",  # a policy that hides rows is an error, not a smaller table
    "search_path": "pg_catalog",  # values of types like regclass are written with their schema
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
    """Fix how this session writes values; from here on tables must be named with their schema."""
    connection.execute(
        "SELECT set_config(name, value, false)"
        " FROM unnest(%(names)s::text[], %(values)s::text[]) AS setting (name, value)",
        {"names": [*CANONICAL_SETTINGS], "values": [*CANONICAL_SETTINGS.values()]},
    )


def row_hash_sql(columns: Sequence[str], *alias: str) -> str:
    """The expression for the SHA-256 (bytea, 32 bytes) of a row's columns, in the order given.

    It holds after `use_canonical_form`. Run it without parameters: a name may contain `%`.
    """
    row = ", ".join(sql.Identifier(*alias, name).as_string(None) for name in columns)
    return f"sha256(convert_to(ROW({row})::text, 'UTF8'))"


def table_hash_sql(schema: str, table: str, columns: Sequence[str]) -> str:
    """The query for a table's number of rows and its root (hex): one value for all that is in it.

    The rows' hashes in their own order, in buckets of BUCKET; the root is the SHA-256 of the buckets'. So
    neither a key nor a collation plays a part, and two equal rows are not one. Inheriting tables and
    partitions count for themselves.
    """
    return _TABLE_HASH.format(
        row_hash=sql.SQL(row_hash_sql(columns)),
        table=sql.Identifier(schema, table),
        size=sql.Literal(BUCKET_ROWS),
    ).as_string(None)
