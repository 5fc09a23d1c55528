"""Content hashes of a table, per bucket and per row. The servers compute them with SHA-256.

A bucket is a range of primary keys. The bounds of the buckets are taken from one side and used on both, so a
missing or extra row changes the hash of its own bucket only.
"""

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from app.database.checksum import row_hash_sql
from app.database.connection import Connection
from app.transfer.protocol.tables import SCHEMA, TableInfo

BUCKET_KEYS = 1_000
MAX_UNINDEXED_BUCKETS = 64  # if no index supports the key order, every bucket needs a scan of the table
QUERIES_IN_FLIGHT = 50  # pipelined queries per connection; together they wait for one round trip

PrimaryKey = tuple[str, ...]  # values as text, in the order of the key columns

_COLLATED = """
    SELECT attname FROM pg_attribute
    WHERE attrelid = %s::regclass AND attname = ANY (%s) AND attcollation <> 0
"""
_BOUNDS = """
    SELECT {text_key} FROM (
        SELECT {key}, row_number() OVER (ORDER BY {order}) AS place FROM ONLY {table}
    ) AS placed WHERE place % {size} = 0 ORDER BY place
"""
_DIGEST = """
    SELECT count(*), sha256(coalesce(string_agg(hash, ''::bytea ORDER BY {order}), ''::bytea))
    FROM (SELECT {key}, {hash} AS hash FROM ONLY {table} WHERE {between}) AS hashed
"""
_ROWS = "SELECT {text_key}, {hash} FROM ONLY {table} AS t WHERE {between}"
_ROWS_BY_KEY = """
    SELECT {text_key}, {hash} FROM ONLY {table} AS t
    JOIN (SELECT {typed_key} FROM jsonb_array_elements(%s::jsonb) AS wanted (k)) AS wanted
        ON ({t_key}) = ({wanted_key})
"""
_PENDING_KEYS = f"""
    SELECT DISTINCT key FROM {SCHEMA}.marks JOIN jsonb_array_elements(%s::jsonb) AS wanted (k)
        ON key = ARRAY(SELECT jsonb_array_elements_text(k))
    WHERE table_name = %s
"""


@dataclass(frozen=True)
class Bucket:
    """A range of keys: greater than `after`, up to and including `until`. None means no bound."""

    after: PrimaryKey | None
    until: PrimaryKey | None


