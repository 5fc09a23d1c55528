"""One stretch of a table, copied in one transaction with the note that it is there."""

from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

import psycopg
from psycopg import sql

from app.errors import ConflictError
from app.transfer.protocol.endpoints import Side
from app.transfer.protocol.tables import SCHEMA, TableInfo
from app.transfer.relay.apply_cycle import bypass_fence, pipe_copy
from app.transfer.relay.user_triggers import triggers_disabled

Connection = psycopg.Connection[Any]

# What a row can meet that an earlier run has copied, or that has come since its snapshot.
ROW_CONFLICT_ERRORS = (
    psycopg.errors.UniqueViolation,
    psycopg.errors.ExclusionViolation,
    psycopg.errors.ForeignKeyViolation,
)

_SELECT_CHUNK = "SELECT {columns} FROM ONLY {table} WHERE ctid >= '({first},0)' AND ctid < '({end},0)'"

# The lock keeps the table unfinished until this stretch is committed. Who comes second to one finds it there.
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
    """Blocks of a table's file on legacy, the first and the one after the last."""

    table: TableInfo
    filenode: int
    first_block: int
    end_block: int

    @property
    def query(self) -> sql.Composed:
        """The rows in it, as the source's snapshot sees them."""
        return sql.SQL(_SELECT_CHUNK).format(
            columns=self.table.column_list(),
            table=self.table.identifier,
            first=sql.Literal(self.first_block),
            end=sql.Literal(self.end_block),
        )


class ConcurrentCopyError(ConflictError):
    """Another copy has gone on with this table; run the same command again."""


def copy_chunk(source: Connection, target: Connection, legacy: Side, chunk: Chunk) -> tuple[int, int]:
    """Copy one stretch and note it; rows copied, and rows left to the relay.

    Rows that an earlier run has met in another state are left to the relay, through the log. Raises
    OvertakenError, MovedOnError and psycopg's errors; then nothing of the stretch is there.
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
    target.execute("SET LOCAL synchronous_commit = off")  # rows and their note are lost together, if at all


def _pipe(source: Connection, target: Connection, chunk: Chunk, into: sql.Composable | None = None) -> int:
    table = chunk.table
    if into is None:
        into = sql.SQL("{} ({})").format(table.identifier, table.column_list())
    return pipe_copy(source, target, table, chunk.query, into)


def _record_chunk(target: Connection, chunk: Chunk, rows: int) -> None:
    what = {
        "table": chunk.table.name,
        "file": chunk.filenode,
        "first": chunk.first_block,
        "end": chunk.end_block,
        "rows": rows,
    }
    if target.execute(_RECORD_CHUNK, what).rowcount != 1:
        raise ConcurrentCopyError


def _merge(source: Connection, target: Connection, legacy: Side, chunk: Chunk) -> tuple[int, int]:
    """The same for rows that may be there already, or whose parents may be missing."""
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
    """The condition under which foreign keys hold; parents that come in a later stretch do not count yet."""
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
    """Put keys into the log, committed before the rows are: the relay waits for the copy to end."""
    if not keys:
        return
    with legacy.connect() as connection, connection.cursor() as cursor:
        cursor.executemany(
            f"INSERT INTO {SCHEMA}.marks (table_name, key) VALUES (%s, %s)",
            [(table.name, key) for key in keys],
        )
