"""Copying of one chunk of a table, in one transaction with the record that it is copied."""

from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

import psycopg
from psycopg import sql

from app.database.connection import Connection
from app.errors import ConflictError
from app.transfer.protocol.endpoints import Side
from app.transfer.protocol.tables import SCHEMA, TableInfo
from app.transfer.relay.apply_cycle import bypass_fence, pipe_copy
from app.transfer.relay.user_triggers import triggers_disabled

# Errors caused by rows on primary that an earlier run copied in another state, and by missing parent rows.
ROW_CONFLICT_ERRORS = (
    psycopg.errors.UniqueViolation,
    psycopg.errors.ExclusionViolation,
    psycopg.errors.ForeignKeyViolation,
)

_SELECT_CHUNK = "SELECT {columns} FROM ONLY {table} WHERE ctid >= '({first},0)' AND ctid < '({end},0)'"

# FOR SHARE keeps the table unfinished until this chunk is committed. A second copy of the same chunk inserts
# no row because of ON CONFLICT, which the caller detects.
_RECORD_CHUNK = f"""
    INSERT INTO {SCHEMA}.stretches (table_name, first_block, end_block, rows)
    SELECT table_name, %(first)s, %(end)s, %(rows)s
    FROM (
        SELECT table_name FROM {SCHEMA}.copied
        WHERE table_name = %(table)s AND file = %(file)s AND finished_at IS NULL FOR SHARE
    ) AS unfinished
    ON CONFLICT DO NOTHING
"""
_MERGE = """
    WITH inserted AS (
        INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE
        SELECT {columns} FROM pg_temp.{stage} AS staged WHERE {has_parents}
        ON CONFLICT DO NOTHING RETURNING {key}
    )
    SELECT {text_key} FROM pg_temp.{stage} AS staged
    WHERE NOT EXISTS (SELECT FROM inserted WHERE ({inserted_key}) = ({staged_key}))
"""
_REFERENCES = """
    SELECT conname, nspname, relname, child.attname, parent.attname
    FROM pg_constraint
    CROSS JOIN LATERAL unnest(conkey, confkey) WITH ORDINALITY AS pair (child, parent, place)
    JOIN pg_attribute AS child ON child.attrelid = conrelid AND child.attnum = pair.child
    JOIN pg_attribute AS parent ON parent.attrelid = confrelid AND parent.attnum = pair.parent
    JOIN pg_class ON pg_class.oid = confrelid JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE contype = 'f' AND conrelid = %s::regclass ORDER BY conname, place
"""
_STAGING_TABLE = sql.Identifier("frontdesk_transfer_stage")


@dataclass(frozen=True)
class Chunk:
    """A range of blocks in a table's file on legacy."""

    table: TableInfo
    filenode: int  # identifies the file, because block numbers are valid for one file only
    first_block: int
    end_block: int  # exclusive

    @property
    def query(self) -> sql.Composed:
        """The SELECT statement for the rows of the chunk, to be run in the source's snapshot."""
        return sql.SQL(_SELECT_CHUNK).format(
            columns=self.table.column_list(),
            table=self.table.identifier,
            first=sql.Literal(self.first_block),
            end=sql.Literal(self.end_block),
        )


class ConcurrentCopyError(ConflictError):
    """Another copy has continued with this table; run the same command again."""


def copy_chunk(source: Connection, target: Connection, legacy: Side, chunk: Chunk) -> tuple[int, int]:
    """Copy one chunk and record it.

    Rows that conflict with rows of an earlier run, or whose parents are missing, are not copied. Their keys
    are added to legacy's change log, so that the relay applies them. After an error, no row of the chunk is
    on primary.

    Returns:
        The number of rows copied, and the number of rows left to the relay.

    Raises:
        ConcurrentCopyError: Another copy has recorded this chunk, or has finished or restarted the table.
        psycopg.Error: The copy failed.
    """
    try:
        with target.transaction():
            _prepare(target)
            with triggers_disabled(target, [chunk.table]):
                rows = _pipe(source, target, chunk)
            _record_chunk(target, chunk, rows)
    except ROW_CONFLICT_ERRORS:
        return _merge(source, target, legacy, chunk)
    return rows, 0