class BucketReader:
    """Computes the hashes of one table through a session that uses the canonical text format."""

    def __init__(self, connection: Connection, table: TableInfo, collated_columns: Collection[str]) -> None:
        """Prepare the queries for a table.

        `collated_columns` are the key columns with a collation. They are compared with COLLATE "C" instead,
        because collations may differ between the sides.
        """
        self._connection = connection
        self._table = table
        self._hash = sql.SQL(row_hash_sql(table.columns).replace("%", "%%"))
        self._order = [
            sql.SQL('{} COLLATE "C"').format(sql.Identifier(column))
            if column in collated_columns
            else sql.Identifier(column)
            for column in table.key
        ]
        self._is_unindexed = bool(collated_columns)

    def buckets(self) -> list[Bucket]:
        """Divide the table into buckets of BUCKET_KEYS keys of this side, and return them in key order."""
        size = BUCKET_KEYS
        if self._is_unindexed:
            (rows,) = self._one(sql.SQL("SELECT count(*) FROM ONLY {}").format(self._table.identifier))
            size = max(BUCKET_KEYS, rows // MAX_UNINDEXED_BUCKETS)
        query = sql.SQL(_BOUNDS).format(
            text_key=self._table.text_key("placed"),
            key=self._table.key_list(),
            order=sql.SQL(", ").join(self._order),
            table=self._table.identifier,
            size=sql.Literal(size),
        )
        bounds = [tuple(key) for (key,) in self._connection.execute(query)]
        return [Bucket(after, until) for after, until in zip([None, *bounds], [*bounds, None], strict=True)]

    def digests(self, buckets: Sequence[Bucket]) -> list[tuple[int, bytes]]:
        """Return the number of rows and the SHA-256 of each bucket."""
        with self._connection.pipeline():
            answers = [self._query_bucket(_DIGEST, bucket) for bucket in buckets]
        return [answer.fetchone() or (0, b"") for answer in answers]

    def hash_bucket_rows(self, bucket: Bucket) -> dict[PrimaryKey, bytes]:
        """Return the SHA-256 of each row in the bucket, by key."""
        return {tuple(key): digest for key, digest in self._query_bucket(_ROWS, bucket)}

    def hash_rows(
        self, keys: Collection[PrimaryKey], columns: Sequence[str] | None = None
    ) -> dict[PrimaryKey, bytes]:
        """Return the SHA-256 of each existing row with one of the keys, over `columns` (default: all)."""
        hash_ = self._hash if columns is None else sql.SQL(row_hash_sql(columns).replace("%", "%%"))
        query = sql.SQL(_ROWS_BY_KEY).format(
            text_key=self._table.text_key("t"),
            hash=sql.SQL("(SELECT {} FROM (SELECT t.*) AS own)").format(hash_),
            table=self._table.identifier,
            typed_key=_typed_key(self._table),
            t_key=self._table.key_list("t"),
            wanted_key=self._table.key_list("wanted"),
        )
        rows = self._connection.execute(query, (_as_json(keys),))
        return {tuple(key): digest for key, digest in rows}

    def pending_keys(self, keys: Collection[PrimaryKey]) -> set[PrimaryKey]:
        """Return the keys that are pending in this side's change log."""
        rows = self._connection.execute(_PENDING_KEYS, (_as_json(keys), self._table.name))
        return {tuple(key) for (key,) in rows}

    def _query_bucket(self, template: str, bucket: Bucket) -> psycopg.Cursor[Any]:
        conditions: list[sql.Composable] = [sql.SQL("true")]
        values: list[str] = []
        for sign, bound in ((sql.SQL(">"), bucket.after), (sql.SQL("<="), bucket.until)):
            if bound is not None:
                typed = [sql.SQL(f"%s::{kind}") for kind in self._table.key_types]
                conditions.append(
                    sql.SQL("({}) {} ({})").format(
                        sql.SQL(", ").join(self._order), sign, sql.SQL(", ").join(typed)
                    )
                )
                values += bound
        query = sql.SQL(template).format(
            text_key=self._table.text_key("t"),
            key=self._table.key_list(),
            order=sql.SQL(", ").join(self._order),
            hash=self._hash,
            table=self._table.identifier,
            between=sql.SQL(" AND ").join(conditions),
        )
        return self._connection.execute(query, values)

    def _one(self, query: sql.Composed) -> Any:
        return self._connection.execute(query).fetchone()


def find_collated_columns(connections: Sequence[Connection], table: TableInfo) -> set[str]:
    """Return the key columns that have a collation on at least one of the connections."""
    parameters = (table.identifier.as_string(None), list(table.key))
    return {name for connection in connections for (name,) in connection.execute(_COLLATED, parameters)}


def batch_buckets(buckets: Sequence[Bucket], connection_count: int) -> Iterator[list[Sequence[Bucket]]]:
    """Yield rounds of batches, one batch of up to QUERIES_IN_FLIGHT buckets per connection."""
    for start in range(0, len(buckets), connection_count * QUERIES_IN_FLIGHT):
        end = min(len(buckets), start + connection_count * QUERIES_IN_FLIGHT)
        yield [
            buckets[first : min(end, first + QUERIES_IN_FLIGHT)]
            for first in range(start, end, QUERIES_IN_FLIGHT)
        ]


def _typed_key(table: TableInfo) -> sql.Composed:
    return sql.SQL(", ").join(
        sql.SQL(f"(k->>{place})::{kind} AS {{}}").format(sql.Identifier(column))
        for place, (column, kind) in enumerate(zip(table.key, table.key_types, strict=True))
    )


def _as_json(keys: Collection[PrimaryKey]) -> str:
    return json.dumps([list(key) for key in keys])