def _prepare(target: Connection) -> None:
    bypass_fence(target)
    # Safe for the copy: if a crash loses the rows, it also loses the record of the chunk.
    target.execute("SET LOCAL synchronous_commit = off")


def _pipe(source: Connection, target: Connection, chunk: Chunk, into: sql.Composable | None = None) -> int:
    table = chunk.table
    if into is None:
        into = sql.SQL("{} ({})").format(table.identifier, table.column_list())
    return pipe_copy(source, target, table, chunk.query, into)


def _record_chunk(target: Connection, chunk: Chunk, rows: int) -> None:
    parameters = {
        "table": chunk.table.name,
        "file": chunk.filenode,
        "first": chunk.first_block,
        "end": chunk.end_block,
        "rows": rows,
    }
    if target.execute(_RECORD_CHUNK, parameters).rowcount != 1:
        raise ConcurrentCopyError


def _merge(source: Connection, target: Connection, legacy: Side, chunk: Chunk) -> tuple[int, int]:
    """Copy a chunk by way of a temporary table, skipping rows that exist or whose parents are missing.

    Returns the same as `copy_chunk`.
    """
    table = chunk.table
    with target.transaction():
        _prepare(target)
        target.execute(
            sql.SQL("CREATE TEMPORARY TABLE {} ON COMMIT DROP AS SELECT {} FROM {} WITH NO DATA").format(
                _STAGING_TABLE, table.column_list(), table.identifier
            )
        )
        rows = _pipe(source, target, chunk, sql.SQL("pg_temp.{}").format(_STAGING_TABLE))
        with triggers_disabled(target, [table]):
            merge = sql.SQL(_MERGE).format(
                table=table.identifier,
                columns=table.column_list(),
                stage=_STAGING_TABLE,
                has_parents=_parents_exist_condition(target, table),
                key=table.key_list(),
                text_key=table.text_key("staged"),
                inserted_key=table.key_list("inserted"),
                staged_key=table.key_list("staged"),
            )
            left = [key for (key,) in target.execute(merge)]
        _add_to_change_log(legacy, table, left)
        _record_chunk(target, chunk, rows - len(left))
    return rows - len(left), len(left)


def _parents_exist_condition(target: Connection, table: TableInfo) -> sql.Composable:
    """Return the SQL condition that every referenced row exists on primary.

    Parents within the same chunk, or in later chunks, do not count.
    """
    conditions: list[sql.Composable] = [sql.SQL("true")]
    pairs = target.execute(_REFERENCES, (table.identifier.as_string(None),)).fetchall()
    for (_, schema, name), columns in groupby(pairs, key=itemgetter(0, 1, 2)):
        known = [
            (sql.Identifier("staged", child), sql.Identifier("p", parent)) for *_, child, parent in columns
        ]
        conditions.append(
            sql.SQL("({} OR EXISTS (SELECT FROM {} AS p WHERE {}))").format(
                sql.SQL(" OR ").join(sql.SQL("{} IS NULL").format(child) for child, _ in known),
                sql.Identifier(schema, name),
                sql.SQL(" AND ").join(sql.SQL("{} = {}").format(parent, child) for child, parent in known),
            )
        )
    return sql.SQL(" AND ").join(conditions)


def _add_to_change_log(legacy: Side, table: TableInfo, keys: list[list[str]]) -> None:
    """Add keys to the change log of the source, in a transaction that commits before the chunk does.

    The early commit is safe because the relay applies nothing until the copy is complete.
    """
    if not keys:
        return
    with legacy.connect() as connection, connection.cursor() as cursor:
        cursor.executemany(
            f"INSERT INTO {SCHEMA}.marks (table_name, key) VALUES (%s, %s)",
            [(table.name, key) for key in keys],
        )
